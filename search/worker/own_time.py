"""The seconds that a trial takes for itself, while its worker may hold others.

    own = OwnTime()
    own.wait()           # it waits for its next epoch: others may work
    own.sharing = 4      # the epoch is trained together with those of three others
    own.note_step()      # that has begun, at the first call
    own.end_epoch(0.5)   # it took so many seconds of its own
    own.seconds()        # since the start, without those of others

A limit on a trial's time, and what the trial has cost, must not depend on how many others its
worker holds.
"""

from __future__ import annotations

import time


class OwnTime:
    """A clock that stands while the worker trains other trials.

    sharing: how many trials share the present epoch, or the last one
    """

    def __init__(self) -> None:
        self.sharing = 1
        self._began = time.monotonic()
        self._others = 0.0  # seconds of others
        self._waits: float | None = None  # since when
        self._trains: float | None = None  # likewise

    def seconds(self) -> float:
        """Return the trial's own seconds until now."""
        now = time.monotonic()
        others = self._others
        if self._waits is not None:
            others += (now if self._trains is None else self._trains) - self._waits
        if self._trains is not None:
            others += (now - self._trains) * (1 - 1 / self.sharing)
        return now - self._began - others

    def wait(self) -> None:
        """Note that the trial waits for its next epoch. A failed epoch is waited for again."""
        if self._waits is None:
            self._waits = time.monotonic()
        self._trains = None

    def note_step(self) -> None:
        """Note that a training step begins: with the first step of an epoch the waiting ends."""
        if self._waits is not None and self._trains is None:
            self._trains = time.monotonic()

    def end_epoch(self, seconds: float) -> None:
        """Note the end of an epoch. seconds: the share of the epoch that counts for this trial"""
        if self._waits is not None:
            self._others += time.monotonic() - self._waits - seconds
        self._waits = self._trains = None
