"""The project's own tests that have something to say about a GPU.

python -m tests.gpu --only suite ...
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.gpu.part import Row, Settings

ROOT = Path(__file__).parents[2]
FILES = ("test_graphs.py", "test_packing.py", "test_balance.py", "test_training.py")
PLAIN = ("-o", "addopts=", "-o", "filterwarnings=", "-p", "no:cacheprovider", "-q", "-n", "0")


def measure(settings: Settings) -> Iterator[Row]:
    for file in FILES[: 1 if settings.tiny else None]:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *PLAIN, str(ROOT / "tests" / file)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        lines = done.stdout.strip().splitlines() or ["no output"]
        if done.returncode:
            print(done.stdout)
        yield Row(name=file, found=lines[-1].strip("= "), ok=done.returncode == 0)
