"""Which worker runs which trial: exactly N trials end, whoever comes and goes.

A process creates a trial, or takes one over, under a lock that one process on one machine holds at
a time. A lock can be lost, so two more rules hold without it. The transaction that creates a trial
counts the trials, so that K workers never create more than N. And each attempt at a trial has a
number that only grows: writes of any attempt but the latest are refused
(`storage.database.fences`). An interrupted trial goes back to WAITING with its number, parameters
and reports, and is taken next.

    WAITING --claim--> RUNNING --tell--> COMPLETE | PRUNED | FAIL
       ^                  |
       +-----release------+   Ctrl-C, a killed worker, a machine that went down

A trial that pauses at a rung (`search.trials.paused`) is WAITING, too. It is taken when it is
promoted, or to end it when nothing else is left to do. If it is promoted after that, it is WAITING
once more, and goes on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Set
from typing import Any, cast

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.trial import Trial

from search.strategies.seeded import StudySampler
from search.trials.leased_trials import LeasedTrials
from search.trials.next_trial import FindBegun, NextTrial, Suggest
from search.trials.outcomes import Ending, Outcome
from search.trials.owner import is_gone
from search.trials.paused import choose_next
from search.trials.retries import VERSION, find_mended, read_retries, write_retries
from search.trials.rung_trials import RungTrials
from search.trials.stored_trials import waits_out_outages
from search.trials.study_code import check_code
from search.trials.study_epochs import check_epochs
from storage.database import leases, preferences
from storage.database.connection import open_storage
from storage.database.fences import TrialLost
from storage.database.optuna_storage import TooManyTrials, TrialStorage
from storage.database.preferences import Choices
from storage.database.retry import DatabaseRetry
from storage.database.transactions import read
from storage.database.trial_cache import TrialCache
from storage.database.trial_states import count_ended


class TrialQueue(LeasedTrials, RungTrials):
    """The trials of one study, as one worker or the supervisor sees them.

    owner: the name of this process in leases (`search.trials.owner.owner_name`)
    references: parameters that the first trials try, by name
    suggest: draws a trial's parameters; it is called while no other process may draw
    shown: how many trials a person chooses among; None: values rank the trials
    retry: waits for a database that is away
    version: of the code that computes values; a trial that failed with another version is tried
        again
    epochs: that this process trains; None: it trains nothing
    find_begun: returns what trials are drawn with if another process has begun the study otherwise;
        it is asked under the lock until this process has a trial, and then the answer holds

    Every method waits until the database answers, except those called ``try_`` (`StoredTrials`).
    """

    def __init__(
        self,
        study: optuna.Study,
        storage: TrialStorage,
        *,
        owner: str,
        references: Mapping[str, Mapping[str, Any]] | None = None,
        suggest: Suggest = lambda trial: None,
        shown: int | None = None,
        retry: DatabaseRetry | None = None,
        version: str = "",
        epochs: int | None = None,
        find_begun: FindBegun = lambda study: None,
    ) -> None:
        super().__init__(study, storage, owner=owner, retry=retry, version=version)
        self.shown = shown
        self.epochs = epochs
        self._find_begun: FindBegun | None = find_begun
        self._is_claiming = False  # also after a claim that was cut off
        self._next = NextTrial(study, storage, references=references or {}, suggest=suggest)

    @waits_out_outages
    def claim(self, total: int) -> Trial | None:
        """Take the next trial of ``total``: it is RUNNING and ours now.

        None: no trial is left to take, the sampler has stopped the study, or a person has to choose
        first. Raises `StudyChanged` if the study no longer takes trials of this code, or of so few
        epochs.
        """
        while True:
            with self._locked():
                check_code(self.study, self.version)
                check_epochs(self.study, self.epochs)
                self._take_begun()
                states = self.count()
                if states["RUNNING"] and self._abandoned.reclaim(
                    self._is_dropped, kept=self._taken
                ):
                    states = self.count()
                self._is_claiming = True
                try:
                    trial = self._take_next(total, states)
                except TrialLost:  # the lock was lost, and somebody else takes it, too
                    continue
                if trial is not None:  # no place is taken twice
                    self._next.draw(trial, relative=self.shown is not None)
            self._is_claiming = False  # not before the database has it
            if trial is not None:
                self._find_begun = None
                self._taken.add(trial._trial_id)
            return trial

    def _take_begun(self) -> None:
        """Draw as the stored study has begun, if another process has begun it otherwise."""
        begun = None if self._find_begun is None else self._find_begun(self.study)
        if begun is not None:
            self.study.sampler = begun.sampler
            self._next.references = dict(begun.references)
            self._find_begun = None

    def _take_next(self, total: int, states: Counter[str]) -> Trial | None:
        """Make the trial that waits, or a new one, RUNNING and ours."""
        has_failed = self._states.count()["FAIL"] > 0
        most = total + (self._count_retried() if has_failed else 0)
        try:
            with self.storage.limit_trials(self.study_id, most):
                pauses = self._paused.look()
                choice = choose_next(
                    _without_surplus(states, total),
                    pauses,
                    lambda: self._enqueue_next(total, states),
                )
                if choice is None:
                    return None
                if choice.paused in pauses.ended:
                    self._paused.let_go_on(choice.paused)
                trial = self._ask(hidden=pauses.ids - {choice.paused}, only=choice.paused)
        except TooManyTrials:  # the lock was lost, and somebody else has made the last one
            return None
        trial_id = self.id_of(trial.number)
        self.storage.begin_attempt(trial_id, leases.take_lease(self.engine, trial_id, self.owner))
        if choice.goes_on:
            self._paused.promote(trial_id)
        return trial

    def _ask(self, *, hidden: Set[int | None], only: int | None) -> Trial:
        """Ask Optuna for the trial that waits, or for a new one.

        hidden: paused trials that must not be taken now
        only: the trial to be taken, whatever else waits; None: the first that waits
        """
        cache = cast("TrialCache", self.study._storage)
        cache.hidden, cache.only = hidden, only
        try:
            return self.study.ask()
        finally:
            cache.hidden, cache.only = frozenset(), None

    def _is_dropped(self, owner: str) -> bool:
        """Whether nobody runs a trial that has a holder.

        The holder may be gone. Or it is this worker, and its claim was cut off.
        """
        return (owner == self.owner and self._is_claiming) or is_gone(owner)

    def _enqueue_next(self, total: int, states: Counter[str]) -> bool:
        """Prepare what a new trial tries; return whether a new trial may begin."""
        if states.total() >= total or not self.has_room():
            return False
        return self._next.enqueue_known() or not self._next.is_exhausted()

    @waits_out_outages
    def retry_mended(self) -> int:
        """Try trials again that failed with other files of the study; returns how many."""
        if not self.version or not self._states.count()["FAIL"]:
            return 0
        with self._locked():
            found = find_mended(self.study, self.version)
            if found:
                write_retries(self.study, read_retries(self.study).with_waiting(found))
            return len(found)

    @waits_out_outages
    def is_exhausted(self) -> bool:
        """Whether this queue's sampler draws no further trial, though some may still run."""
        return self._next.is_exhausted()

    @waits_out_outages
    def is_stopped(self) -> bool:
        """Whether this queue's sampler has nothing left to try, and all trials have ended."""
        return self._next.is_stopped()

    @waits_out_outages
    def stop_reason(self) -> str:
        """Return why the sampler has stopped the study, in words."""
        return self._next.stop_reason()

    @waits_out_outages
    def has_paused_to_take(self, counts: Counter[str], total: int) -> bool:
        """Whether a paused trial is to go on, or to end because nothing else is left to do.

        counts: as `count` returns them
        """
        if not counts["PAUSED"]:
            return False
        if self._paused.look().promoted is not None:
            return True
        if counts["RUNNING"] or counts["WAITING"]:
            return False
        return counts.total() >= total or self._next.is_exhausted()

    @waits_out_outages
    def end(self, trial: Trial, ending: Ending) -> None:
        """Tell Optuna how ``trial``, which is ours, has ended. Nobody holds it any more."""
        try:
            for name, excess in ending.constraints.items():
                trial.set_constraint(name, excess)
            about = {"outcome": str(ending.outcome), **ending.attributes}
            if ending.outcome is Outcome.FAILED and self.version:
                about[VERSION] = self.version
            self.set_attributes(trial, about)
            self.study.tell(trial, ending.values, state=ending.state)
            self._next.note_stop()
        except TrialLost:
            raise
        except ValueError:  # Optuna's word for a trial that does not run
            with read(self.engine) as connection:
                self.storage.check_attempt(connection, trial._trial_id)
            raise
        except UpdateFinishedTrialError:  # unless it was told before the database went away
            with read(self.engine) as connection:
                self.storage.check_attempt(connection, trial._trial_id)
        leases.end_lease(self.engine, trial._trial_id)
        self._let_go(trial._trial_id)

    @waits_out_outages
    def count(self) -> Counter[str]:
        """Count the trials by state, without failed ones that others have replaced.

        Paused trials count as PAUSED here, not as WAITING. So do trials that have ended at a
        rung and are to go on.
        """
        states = self._states.count()
        if states["WAITING"] or states["PRUNED"]:
            self._count_paused(states)
        if states["FAIL"]:
            states["FAIL"] -= self._count_retried()
        return states

    def _count_paused(self, states: Counter[str]) -> None:
        """Count paused trials as PAUSED. Some of them may have been taken a moment ago."""
        pauses = self._paused.look()
        paused = min(len(pauses.ids), states["WAITING"])
        returning = min(len(pauses.returning), states["PRUNED"])
        is_idle = not (states["RUNNING"] or states["WAITING"] or returning)
        if is_idle and not states["COMPLETE"] and pauses.leader is not None:
            returning = min(1, states["PRUNED"])  # a study is to have a winner
        for state, count in (("WAITING", paused), ("PRUNED", returning)):
            if count:
                states[state] -= count
                states["PAUSED"] += count

    def _count_retried(self) -> int:
        """Count the failed trials that others have replaced."""
        return len(read_retries(self.study).numbers)

    def count_ended(self) -> int:
        """Count the trials that have ended."""
        return count_ended(self.count())

    def has_ended(self, total: int) -> bool:
        """Whether all ``total`` trials have ended. If the sampler has nothing left to try, those
        that there are suffice."""
        return self.count_ended() >= total or self.is_stopped()

    @waits_out_outages
    def read_choices(self) -> Choices:
        """Read what a person has chosen so far."""
        with read(self.engine) as connection:
            return preferences.read_choices(connection, self.study_id)

    def has_room(self) -> bool:
        """Whether a new trial may begin; always true if values rank the trials."""
        return self.shown is None or self.read_choices().has_room(self.shown)


