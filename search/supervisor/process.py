"""The operating system's side of a worker: its process, environment and log.

A process is told what to do through its standard input. So the first one is started before the
supervisor itself has imported PyTorch, and both get ready at the same time.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1"
)
# glibc gives every large tensor back to the system and gets it zeroed anew, page by page, in
# the next step: a fifth of an epoch's time. Other systems' allocators do not read these.
KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**31),
}
# A worker imports from where its supervisor does. Without that, Python would look first in the
# folder in which it starts, where a project may have a `torch.py` or a `models/` of its own.
WORKER = (
    sys.executable,
    "-P",
    "-c",
    "import sys; sys.path[:] = sys.argv[2:]; "
    "from search.__main__ import main; sys.exit(main(sys.argv[1:2]))",
    "trainer",
)
SECRET = (
    "STORAGE",
    "NOTIFY",
    "WARM",
    "MAKEFLAGS",
    "MFLAGS",
    "MAKEOVERRIDES",
)  # make repeats its command line

_early: list[subprocess.Popen[str]] = []


def start_process(log: Path) -> subprocess.Popen[str]:
    """Return a worker's process that writes its log to ``log``: the early one, if it still waits.

    The early one was started before the log's name was known. Its first job tells it.
    """
    while _early:
        process = _early.pop()
        if process.poll() is None:
            return process
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as errors:
        return _start(errors)


def start_early() -> None:
    """Start the first worker's process now."""
    with tempfile.TemporaryFile("w") as errors:
        _early.append(_start(errors))


def end_early() -> None:
    """End the early process if nobody wanted it."""
    for process in _early:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()
    _early.clear()


def _start(errors: IO[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*WORKER, *(str(Path(entry).absolute()) for entry in sys.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        env={**KEEP_MEMORY, **_without_secrets(os.environ), **ONE_THREAD},
        start_new_session=True,
    )


def _without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """The database's address goes through the pipe, not through a readable environment."""
    return {name: value for name, value in environment.items() if name not in SECRET}
