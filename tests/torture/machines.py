"""Machines that run a study: each is a supervisor with its workers and a folder RUNS of its own.

    machine = Machine(name="a", study=path, runs=folder / "a", url=url, workers=2, host=folder)
    machine.start(24)                 # make study TRIALS=24
    machine.workers()[0].kill()
    machine.kill_all()                # as a power cut does

Two machines are played on one. What tells machines apart is the boot and the folder of the marks
that living processes hold (`search.trials.owner`); a played machine has both of its own. So nobody
can know that a worker of the other one is dead: its lease has to run out, as between real ones.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import psutil

from search.variables import VARIABLES

ROOT = Path(__file__).parents[2]
MINE = "GENSTUDY_TORTURE"  # a variable that tells a machine's processes from all others
DROPPED = (*VARIABLES, "GENSTUDY_GIVEN", "MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES")
DROPPED += ("DATABASE", "LAYOUT")
PATIENCE = 120.0  # seconds that a supervisor may take to end

# Runs before every program of a played machine: Python imports it first of all.
HOST = """
import sys
from pathlib import Path

sys.path.insert(0, {root!r})
from search.trials import owner

owner.BOOT = Path({place!r}) / "boot"
owner.MARKS = Path({place!r})
del sys.path[0]
"""


def make_host(place: Path) -> Path:
    """Make a folder that plays a machine, and return it: with a boot of its own."""
    place.mkdir(parents=True)
    (place / "boot").write_text(f"{uuid4()}\n")
    program = HOST.format(root=str(ROOT), place=str(place))
    (place / "sitecustomize.py").write_text(program)
    return place


@dataclass
class Run:
    """One call of the command: how many TRIALS it asked for, and whether we have ended it.

    began, ended: when that was seen, on the monotonic clock
    """

    process: subprocess.Popen[str]
    trials: int
    is_ended_by_us: bool = False
    ended: float | None = None
    began: float = field(default_factory=time.monotonic)


@dataclass(kw_only=True)
class Machine:
    """A machine, played or real.

    host: what plays it (`make_host`); None: this machine itself
    in_use: held by the fault that has it in its hands
    is_off: nobody starts its supervisor
    files: the folder that FILES names; None: it names none
    """

    name: str
    study: Path
    runs: Path
    url: str
    workers_wanted: int
    host: Path | None = None
    top: int = 1
    files: Path | None = None
    run: Run | None = None
    is_off: bool = False
    in_use: threading.Lock = field(default_factory=threading.Lock)
    mark: str = field(default_factory=lambda: uuid4().hex)

    @property
    def log(self) -> Path:
        return self.runs.parent / f"{self.runs.name}.log"

    def environment(self, **variables: object) -> dict[str, str]:
        """Return what the machine's programs see."""
        kept = {name: value for name, value in os.environ.items() if name not in DROPPED}
        given = {"NAME": self.study, "RUNS": self.runs, "STORAGE": self.url, **variables}
        if self.files is not None:
            given["FILES"] = self.files
        texts = {name: str(value) for name, value in given.items()} | {MINE: self.mark}
        if self.host is not None:
            texts["PYTHONPATH"] = str(self.host)
        return {**kept, **texts, "COLUMNS": "200", "PYTHONWARNINGS": "default"}

    def launch(self, words: Sequence[str], log: Path, **variables: object) -> subprocess.Popen[str]:
        """Start a program of Python on this machine; what it writes is appended to ``log``."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as file:
            return subprocess.Popen(
                [sys.executable, *words],
                env=self.environment(**variables),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                text=True,
                cwd=ROOT,
                start_new_session=True,
            )

    def start(self, trials: int) -> None:
        """Start the supervisor."""
        process = self.launch(
            ["-m", "search", "study"], self.log,
            TRIALS=trials, WORKERS=self.workers_wanted, TOP=self.top, GPUS="none", DATA="digits",
        )  # fmt: skip
        self.run = Run(process, trials)

    def is_running(self) -> bool:
        return self.run is not None and self.run.process.poll() is None

    def processes(self) -> list[psutil.Process]:
        """Return all processes of this machine, also those whose supervisor is gone."""
        found = []
        wanted = f"{MINE}={self.mark}".encode()
        for process in psutil.process_iter():
            with suppress(OSError, psutil.NoSuchProcess):
                if wanted in Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0"):
                    found.append(process)
        return found

    def workers(self) -> list[psutil.Process]:
        """Return the processes of the workers."""
        found = []
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                if "trainer" in process.cmdline():
                    found.append(process)
        return found

    def kill_all(self) -> int:
        """Kill everything at once, as a power cut does; return how many processes it were."""
        if self.run is not None:
            self.run.is_ended_by_us = True
        count = 0
        while found := [each for each in self.processes() if _is_alive(each)]:
            for process in found:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
                    count += 1
            time.sleep(0.02)  # psutil would take their exit codes away from who started them
        return count

    def kill_supervisor(self) -> None:
        if (run := self.run) is not None:
            run.is_ended_by_us = True
            run.process.kill()
            run.process.wait()

    def interrupt(self, number: signal.Signals) -> float:
        """Send the supervisor a signal; return the seconds that it took to end, and at most
        `PATIENCE`."""
        began = time.monotonic()
        if (run := self.run) is not None:
            run.is_ended_by_us = True
            run.process.send_signal(number)
            with suppress(subprocess.TimeoutExpired):
                run.process.wait(PATIENCE)
        return time.monotonic() - began


def _is_alive(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def send(processes: Sequence[psutil.Process], number: signal.Signals) -> None:
    """Send a signal to those that are still there."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)
