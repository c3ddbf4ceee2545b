"""The trials of a study that pause at a rung, and which of them goes on.

    choose_next(states, pauses, begin_next)       # which trial a free worker takes
    paused = PausedTrials(study, storage)
    found = paused.look()
    found.ids, found.promoted           # of all that pause, and of the one that goes on first
    paused.reach(trial_id, rung=1, value=0.02)    # False: it pauses

A trial that was never promoted ends as pruned when nothing else is left to do. With more trials, or
more epochs, it may still become one of the best of its rung: then it goes on (`let_go_on`).

The database is asked only if the pruner lets trials pause (`search.strategies.promotion`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import optuna
from optuna.study import StudyDirection

from search.strategies.promotion import AshaPruner
from search.strategies.repeating import REPEATED
from search.trials.rung_work import RungWork, stretches_left
from storage.database import returns, rungs
from storage.database.optuna_storage import TrialStorage
from storage.database.running import find_running_with
from storage.database.transactions import read, write

GROWTH = 2  # of a study, for which trials that were not promoted keep their checkpoints


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What a free worker takes next.

    paused: the trial to take that pauses, or has ended at its rung; None: an interrupted trial,
        or a new one
    goes_on: whether it is promoted; False: it is taken to be ended
    """

    paused: int | None = None
    goes_on: bool = False


@dataclass(frozen=True, kw_only=True)
class Pauses:
    """Which trials pause, by the database's ids.

    promoted: the trial that goes on first, one of the best of its rung; None: there is none
    leader: the best of the trials that have come furthest; None: no trial pauses
    ended: trials that have ended without being promoted
    returning: those of ``ended`` that are among the best of their rung now
    """

    ids: frozenset[int] = frozenset()
    promoted: int | None = None
    leader: int | None = None
    ended: frozenset[int] = frozenset()
    returning: frozenset[int] = frozenset()


def choose_next(
    states: Mapping[str, int], pauses: Pauses, begin_next: Callable[[], bool]
) -> Choice | None:
    """Return what a free worker takes; None: nothing.

    First comes an interrupted trial, then a promoted one, then a new one. When only paused trials
    are left, they are taken one by one to be ended. If no trial is complete by then, the best of
    them goes on instead, so that the study has a winner.

    states: how many trials are in each state, with paused trials as PAUSED
    begin_next: prepares a new trial; returns whether there is one
    """
    if states["WAITING"]:
        return Choice()
    if pauses.promoted is not None:
        return Choice(paused=pauses.promoted, goes_on=True)
    if begin_next():
        return Choice()
    if states["RUNNING"]:
        return None
    if not states["COMPLETE"] and pauses.leader is not None:
        return Choice(paused=pauses.leader, goes_on=True)
    return Choice(paused=min(pauses.ids)) if pauses.ids else None


def find_pauses(
    arrivals: Collection[rungs.Arrival], pruner: AshaPruner, *, minimize: bool
) -> Pauses:
    """Return which trials pause, and which of them goes on, by all arrivals at rungs."""
    promoted = rungs.list_promoted(
        arrivals,
        factor=pruner.reduction_factor,
        minimize=minimize,
        bracket_of=pruner.bracket_of,
    )
    ended = frozenset(each.trial_id for each in arrivals if each.may_return)
    return Pauses(
        ids=frozenset(each.trial_id for each in arrivals if each.is_paused),
        promoted=next(iter(promoted), None),
        leader=rungs.find_leader(arrivals, minimize=minimize),
        ended=ended,
        returning=ended.intersection(promoted),
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

    def work_left(
        self, counts: Mapping[str, int], *, epochs: int, total: int, running: Collection[int]
    ) -> RungWork | None:
        """Return what no worker has begun, in stretches between rungs; None: no trial pauses.

        counts: trials by state, those that pause as PAUSED
        epochs: of a whole trial; total: trials in all; running: numbers of those that run
        """
        if self.pruner is None:
            return None
        with read(self.storage.engine) as connection:
            arrivals = rungs.read_arrivals(connection, self.study_id)
            whole = find_running_with(connection, self.study_id, REPEATED)
        begun = sum(counts.values())
        stretches = stretches_left(
            arrivals,
            self.pruner,
            epochs=epochs,
            fresh=range(begun, max(begun, total)),
            running=set(running) - whole,
            waiting=counts["WAITING"],
            minimize=self._minimize,
            has_complete=counts["COMPLETE"] > 0,
        )
        return RungWork(stretches=stretches, pruner=self.pruner, epochs=epochs, whole=whole)

    def let_go_on(self, trial_id: int) -> None:
        """Make a trial that has ended without being promoted wait for a worker."""
        with write(self.storage.engine) as connection:
            returns.let_return(connection, trial_id)

    def may_return(self, trial_id: int) -> bool:
        """Whether an ended trial keeps its checkpoint, because it may go on some day.

        It does if it could be among the best of its rung before the study has `GROWTH` times as
        many trials.
        """
        if self.pruner is None:
            return False
        with read(self.storage.engine) as connection:
            arrivals = rungs.read_arrivals(connection, self.study_id)
        return rungs.may_be_promoted(
            arrivals,
            trial_id,
            factor=self.pruner.reduction_factor,
            minimize=self._minimize,
            growth=GROWTH,
            bracket_of=self.pruner.bracket_of,
        )

    def reach(self, trial_id: int, *, rung: int, value: float) -> bool:
        """Note that our trial has reached a rung; return False if it pauses there.

        Raises `TrialLost` if another process has taken it.
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
                bracket_of=self.pruner.bracket_of,
            )
            self.storage.check_attempt(connection, trial_id)
        return goes_on

    def promote(self, trial_id: int) -> None:
        """Let a trial, which is ours now, go on from where it pauses."""
        with write(self.storage.engine) as connection:
            rungs.promote(connection, trial_id)
            self.storage.check_attempt(connection, trial_id)

    def pauses_at(self, trial_id: int) -> int | None:
        """Return the rung at which a trial pauses, or has ended; None: it is promoted."""
        if self.pruner is None:
            return None
        with read(self.storage.engine) as connection:
            return rungs.pauses_at(connection, trial_id)

    @property
    def _minimize(self) -> bool:
        return self.study.direction == StudyDirection.MINIMIZE
