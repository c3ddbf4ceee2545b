"""Which worker runs which trial: exactly N trials end, whoever comes and goes.

A trial is created or taken over under a lock that one process holds at a time,
over all machines. The number of trials is counted inside the lock, so that K
workers never make more than N. An interrupted trial goes back to WAITING with
its number, parameters and reports, and is the next to be taken.

    WAITING --claim--> RUNNING --tell--> COMPLETE | PRUNED | FAIL
       ^                  |
       +-----release------+   Ctrl-C, a killed worker, a machine that went down
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import Trial, TrialState
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from search.strategies.samplers import OneSequence
from search.trials.outcomes import Ending
from search.trials.owner import is_gone
from storage.database import leases
from storage.database.connection import open_storage, study_lock
from storage.database.optuna_storage import TrialCache, TrialStorage
from storage.database.preferences import Choices, read_choices
from storage.database.retry import DatabaseRetry
from storage.database.trial_states import TrialStates, count_ended

SECOND_LOOK = 2 * leases.RENEWAL  # seconds: who renews has done so by then

P = ParamSpec("P")
T = TypeVar("T")


def patient(
    method: Callable[Concatenate[TrialQueue, P], T],
) -> Callable[Concatenate[TrialQueue, P], T]:
    """A method that waits for a database that is away, then begins again."""

    @wraps(method)
    def waiting(self: TrialQueue, *args: P.args, **named: P.kwargs) -> T:
        if self._is_patient:  # as a whole, from its beginning: what it locked is gone, too
            return method(self, *args, **named)
        self._is_patient = True
        try:
            return self.retry.wait_for(lambda: method(self, *args, **named))
        finally:
            self._is_patient = False

    return cast("Callable[Concatenate[TrialQueue, P], T]", waiting)


class TrialQueue:
    """The trials of one study, as one worker (or the supervisor) sees them."""

    def __init__(self, study: optuna.Study, storage: TrialStorage, owner: str) -> None:
        self.study = study
        self.storage = storage
        self.engine: Engine = storage.engine
        self.study_id = storage.get_study_id_from_name(study.study_name)
        self.owner = owner
        self._states = TrialStates(self.engine, self.study_id)
        self._ids: dict[int, int] = {}  # by number
        self._silent: dict[int, float] = {}  # trials whose leases ran out, and when we saw it
        self.retry = DatabaseRetry()
        self._is_patient = False
        self.references: Mapping[str, Mapping[str, Any]] = {}
        self.shown: int | None = None  # trials that a person chooses among; None: nobody is asked

    @patient
    def claim(self, total: int) -> Trial | None:
        """The next trial of ``total``, now RUNNING and ours; None: none is left to take, or a
        person has to choose first."""
        with study_lock(self.engine, self.study_id):
            states = self.count()
            if states["RUNNING"] and self.take_back(is_gone):
                states = self.count()
            if not states["WAITING"] and (states.total() >= total or not self.has_room()):
                return None
            if not states["WAITING"] and states.total() < len(self.references):
                name, parameters = list(self.references.items())[states.total()]
                self.study.enqueue_trial(dict(parameters), user_attrs={"reference": name})
            trial = self.study.ask()
            new = trial.number >= states.total()  # else it waited for somebody to go on with it
            leases.take_lease(self.engine, self.id_of(trial.number), self.owner, first=new)
            if self.shown is not None or isinstance(self.study.sampler, OneSequence):
                _ = trial.relative_params  # drawn now, under the lock: no place is taken twice
        return trial

    def describe(self, trial: Trial, attributes: Mapping[str, Any]) -> None:
        """Set user attributes, in one transaction."""
        self.storage.write_attributes(trial._trial_id, attributes)
        trial._cached_frozen_trial.user_attrs.update(attributes)

    def report(self, trial: Trial, epoch: int, value: float, measured: Mapping[str, float]) -> None:
        """An epoch's value, as `Trial.report`, and all that was measured, in one transaction.

        Epochs count from 1, Optuna's steps from 0.
        """
        step = epoch - 1
        self.storage.write_epoch(trial._trial_id, epoch, step, value, measured)
        trial._cached_frozen_trial.intermediate_values.setdefault(step, value)

    def release(self, number: int) -> None:
        """Give a RUNNING trial back so that somebody goes on with it, if it is still ours.

        One that was ended in the dashboard stays ended.
        """
        trial_id = self.id_of(number)
        with study_lock(self.engine, self.study_id):
            if leases.return_lease(self.engine, trial_id, self.owner):
                try:
                    self.storage.set_trial_state_values(trial_id, TrialState.WAITING)
                except UpdateFinishedTrialError:
                    leases.end_lease(self.engine, trial_id)

    @patient
    def owns(self, number: int) -> bool:
        """Whether the trial is still ours; if so, for another grace period."""
        return leases.renew_lease(self.engine, self.id_of(number), self.owner)

    def end(self, number: int) -> None:
        """A trial that Optuna was told of has ended: nobody holds it any more."""
        leases.end_lease(self.engine, self.id_of(number))

    @patient
    def conclude(self, trial: Trial, ending: Ending, about: Mapping[str, Any]) -> None:
        """Tell Optuna how ``trial``, which is ours, has ended; ``about``: attributes of any end."""
        try:
            for name, excess in ending.constraints.items():
                trial.set_constraint(name, excess)
            self.describe(trial, {**about, **ending.attributes})
            self.study.tell(trial, ending.value, state=ending.state)
        except UpdateFinishedTrialError:
            stored = self.storage.get_trial(trial._trial_id)
            if stored.user_attrs.get("pid") != os.getpid():
                raise  # else it was told before the database went away
        leases.end_lease(self.engine, trial._trial_id)

    def take_back(self, is_dead: Callable[[str], bool]) -> list[int]:
        """Put trials of dead workers back to WAITING; fail those that killed several workers.

        Called under the lock by `claim`, and by a supervisor that saw its worker die.
        """
        held = leases.running_trials(self.engine, self.study_id, after=self._states.settled)
        found = [t for t in held if t.owner is None or is_dead(t.owner) or self._stays_silent(t)]
        for trial in found:
            if trial.attempts >= leases.MAX_ATTEMPTS:
                self._fail(trial.trial_id, "failed", f"its worker died {trial.attempts} times")
            else:
                leases.clear_owner(
                    self.engine, trial.trial_id
                )  # should its worker wake up after all
                self.storage.set_trial_state_values(trial.trial_id, TrialState.WAITING)
        return [trial.number for trial in found]

    def _stays_silent(self, trial: leases.HeldTrial) -> bool:
        """Whether nobody has renewed a lease that ran out, though the database was there.

        When it was away, all leases have run out, and those who live renew theirs at once.
        """
        if not trial.silent:
            self._silent.pop(trial.trial_id, None)
            return False
        seen = self._silent.setdefault(trial.trial_id, time.monotonic())
        return time.monotonic() - seen >= SECOND_LOOK

    @patient
    def take_back_from(self, owner: str, *, blame: bool = True) -> list[int]:
        """As `take_back`, for one worker that is known to be gone.

        blame: whether its trial may have killed it; not if we did
        """
        with study_lock(self.engine, self.study_id):
            if not blame:
                leases.uncount_attempt(self.engine, owner)
            return self.take_back(lambda holder: holder == owner)

    @patient
    def end_hung(self, number: int, reason: str) -> bool:
        """End a trial whose worker was killed for it; False: it had ended by itself."""
        with study_lock(self.engine, self.study_id):
            trial_id = self.id_of(number)
            if self.storage.get_trial(trial_id).state.is_finished():
                return False
            self._fail(trial_id, "interrupted", reason)
            return True

    def _fail(self, trial_id: int, outcome: str, reason: str) -> None:
        self.storage.write_attributes(trial_id, {"outcome": outcome, "reason": reason})
        self.storage.set_trial_state_values(trial_id, TrialState.FAIL)
        leases.end_lease(self.engine, trial_id)

    @patient
    def take_back_abandoned(self) -> list[int]:
        """As `take_back`, for whoever is known or presumed to be gone."""
        with study_lock(self.engine, self.study_id):
            return self.take_back(is_gone)

    @patient
    def count(self) -> Counter[str]:
        """Trials by state."""
        return self._states.count()

    def ended(self) -> int:
        return count_ended(self.count())

    @patient
    def choices(self) -> Choices:
        """What a person has chosen until now."""
        with self.engine.connect() as connection:
            return read_choices(connection, self.study_id)

    def has_room(self) -> bool:
        """Whether a new trial may begin: always, where no person is asked."""
        return self.shown is None or self.choices().has_room(self.shown)

    @patient
    def id_of(self, number: int) -> int:
        if number not in self._ids:
            found = self.storage.get_trial_id_from_study_id_trial_number(self.study_id, number)
            self._ids[number] = found
        return self._ids[number]

    @contextmanager
    def kept_alive(self, number: int) -> Iterator[threading.Event]:
        """Renew the lease on a trial in the background, also through a long epoch.

        The event that it gives is set when the trial has become somebody else's. A database
        that is away for a while costs renewals, not the thread.
        """
        trial_id = self.id_of(number)
        done, lost = threading.Event(), threading.Event()

        def renew() -> None:
            while not done.wait(leases.RENEWAL):
                with suppress(SQLAlchemyError):
                    if not leases.renew_lease(self.engine, trial_id, self.owner):
                        lost.set()
                        return

        thread = threading.Thread(target=renew, name=f"lease-{number}", daemon=True)
        thread.start()
        try:
            yield lost
        finally:
            done.set()
            thread.join()


def open_queue(study: str, url: str, owner: str) -> TrialQueue:
    """Load an existing study for claiming; its sampler and pruner are the caller's to set."""
    storage = open_storage(url)
    loaded = optuna.load_study(study_name=study, storage=TrialCache(storage))
    return TrialQueue(loaded, storage, owner)
