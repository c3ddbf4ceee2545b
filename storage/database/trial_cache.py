"""The cache that Optuna puts in front of its database storage, which reads WAITING trials alone.

    study = optuna.load_study(study_name="cae", storage=TrialCache(storage))

Optuna reads every trial of a study when a process asks for its first one, and lists all of them at
each further one to find those that wait. Here a process reads all trials only when its sampler or
pruner looks at them.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Set
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar, cast

from optuna.storages._cached_storage import _CachedStorage, _StudyInfo
from optuna.trial import FrozenTrial, TrialState

from storage.database.frozen_trials import read_trials
from storage.database.optuna_storage import TrialStorage
from storage.database.retry import DatabaseRetry
from storage.database.returns import read_returns
from storage.database.transactions import read
from storage.database.trial_states import TrialStates, TrialStatus

P = ParamSpec("P")
T = TypeVar("T")


def waits(
    method: Callable[Concatenate[TrialCache, P], T],
) -> Callable[Concatenate[TrialCache, P], T]:
    """Make a method of the cache wait until the database answers."""

    @wraps(method)
    def wait(self: TrialCache, *args: P.args, **named: P.kwargs) -> T:
        if self._retry is None:
            return method(self, *args, **named)
        return self._retry.wait_for(lambda: method(self, *args, **named))

    return cast("Callable[Concatenate[TrialCache, P], T]", wait)


class TrialCache(_CachedStorage):
    """Optuna's cache of trials, which is filled only when more than the WAITING trials are read.

    retry: waits for a database that is away, in every call that may be repeated; None: no call
        waits
    hidden: paused trials, which are left out when WAITING trials are asked for
    only: the one WAITING trial that is shown then; None: all that are not hidden
    """

    hidden: Set[int | None] = frozenset()
    only: int | None = None

    def __init__(self, backend: TrialStorage, retry: DatabaseRetry | None = None) -> None:
        super().__init__(backend)
        self._retry = retry
        self._backend: TrialStorage = backend
        self._states: dict[int, TrialStates] = {}
        self._returns: dict[int, dict[int, int]] = {}  # by study: how often trials returned

    get_study_id_from_name = waits(_CachedStorage.get_study_id_from_name)
    get_study_name_from_id = waits(_CachedStorage.get_study_name_from_id)
    get_study_directions = waits(_CachedStorage.get_study_directions)
    get_study_user_attrs = waits(_CachedStorage.get_study_user_attrs)
    get_study_system_attrs = waits(_CachedStorage.get_study_system_attrs)
    set_study_user_attr = waits(_CachedStorage.set_study_user_attr)
    set_study_system_attr = waits(_CachedStorage.set_study_system_attr)
    get_trial = waits(_CachedStorage.get_trial)
    get_trial_id_from_study_id_trial_number = waits(
        _CachedStorage.get_trial_id_from_study_id_trial_number
    )
    set_trial_param = waits(_CachedStorage.set_trial_param)
    set_trial_user_attr = waits(_CachedStorage.set_trial_user_attr)
    set_trial_system_attr = waits(_CachedStorage.set_trial_system_attr)

    @waits
    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        """Return the trials in these states; to find WAITING ones the cache is not filled."""
        if states != (TrialState.WAITING,) or not self._backend.known:
            self._read_returned_again(study_id)
            return super().get_all_trials(study_id, deepcopy, states)
        self.get_study_directions(study_id)  # creates the cache's entry for the study
        known = self._states.setdefault(study_id, TrialStates(self._backend.engine, study_id))
        ids = [
            trial.trial_id
            for trial in known.read_open()
            if trial.state == TrialStatus.WAITING and self._is_seen(trial.trial_id)
        ]
        if not ids:
            return []
        with read(self._backend.engine) as connection:
            waiting = read_trials(connection, ids)
        with self._lock:
            self._add_trials_to_cache(study_id, waiting)
        return [trial for trial in waiting if trial.state == TrialState.WAITING]

    def _is_seen(self, trial_id: int) -> bool:
        return trial_id not in self.hidden and self.only in (None, trial_id)

    def _read_returned_again(self, study_id: int) -> None:
        """Let Optuna's cache read the trials again that went on after their end."""
        if not self._backend.known:
            return
        with read(self._backend.engine) as connection:
            returns = read_returns(connection, study_id)
        known = self._returns.get(study_id, {})
        self._returns[study_id] = returns
        fresh = {trial_id for trial_id, times in returns.items() if known.get(trial_id) != times}
        if fresh:
            with self._lock:
                entry = self._studies.setdefault(study_id, _StudyInfo())
                entry.unfinished_trial_ids |= fresh
