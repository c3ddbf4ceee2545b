"""Processes that are measured: started with a clean environment, asked, timed, ended.

with Team([python, "-m", "tests.benchmarks.trainee", "ours"], count=2, log=path) as team:
    answers, seconds = team.ask({"job": "train", ...})     # all at once, until the last is done
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from search.supervisor.process import ONE_THREAD
from search.variables import VARIABLES

ROOT = Path(__file__).parents[2]
PYTHON = sys.executable
OURS_ALONE = ("GENSTUDY_GIVEN", "MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MAKEOVERRIDES")
PATIENCE = 3600.0  # seconds for the longest single measurement


class MeasurementFailed(Exception):
    """A measured process did not do its work; the message holds the end of its log."""


def environment(
    given: Mapping[str, object] | None = None, *, threads: int | None = None
) -> dict[str, str]:
    """What a measured process sees: no variable of this run, and ``threads`` (None: all)."""
    dropped = {*VARIABLES, *OURS_ALONE, "ROWS", "FULL", "OUT", *ONE_THREAD}
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    limited = {} if threads is None else dict.fromkeys(ONE_THREAD, str(threads))
    more = {name: str(value) for name, value in (given or {}).items()}
    return {**kept, "PYTHONPATH": str(ROOT), **limited, **more}


def start(command: Sequence[str], *, log: Path, env: Mapping[str, str], piped: bool = True) -> Any:
    """A process in a session of its own, at the repository's root; its errors go to ``log``."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as errors:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
            stdout=subprocess.PIPE if piped else errors,
            stderr=errors,
            text=True,
            cwd=ROOT,
            env=dict(env),
            start_new_session=True,
        )


def run_all(processes: Sequence[Any], log: Path, *, patience: float = PATIENCE) -> None:
    """Wait until all have ended well; otherwise end the rest and raise."""
    deadline = time.monotonic() + patience
    try:
        for process in processes:
            process.wait(max(0.1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise MeasurementFailed(f"not done after {patience:.0f} s\n{tail(log)}") from None
    finally:
        for process in processes:
            end(process)
    if any(process.returncode for process in processes):
        raise MeasurementFailed(tail(log))


def end(process: Any) -> None:
    """Leave no process of its session behind."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, 15)
    with suppress(subprocess.TimeoutExpired):
        process.wait(10.0)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, 9)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(BrokenPipeError):  # a job that nobody has read
                pipe.close()


def tail(log: Path, lines: int = 15) -> str:
    if not log.exists():
        return "no log"
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


class Team:
    """Equal processes that answer jobs, JSON line by JSON line, all at the same time."""

    def __init__(self, command: Sequence[str], *, count: int, log: Path, env: Any) -> None:
        self.log = log
        self.processes = [start(command, log=log, env=env) for _ in range(count)]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def ask(
        self, job: Mapping[str, Any], *, first: int | None = None
    ) -> tuple[list[dict[str, Any]], float]:
        """Every process does ``job``; their answers, and the seconds until the last had it.

        A job holds ``seed``: process k gets ``seed + k``.
        first: only so many processes do it, the others wait; None: all do
        """
        asked = self.processes[:first]
        watchdog = threading.Timer(PATIENCE, self.close)
        watchdog.start()
        began = time.perf_counter()
        try:
            for index, process in enumerate(asked):
                seeded = {**job, "seed": job.get("seed", 0) + index}
                process.stdin.write(json.dumps(seeded) + "\n")
                process.stdin.flush()
            lines = [process.stdout.readline() for process in asked]
        except BrokenPipeError:
            lines = [""]
        finally:
            watchdog.cancel()
        seconds = time.perf_counter() - began
        if not all(lines):
            raise MeasurementFailed(tail(self.log))
        return [json.loads(line) for line in lines], seconds

    def close(self) -> None:
        for process in self.processes:
            end(process)
