"""What complete trials have reported, by step: a median pruner looks at nothing else.

    reports = CompletedReports(engine, study_id)
    reports.refresh()
    reports.at(4)                 # the values that complete trials reported at step 4

Optuna's pruners list, filter and sort every trial of the study at every question. A complete trial
hardly ever changes, so its reports are read once, into columns. When a trial goes on after its end
all are read anew.
"""

from __future__ import annotations

from array import array
from collections import defaultdict

from sqlalchemy import Engine

from storage.database.frozen_trials import INFINITE
from storage.database.rows import fetch_rows, trial_condition
from storage.database.transactions import read
from storage.database.trial_states import TrialStates, TrialStatus


class CompletedReports:
    """The reports of a study's complete trials, as one process follows them."""

    def __init__(self, engine: Engine, study_id: int) -> None:
        self.engine = engine
        self.trials = 0  # how many are complete
        self._states = TrialStates(engine, study_id)
        self._returned: frozenset[int] = frozenset()  # trials that went on after their end
        self._seen: set[int] = set()  # complete trials after one that has not ended
        self._unread: set[int] = set()  # complete trials whose reports are not in the columns
        self._columns: defaultdict[int, array[float]] = defaultdict(lambda: array("d"))

    def at(self, step: int) -> array[float]:
        """Return the values reported at ``step``, NaN included, in no order."""
        return self._columns[step]

    def refresh(self) -> None:
        """Read the trials that have become complete since the last time."""
        recent = self._states.read_open()
        if self._states.returned != self._returned:
            self._returned, self.trials = self._states.returned, 0
            for known in (self._columns, self._seen, self._unread):
                known.clear()
        complete = {trial.trial_id for trial in recent if trial.state == TrialStatus.COMPLETE}
        self._unread |= complete - self._seen
        self._seen = {each for each in complete if not self._states.is_settled(each)}
        if self._unread:
            self._read()

    def _read(self) -> None:
        with read(self.engine) as connection:
            found = fetch_rows(
                connection,
                "SELECT trial_id, step, intermediate_value, "
                "CAST(intermediate_value_type AS VARCHAR) "
                f"FROM trial_intermediate_values WHERE {trial_condition(self._unread)}",
            )
        for trial_id, step, value, kind in found:
            if trial_id in self._unread:
                self._columns[step].append(value if kind == "FINITE" else INFINITE[kind])
        self.trials += len(self._unread)
        self._unread.clear()
