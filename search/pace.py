"""How fast a study is, and how long its search still takes.

    status = WorkerStatus("cpu", "trial", 7, epochs=20, since=now)
    status.note_epoch(1, value=0.1, seconds=4.9, now=now)
    seconds_left([status], costs=[90.0], unstarted=12, others=0, now=now)

A running trial takes as long as its remaining epochs. A trial that has not begun takes the mean
time of those that ended, so that pruning counts. The worker that is free first takes the next one.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

EXACT = 10_000  # trials that are handed out one by one; of more, the mean is near enough


@dataclass
class WorkerStatus:
    """The present work of one worker.

    what: in words; number: of its trial; repeat: which of its seeds
    epoch, epochs: done, and at most; value: the last one
    seconds: of the last epoch; since: when the trial began; turned: when its last epoch ended; both
    on the monotonic clock
    pace: seconds an epoch, what lies between epochs included; of the trial before, until its own is
    known; resumed: epochs that an earlier run had done
    most: seconds that the trial may take
    """

    device: str
    what: str = "starting"
    number: int | None = None
    repeat: int = 1
    epoch: int = 0
    epochs: int = 0
    value: float | None = None
    seconds: float = 0.0
    since: float = 0.0
    turned: float = 0.0
    pace: float = 0.0
    resumed: int = 0
    most: float = math.inf

    @property
    def trains(self) -> bool:
        """Whether it is at a trial of the search."""
        return self.what == "trial"

    def note_epoch(self, epoch: int, *, value: float, seconds: float, now: float) -> None:
        """Note the end of an epoch."""
        between = now - self.turned if self.turned else seconds
        self.epoch, self.value, self.seconds = epoch, value, seconds
        self.pace, self.turned = max(seconds, between), now

    def seconds_left(self, now: float) -> float | None:
        """Return how long the trial takes at most; None before its first epoch."""
        if not self.turned:
            return None
        left = (self.epochs - self.epoch) * self.pace - (now - self.turned)
        return max(0.0, min(left, self.most - (now - self.since)))


def epoch_pace(statuses: Iterable[WorkerStatus], now: float) -> float | None:
    """Return the seconds from one epoch to the next, all workers together; None if nobody trains
    or no epoch has ended. An epoch that takes longer than the one before counts as it is."""
    rates = [
        1 / max(status.pace, now - (status.turned or status.since), 1e-9)
        for status in statuses
        if status.trains and status.pace
    ]
    return 1 / sum(rates) if rates else None


def seconds_left(
    statuses: Sequence[WorkerStatus],
    *,
    costs: Sequence[float],
    unstarted: int,
    others: int,
    now: float,
) -> float | None:
    """Return how long the search still takes; None while that cannot be said.

    costs: seconds of each trial that ended while we watched, from its first epoch on
    unstarted: trials that nobody has begun; others: those that run on other machines
    """
    running = [status for status in statuses if status.trains]
    if not running:
        return None
    cost = sum(costs) / len(costs) if costs else None
    if cost is None:
        paces = [min(s.epochs * s.pace, s.most) for s in running if s.turned]
        cost = sum(paces) / len(paces) if paces else None
    free: list[float] = []  # in how many seconds each worker takes its next trial
    for status in running:
        left = status.seconds_left(now)
        if left is None and cost is not None:
            left = max(0.0, cost - (now - status.since))
        if left is None:
            return None
        free.append(left)
    if unstarted and cost is None:
        return None
    mean = cost or 0.0
    free += [mean / 2] * others
    free += [0.0] * sum(status.number is None for status in statuses)
    if unstarted > EXACT:
        return (sum(free) + unstarted * mean) / len(free)
    heapq.heapify(free)
    for _ in range(unstarted):
        heapq.heapreplace(free, free[0] + mean)
    return max(free)
