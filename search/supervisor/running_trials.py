"""Which trials each worker trains, since when, and which worker takes too long.

running = RunningTrials()
running.begin(7)
running.is_late(limit)     # whether the worker still has not ended it, long after the limit
running.only()             # 7: the trial that it is late with
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

HANG = 30.0  # seconds beyond TRIAL_MINUTES after which a worker cannot be waiting for its epoch


@dataclass
class RunningTrials:
    """The trials of one worker.

    since: trial -> when it began; heard: when the worker last reported anything; both on the
        monotonic clock
    several: whether the worker has ever held more than one
    """

    since: dict[int, float] = field(default_factory=dict)
    heard: float = 0.0
    several: bool = False

    def begin(self, number: int) -> None:
        """Note that a trial begins."""
        self.since[number] = self.heard = time.monotonic()
        self.several = self.several or len(self.since) > 1

    def end(self, number: int) -> None:
        """Note that the worker has left a trial."""
        self.since.pop(number, None)
        self.heard = time.monotonic()

    def hear(self) -> None:
        """Note that the worker has reported something."""
        self.heard = time.monotonic()

    def only(self) -> int | None:
        """Return the worker's trial; None if it has several, or none."""
        return next(iter(self.since)) if len(self.since) == 1 else None

    def is_late(self, limit: float) -> bool:
        """Whether the worker has not ended its trial, long after the ``limit`` in seconds.

        A worker with several trials trains them in turn, so a report on any of them counts.
        """
        if not self.several:
            return any(time.monotonic() - begun > limit + HANG for begun in self.since.values())
        silent = time.monotonic() - self.heard
        return bool(self.since) and silent > limit * len(self.since) + HANG
