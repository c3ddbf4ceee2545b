"""Which trials each worker is at, since when, and which worker is too long at its own.

running = RunningTrials()
running.begin(7)
running.is_late(limit)     # whether the worker still does not end it, long after the limit
running.only()             # 7: the trial that it is late with
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

HANG = 30.0  # seconds beyond TRIAL_MINUTES after which a worker cannot be waiting for its epoch


@dataclass
class RunningTrials:
    """The trials that one worker is at.

    since: trial -> when it began; heard: when the worker last said something of any; both on the
        monotonic clock
    several: whether it has ever been at more than one
    """

    since: dict[int, float] = field(default_factory=dict)
    heard: float = 0.0
    several: bool = False

    def begin(self, number: int) -> None:
        """Take in that a trial begins."""
        self.since[number] = self.heard = time.monotonic()
        self.several = self.several or len(self.since) > 1

    def end(self, number: int) -> None:
        """Take in that the worker is at a trial no more."""
        self.since.pop(number, None)
        self.heard = time.monotonic()

    def hear(self) -> None:
        """Take in that the worker says something."""
        self.heard = time.monotonic()

    def only(self) -> int | None:
        """Return the trial that the worker is at; None if it is at several, or at none."""
        return next(iter(self.since)) if len(self.since) == 1 else None

    def is_late(self, limit: float) -> bool:
        """Whether the worker does not end its trial, long after the ``limit`` in seconds.

        One that has several trains them in turn, so that what it says of any of them counts.
        """
        if not self.several:
            return any(time.monotonic() - begun > limit + HANG for begun in self.since.values())
        silent = time.monotonic() - self.heard
        return bool(self.since) and silent > limit * len(self.since) + HANG
