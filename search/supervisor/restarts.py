"""When a worker that has died is started again: at once, after a pause, or not at all.

    restarts.note_work(worker.index)         # it has begun a trial, a retraining or an export
    restarts.note_death(worker.index)        # when it is due; None: it is given up
    restarts.take_due()                      # those whose pause is over

A worker that dies at work is replaced at once: the queue gives up a trial that kills its workers. A
worker that dies before it has begun any work would be replaced a thousand times a minute, by
processes that die in the same way. So the pause doubles with each of its deaths, and after `MOST`
deaths the other workers go on without it.
"""

from __future__ import annotations

import time

FIRST, LONGEST = 1.0, 60.0  # seconds: the pause after the second death, and the longest pause
MOST = 8  # deaths in a row before any work: a machine that is short of memory for a minute recovers
MOST_AT_START = 3  # the same while no worker of the run was ever ready: waiting would not help


class Restarts:
    """The deaths of a run's workers."""

    def __init__(self) -> None:
        self.deaths: dict[int, int] = {}  # by worker: deaths in a row, before any work
        self.given_up: set[int] = set()
        self._due: dict[int, float] = {}  # on the monotonic clock

    def note_work(self, index: int) -> None:
        """Note that a worker has begun to work."""
        self.deaths.pop(index, None)

    def note_death(self, index: int, *, at_start: bool) -> float | None:
        """Return in how many seconds the worker is started again; None: it is given up.

        at_start: whether no worker of this run has ever been ready
        """
        deaths = self.deaths[index] = self.deaths.get(index, 0) + 1
        if deaths >= (MOST_AT_START if at_start else MOST):
            self.given_up.add(index)
            return None
        pause = 0.0 if deaths == 1 else min(FIRST * 2.0 ** (deaths - 2), LONGEST)
        self._due[index] = time.monotonic() + pause
        return pause

    def retire(self, index: int) -> None:
        """Never start this worker again: the others do better without it."""
        self.given_up.add(index)

    def take_due(self) -> list[int]:
        """Return the workers that are to be started now."""
        now = time.monotonic()
        due = [index for index, when in self._due.items() if when <= now]
        for index in due:
            del self._due[index]
        return due
