"""The trials of a study that pause at a rung, and which of them goes on.

    paused = PausedTrials(study, storage)
    found = paused.look()
    found.ids, found.promoted           # of all that pause, and of the one that goes on first
    paused.reach(trial_id, rung=1, value=0.02)    # False: it pauses

Only with a pruner that lets trials pause (`search.strategies.promotion`) is the database asked.
"""

from __future__ import annotations

from dataclasses import dataclass

import optuna
from optuna.study import StudyDirection

from search.strategies.promotion import AshaPruner
from storage.database import rungs
from storage.database.optuna_storage import TrialStorage
from storage.database.transactions import read, write


@dataclass(frozen=True, kw_only=True)
class Pauses:
    """Which trials pause, by the database's ids.

    promoted: is among the best of its rung, and goes on first; None: no one is
    leader: has come furthest, and is the best of those; None: none pauses
    """

    ids: frozenset[int] = frozenset()
    promoted: int | None = None
    leader: int | None = None


class PausedTrials:
    """The paused trials of one study."""

    def __init__(self, study: optuna.Study, storage: TrialStorage) -> None:
        self.study = study
        self.storage = storage
        self.study_id = study._study_id

    @property
    def pruner(self) -> AshaPruner | None:
        """The pruner that says where trials pause; None: they do not."""
        pruner = self.study.pruner
        return pruner if isinstance(pruner, AshaPruner) else None

    def look(self) -> Pauses:
        """Return which trials pause now, and which of them go on."""
        if self.pruner is None:
            return Pauses()
        with read(self.storage.engine) as connection:
            arrivals = rungs.read_arrivals(connection, self.study_id)
        factor = self.pruner.reduction_factor
        return Pauses(
            ids=frozenset(each.trial_id for each in arrivals if each.is_paused),
            promoted=rungs.find_promoted(arrivals, factor=factor, minimize=self._minimize),
            leader=rungs.find_leader(arrivals, minimize=self._minimize),
        )

    def reach(self, trial_id: int, *, rung: int, value: float) -> bool:
        """Note that our trial has reached a rung; return False where it pauses there.

        Raises `TrialLost` where it is somebody else's by now.
        """
        assert self.pruner is not None
        with write(self.storage.engine) as connection:
            goes_on = rungs.reach_rung(
                connection,
                self.study_id,
                trial_id,
                rung=rung,
                value=value,
                factor=self.pruner.reduction_factor,
                minimize=self._minimize,
            )
            self.storage.check_attempt(connection, trial_id)
        return goes_on

    def promote(self, trial_id: int) -> None:
        """Let a trial, which is ours now, go on from where it pauses."""
        with write(self.storage.engine) as connection:
            rungs.promote(connection, trial_id)
            self.storage.check_attempt(connection, trial_id)

    def pauses(self, trial_id: int) -> bool:
        """Whether a trial pauses, and is not promoted."""
        if self.pruner is None:
            return False
        with read(self.storage.engine) as connection:
            return rungs.pauses_at(connection, trial_id) is not None

    @property
    def _minimize(self) -> bool:
        return self.study.direction == StudyDirection.MINIMIZE