def _without_surplus(states: Counter[str], total: int) -> Counter[str]:
    """Return the states without interrupted trials beyond ``total``.

    There are such trials if a person has lowered TRIALS since. They wait until it is raised.
    """
    if states.total() - states["WAITING"] < total:
        return states
    return Counter({state: count for state, count in states.items() if state != "WAITING"})


def open_queue(
    study: str,
    url: str,
    *,
    owner: str,
    sampler: BaseSampler | None = None,
    pruner: BasePruner | None = None,
    references: Mapping[str, Mapping[str, Any]] | None = None,
    suggest: Suggest = lambda trial: None,
    shown: int | None = None,
    retry: DatabaseRetry | None = None,
    version: str = "",
    epochs: int | None = None,
    find_begun: FindBegun = lambda study: None,
) -> TrialQueue:
    """Return the queue of the existing study called ``study``; see `TrialQueue`.

    sampler, pruner: of the trials that are claimed here; Optuna's own where left out
    """
    waiting = retry or DatabaseRetry()
    storage = open_storage(url, given_up=waiting.given_up)
    loaded = optuna.load_study(
        study_name=study, storage=TrialCache(storage), sampler=sampler, pruner=pruner
    )
    queue = TrialQueue(
        loaded,
        storage,
        owner=owner,
        references=references,
        suggest=suggest,
        shown=shown,
        retry=waiting,
        version=version,
        epochs=epochs,
        find_begun=find_begun,
    )
    if isinstance(sampler, StudySampler) and sampler.draws_alone:
        loaded.get_trials(deepcopy=False)  # fills Optuna's cache before it draws under the lock
    return queue
