"""Where a study's trials stand, at a price that does not grow with the study.

Trials are numbered in the order they are made and an ended one never changes. So
those up to the first that has not ended are counted once, and every further look
reads the few behind it.
"""

from __future__ import annotations

import threading
from collections import Counter
from typing import NamedTuple

from sqlalchemy import Engine

from storage.database.rows import fetch_rows

ENDED = ("COMPLETE", "PRUNED", "FAIL")


def count_ended(states: Counter[str]) -> int:
    """How many of these trials have ended."""
    return sum(states[state] for state in ENDED)


class OpenTrial(NamedTuple):
    """A trial that has not ended, or stands behind one that has not."""

    trial_id: int
    number: int
    state: str


class TrialStates:
    """The states of one study's trials, as one process follows them."""

    def __init__(self, engine: Engine, study_id: int) -> None:
        self.engine = engine
        self.study_id = study_id
        self.settled = -1  # this trial and all before it have ended
        self._counted: Counter[str] = Counter()  # those, by state
        self._lock = threading.Lock()

    def read_open(self) -> list[OpenTrial]:
        """The trials behind `settled`, by id: nothing else can have changed."""
        with self._lock:
            return self._look()

    def count(self) -> Counter[str]:
        """All trials by state."""
        with self._lock:
            recent = self._look()
            return self._counted + Counter(t.state for t in recent if t.trial_id > self.settled)

    def _look(self) -> list[OpenTrial]:
        with self.engine.connect() as connection:
            found = fetch_rows(
                connection,
                "SELECT trial_id, number, CAST(state AS VARCHAR) FROM trials "
                "WHERE study_id = :study_id AND trial_id > :settled ORDER BY trial_id",
                study_id=self.study_id,
                settled=self.settled,
            )
        recent = [OpenTrial(*row) for row in found]
        for trial in recent:
            if trial.state not in ENDED:
                break
            self._counted[trial.state] += 1
            self.settled = trial.trial_id
        return recent
