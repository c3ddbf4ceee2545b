"""Rows `start-up`: from `make study` to the first epoch on the screen.

    make bench ROWS=start-up

The environment is current, the file cache warm and the images are cached under RUNS, of which
nothing else is left from the run before. The command runs in a terminal of its own, as a person
would see it. The peer's figure is what any script on the same libraries pays before its first
line of work: `import torch, torchvision, optuna` in a fresh process.
"""

from __future__ import annotations

import functools
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.processes import PYTHON, ROOT, MeasurementFailed, end, environment
from tests.benchmarks.rows import Row
from tests.benchmarks.sizes import Settings
from tests.benchmarks.steps import Step

TARGET = 2.0
PATIENCE = 180.0  # seconds
IMPORTS = "import torch, torchvision, optuna; print('imported', flush=True)"
# The display is painted four times a second: on the digits it may skip the first epochs.
EPOCH = re.compile(rb"epoch +[1-9][0-9]*/|trial +[0-9]+ +(complete|pruned)")
EXPECTED = {"digits": 14.0, "fashion_mnist": 20.0, "imports": 8.0}


class StartUp:
    name = "start-up"

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.sets = ("digits", "fashion_mnist") if settings.sizes.images is None else ("digits",)
        self.seconds: dict[str, list[float]] = defaultdict(list)

    def steps(self) -> list[Step]:
        warm = [
            Step(what=f"{what}, to warm the file cache", seconds=EXPECTED[what], run=run)
            for what in (*self.sets, "imports")
            for run in [functools.partial(self._measure, what, -1)]
        ]
        return warm + [
            Step(
                what=what if what == "imports" else f"make study, {what}",
                seconds=EXPECTED[what],
                run=functools.partial(self._measure, what, repeat),
            )
            for repeat in range(self.settings.sizes.start_repeats)
            for what in (*self.sets, "imports")
        ]

    def _measure(self, what: str, repeat: int) -> str:
        if what == "imports":
            seconds = until_shown([PYTHON, "-c", IMPORTS], re.compile(rb"imported"), environment())
        else:
            folder = self.settings.folder / f"start-{what}"
            forget_all_but_images(folder)
            seconds = until_shown(
                ["make", "--no-print-directory", "study", f"VENV={venv()}"],
                EPOCH,
                environment(
                    {
                        "GENSTUDY_GIVEN": "",
                        "RUNS": folder,
                        "DATA": what,
                        "DATA_ROOT": self.settings.data_root,
                        "GPUS": "none",
                    }
                ),
                words=("NAME=cae",),
            )
        if repeat >= 0:
            self.seconds[what].append(seconds)
        return f"{seconds:.2f} s"

    def rows(self) -> list[Row]:
        return [
            Row(
                section=self.name,
                what=f"make study, {what}",
                peer="import torch, torchvision, optuna",
                ours=median(self.seconds[what]),
                theirs=median(self.seconds["imports"]),
                unit="s",
                more_is_better=False,
                target=TARGET,
                note="until the first epoch is shown",
            )
            for what in self.sets
        ]

    def close(self) -> None:
        pass


def forget_all_but_images(runs: Path) -> None:
    for part in runs.iterdir() if runs.exists() else ():
        if part.is_dir() and part.name != "cache":
            shutil.rmtree(part)
        elif part.is_file():
            part.unlink()


def venv() -> Path:
    """The environment that runs this, so that make installs nothing."""
    return Path(sys.executable).parent.parent


def until_shown(
    command: Sequence[str], wanted: re.Pattern[bytes], env: Any, *, words: Sequence[str] = ()
) -> float:
    """Seconds from the start of ``command`` until ``wanted`` stands on its terminal; then it ends.

    Control sequences are taken out first: a live display paints over itself.
    """
    ours, theirs = pty.openpty()
    env = {**env, "TERM": "xterm-256color", "COLUMNS": "200", "LINES": "50"}
    began = time.perf_counter()
    process = subprocess.Popen(
        [*command, *words],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        cwd=ROOT,
        env=env,
        start_new_session=True,
    )
    os.close(theirs)
    try:
        return _watch(ours, wanted, began)
    finally:
        _finish(process, ours)


def _watch(terminal: int, wanted: re.Pattern[bytes], began: float) -> float:
    shown = b""
    while (passed := time.perf_counter() - began) < PATIENCE:
        if not select.select([terminal], [], [], 1.0)[0]:
            continue
        try:
            new = os.read(terminal, 65536)
        except OSError:  # the other end is closed: the command has ended
            break
        shown += new
        if wanted.search(re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", shown)):
            return time.perf_counter() - began
    text = shown.decode(errors="replace")[-2000:]
    raise MeasurementFailed(f"{wanted.pattern!r} was not shown within {passed:.0f} s:\n{text}")


def _finish(process: subprocess.Popen[bytes], terminal: int) -> None:
    """As Ctrl-C would, then harder; what it still prints must not block it."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    deadline = time.monotonic() + 20
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError):
            if select.select([terminal], [], [], 0.1)[0]:
                os.read(terminal, 65536)
    os.close(terminal)
    end(process)
