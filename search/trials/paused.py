"""The trials of a study that pause at a rung, and which of them goes on.

    choose_next(states, pauses, begin_next)       # which trial a free worker takes
    paused = PausedTrials(study, storage)
    found = paused.look()
    found.ids, found.promoted           # of all that pause, and of the one that goes on first
    paused.reach(trial_id, rung=1, value=0.02)    # False: it pauses

Only with a pruner that lets trials pause (`search.strategies.promotion`) is the database asked.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import optuna
from optuna.study import StudyDirection

from search.strategies.promotion import AshaPruner
from storage.database import rungs
from storage.database.optuna_storage import TrialStorage
from storage.database.transactions import read, write


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What is taken next.

    paused: the trial that pauses and is taken; None: one that was interrupted, or a new one
    goes_on: whether it is promoted; else it is to end
    """

    paused: int | None = None
    goes_on: bool = False


@dataclass(frozen=True, kw_only=True)
class Pauses:
    """Which trials pause, by the database's ids.

    promoted: is among the best of its rung, and goes on first; None: no one is
    leader: has come furthest, and is the best of those; None: none pauses
    """

    ids: frozenset[int] = frozenset()
    promoted: int | None = None
    leader: int | None = None


def choose_next(
    states: Mapping[str, int], pauses: Pauses, begin_next: Callable[[], bool]
) -> Choice | None:
    """Return what is to be taken; None: nothing.

    First comes what was interrupted, then what is promoted, then a new trial. When all that is
    left pauses, one trial after the other is taken to be ended; but the best goes on where no
    trial is complete, since a study is to have a winner.

    states: how many trials are in each, those that pause apart
    begin_next: prepares a new trial; returns whether there is to be one
    """
    if states["WAITING"]:
        return Choice()
    if pauses.promoted is not None:
        return Choice(paused=pauses.promoted, goes_on=True)
    if begin_next():
        return Choice()
    if not pauses.ids or states["RUNNING"]:
        return None
    if not states["COMPLETE"]:
        return Choice(paused=pauses.leader, goes_on=True)
    return Choice(paused=min(pauses.ids))


def find_pauses(
    arrivals: Collection[rungs.Arrival], pruner: AshaPruner, *, minimize: bool
) -> Pauses:
    """Return which trials pause, and which of them goes on, by all arrivals at rungs."""
    factor = pruner.reduction_factor
    return Pauses(
        ids=frozenset(each.trial_id for each in arrivals if each.is_paused),
        promoted=rungs.find_promoted(arrivals, factor=factor, minimize=minimize),
        leader=rungs.find_leader(arrivals, minimize=minimize),
    )


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
        return find_pauses(arrivals, self.pruner, minimize=self._minimize)

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
