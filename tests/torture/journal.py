"""What has happened: every fault with its time, and every failure as soon as it is known.

    journal = Journal(folder)
    journal.note_fault("worker killed", "process 4711 of machine a")
    journal.fail(Harm.LOST, "trial 7 is not there")     # printed at once

`faults.log` in the folder explains afterwards what a harmed trial has met.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from datetime import datetime
from enum import StrEnum
from pathlib import Path


class Harm(StrEnum):
    """What must not happen, whatever falls."""

    LOST = "lost"
    DOUBLED = "doubled"
    DIFFERENT = "different"
    TOO_MANY = "too many"
    FAILED = "failed"  # a trial, though nothing is wrong with it
    TRACEBACK = "tracebacks"
    HUNG = "hung"
    UNASKED = "ended unasked"  # a supervisor that nobody has ended
    FALSE_END = "false ends"  # it says that all is done, and the database says otherwise
    MIXED = "mixed"  # trials of changed code beside others'
    TORTURE = "torture's own"  # a fault that did not come about: a mistake in here


class Journal:
    """The record of one turn."""

    def __init__(self, folder: Path, turn: str) -> None:
        self.turn = turn
        self.path = folder / "faults.log"
        self.faults: Counter[str] = Counter()
        self.harms: Counter[Harm] = Counter()
        self._lock = threading.Lock()
        self._is_shown = False  # a line of progress stands in the terminal

    def write(self, words: str) -> None:
        """Add a line with the time to the file."""
        now = datetime.now().isoformat(sep=" ", timespec="milliseconds")
        with self._lock, self.path.open("a", encoding="utf-8") as file:
            file.write(f"{now} {words}\n")

    def note_fault(self, kind: str, words: str) -> None:
        """Count a fault that came about, and write what it hit."""
        self.faults[kind] += 1
        self.write(f"{kind}: {words}")

    def fail(self, harm: Harm, words: str) -> None:
        """Count a failure and say it now."""
        self.harms[harm] += 1
        self.write(f"FAILURE {harm}: {words}")
        self.say(f"FAILURE, {harm}: {words}")

    def say(self, words: str) -> None:
        """Print lines, above the line of progress."""
        clear = "\r\033[K" if self._is_shown else ""
        self._is_shown = False
        print(f"{clear}{datetime.now():%H:%M:%S} {self.turn}  {words}", flush=True)

    def show(self, words: str) -> None:
        """Rewrite the line of progress; nothing where the output is no terminal."""
        if sys.stdout.isatty():
            print(f"\r\033[K{self.turn}  {words}", end="", flush=True)
            self._is_shown = True


class Clock:
    """Tells once a minute."""

    def __init__(self, seconds: float = 60.0) -> None:
        self.seconds = seconds
        self._next = time.monotonic() + seconds

    def has_struck(self) -> bool:
        if time.monotonic() < self._next:
            return False
        self._next += self.seconds
        return True
