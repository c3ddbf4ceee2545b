"""Which worker runs which trial: exactly N trials end, whoever comes and goes.

A trial is created or taken over under a lock that one process holds at a time,
over all machines. A lock can be lost, so nothing rests on it alone: trials are
counted in the transaction that makes one, so that K workers never make more
than N, and each attempt at a trial has a number that only grows, without which
nothing of it is written (`storage.database.fences`). An interrupted trial goes
back to WAITING with its number, parameters and reports, and is the next to be
taken.

    WAITING --claim--> RUNNING --tell--> COMPLETE | PRUNED | FAIL
       ^                  |
       +-----release------+   Ctrl-C, a killed worker, a machine that went down

A trial that pauses at a rung (`search.trials.paused`) is WAITING, too. It is taken when it is
promoted, or to end it when nothing else is left to do. If it is promoted after that, it is WAITING
once more, and goes on.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import contextmanager, suppress
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from search.strategies.front_pruner import FrontPruner
from search.strategies.seeded import StudySampler
from search.strategies.stopping import repeats_another
from search.trials.abandoned import AbandonedTrials
from search.trials.epoch_report import EpochReport
from search.trials.next_trial import NextTrial, Suggest
from search.trials.outcomes import Ending, Outcome
from search.trials.owner import is_gone
from search.trials.paused import PausedTrials, choose_next
from search.trials.retries import VERSION, find_mended, read_retries, write_retries
from search.trials.study_code import check_code
from search.trials.study_epochs import check_epochs
from storage.database import leases, notes, preferences
from storage.database.connection import open_storage
from storage.database.fences import TrialLost
from storage.database.optuna_storage import TooManyTrials, TrialCache, TrialStorage
from storage.database.preferences import Choices
from storage.database.retry import DatabaseLost, DatabaseRetry
from storage.database.study_lock import study_lock
from storage.database.transactions import read
from storage.database.trial_states import TrialStates, count_ended
from storage.database.vectors import read_measured
from storage.errors import StorageError

P = ParamSpec("P")
T = TypeVar("T")


def waits_out_outages(
    method: Callable[Concatenate[TrialQueue, P], T],
) -> Callable[Concatenate[TrialQueue, P], T]:
    """Make a method begin again when the database was away, from its beginning: the locks that
    it held are gone, too. A method that calls another waits as a whole."""

    @wraps(method)
    def wait(self: TrialQueue, *args: P.args, **named: P.kwargs) -> T:
        return self.retry.wait_for(lambda: method(self, *args, **named))

    return cast("Callable[Concatenate[TrialQueue, P], T]", wait)


class TrialQueue:
    """The trials of one study, as one worker or the supervisor sees them.

    owner: who holds what is claimed here, as `search.trials.owner.owner_name` gives it
    references: parameters that the first trials try, by name
    suggest: what draws a trial's parameters; called where no other may draw meanwhile
    shown: how many trials a person chooses among; None where values decide
    retry: how an outage of the database is waited out
    version: of the code that computes values; a trial that failed with another is tried again
    epochs: that this process trains; None: it trains nothing

    One rule: every method waits until the database answers. A ``try_`` method does not wait; it
    returns False while the database is away, for whoever has something better to do.
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
    ) -> None:
        self.study = study
        self.storage = storage
        self.engine: Engine = storage.engine
        self.study_id = storage.get_study_id_from_name(study.study_name)
        self.owner = owner
        self.shown = shown
        self.retry = retry or DatabaseRetry()
        self.version = version
        self.epochs = epochs
        study._storage = TrialCache(storage, self.retry)
        self._is_claiming = False  # also after a claim that was cut off
        self.unreturned: set[int] = set()  # trials that could not be given back
        self._taken: set[int] = set()  # ids of those that were claimed here and are not back
        self._states = TrialStates(self.engine, self.study_id)
        self._ids: dict[int, int] = {}  # by number
        self._next = NextTrial(study, storage, references=references or {}, suggest=suggest)
        self._abandoned = AbandonedTrials(storage, self.study_id, self._states, version)
        self._paused = PausedTrials(study, storage)

    @waits_out_outages
    def claim(self, total: int) -> Trial | None:
        """Take the next trial of ``total``: it is RUNNING and ours now.

        None: none is left to take, the sampler has stopped the study, or a person has to choose
        first. Raises `StudyChanged` where the study takes no trials of this code, or of so few
        epochs, any more.
        """
        while True:
            with self._locked():
                check_code(self.study, self.version)
                check_epochs(self.study, self.epochs)
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
                self._taken.add(trial._trial_id)
            return trial

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock of the study. A server undoes what is cut off: then it is forgotten."""
        try:
            with study_lock(self.engine, self.study_id):
                yield
        except Exception:
            self.study._storage = TrialCache(self.storage, self.retry)
            self._states.forget()
            self._ids.clear()
            raise

    def _take_next(self, total: int, states: Counter[str]) -> Trial | None:
        """Make the trial that waits, or a new one, RUNNING and ours."""
        has_failed = self._states.count()["FAIL"] > 0
        most = total + (self._count_retried() if has_failed else 0)
        try:
            with self.storage.at_most(self.study_id, most):
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
        self.storage.hold(trial_id, leases.take_lease(self.engine, trial_id, self.owner))
        if choice.goes_on:
            self._paused.promote(trial_id)
        return trial

    def _ask(self, *, hidden: Set[int | None], only: int | None) -> Trial:
        """Ask Optuna for the trial that waits, or for a new one.

        hidden: trials that pause, and are not to be taken now
        only: the trial that is to be taken, whatever else waits; None: the first that waits
        """
        cache = cast("TrialCache", self.study._storage)
        cache.hidden, cache.only = hidden, only
        try:
            return self.study.ask()
        finally:
            cache.hidden, cache.only = frozenset(), None

    def _is_dropped(self, owner: str) -> bool:
        """Whether the holder of a trial does not run it: it is gone, or it is this worker, whose
        claim the database has cut off."""
        return (owner == self.owner and self._is_claiming) or is_gone(owner)

    def _enqueue_next(self, total: int, states: Counter[str]) -> bool:
        """Prepare what a new trial tries; return whether there is to be one."""
        if states.total() >= total or not self.has_room():
            return False
        return self._next.enqueue_known() or not self._next.is_exhausted()

    def attempt_at(self, trial: Trial) -> int | None:
        """Return the number of our attempt at a trial, which grows from one attempt to the next;
        None: the trial is not ours."""
        return self.storage.attempt_at(trial._trial_id)

    def was_abandoned(self, trial: Trial) -> bool:
        """Whether an earlier worker of ours has died at ``trial``, which got no further since."""
        return self.storage.counted_at(trial._trial_id) > 1

    @waits_out_outages
    def retry_mended(self) -> int:
        """Have trials tried again that failed with other files of the study; returns how many."""
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
    def set_attributes(self, trial: Trial, attributes: Mapping[str, Any]) -> None:
        """Set user attributes of ``trial``, in one transaction."""
        self.storage.write_attributes(trial._trial_id, attributes)
        trial._cached_frozen_trial.user_attrs.update(attributes)

    @waits_out_outages
    def report(self, trial: Trial, report: EpochReport) -> None:
        """Write an epoch's value, as `Trial.report` does, and all that was measured in it, in one
        transaction."""
        self._write_report(trial, report)

    def try_report(self, trial: Trial, report: EpochReport) -> bool:
        """Write the report, unless the database is away: then it is for later."""
        return self.retry.try_once(lambda: self._write_report(trial, report))

    def try_should_prune(self, trial: Trial) -> bool:
        """Whether the pruner ends ``trial``; not while the database that it looks at is away."""
        answers: list[bool] = []
        return self.retry.try_once(lambda: answers.append(self._should_prune(trial))) and answers[0]

    def _should_prune(self, trial: Trial) -> bool:
        """Ask the pruner; Optuna's own way to it is closed to trials with several goals."""
        pruner = self.study.pruner
        if isinstance(pruner, FrontPruner):
            return pruner.prune(self.study, trial._cached_frozen_trial)
        return len(self.study.directions) == 1 and trial.should_prune()

    @waits_out_outages
    def read_measured(self, trial: Trial, epoch: int) -> dict[str, float]:
        """Return what was measured on the validation images after an epoch of ``trial``."""
        with read(self.engine) as connection:
            return read_measured(connection, trial._trial_id, epoch)

    @waits_out_outages
    def trains_to_the_end(self, trial: Trial | FrozenTrial) -> bool:
        """Whether ``trial`` neither pauses nor is pruned: it measures how far seeds differ."""
        if not isinstance(trial, FrozenTrial):
            trial = self.storage.get_trial(trial._trial_id)
        return repeats_another(trial)

    def rung_epochs(self, epochs: int, trial: Trial | FrozenTrial) -> tuple[int, ...]:
        """Return the epochs after which ``trial`` of so many ``epochs`` may pause, in order. A
        rung is called by its epoch."""
        pruner = self._paused.pruner
        if pruner is None or self.trains_to_the_end(trial):
            return ()
        return pruner.rung_epochs(epochs, trial.number)

    @waits_out_outages
    def reach_rung(self, trial: Trial, *, rung: int, value: float) -> bool:
        """Note that our trial has reached a rung with its best value so far. False: it pauses."""
        return self._paused.reach(trial._trial_id, rung=rung, value=value)

    @waits_out_outages
    def pauses(self, trial: Trial) -> bool:
        """Whether our trial pauses at a rung and was not promoted: then it is to end."""
        return self._paused.pauses_at(trial._trial_id) is not None

    @property
    def lets_trials_pause(self) -> bool:
        """Whether trials pause, and the best go on from their checkpoints."""
        return self._paused.pruner is not None

    @waits_out_outages
    def select_kept(self, numbers: Iterable[int], *, all_of_them: bool) -> set[int]:
        """Return those of the trials that have ended, and keep their last checkpoint all the same:
        they may go on when the study gets more epochs or trials.

        all_of_them: whether also those keep it that no small study promotes (KEEP=checkpoints)
        """
        if not (all_of_them or self.lets_trials_pause):
            return set()
        return {each for each in numbers if self._keeps_checkpoint(each, all_of_them)}

    def _keeps_checkpoint(self, number: int, all_of_them: bool) -> bool:
        trial_id = self.id_of(number)
        state = self.storage.get_trial(trial_id).state
        if state != TrialState.PRUNED:
            return bool(state == TrialState.COMPLETE)
        if all_of_them:
            return self._paused.pauses_at(trial_id) is not None
        return self._paused.may_return(trial_id)

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
    def write_note(self, trial_id: int | None, words: str) -> None:
        """Write the dashboard's note of a trial or, with None, of the study; another's stays."""
        notes.write_note(self.storage, self.study_id, trial_id, words)

    def try_write_note(self, trial_id: int | None, words: str, *, earlier: str = "") -> bool:
        """Write the note, unless the database is away: a later one says more.

        earlier: a note that counts as ours, too
        """
        place = self.storage, self.study_id, trial_id
        return self.retry.try_once(lambda: notes.write_note(*place, words, earlier=earlier))

    def _write_report(self, trial: Trial, report: EpochReport) -> None:
        step = report.epoch - 1  # epochs count from 1, Optuna's steps from 0
        self.storage.write_epoch(trial._trial_id, report.epoch, step, report.value, report.measured)
        trial._cached_frozen_trial.intermediate_values.setdefault(step, report.value)

    def try_release(self, number: int) -> bool:
        """Give the trial back, unless the database is away: then whoever sees that this worker is
        gone takes it."""
        trial_id = self._ids.get(number)
        self.unreturned.add(number)
        try:
            if self.retry.try_once(lambda: self._release(number)):
                self.unreturned.discard(number)
        except DatabaseLost:
            pass
        finally:
            if trial_id is not None:
                self._let_go(trial_id)
        return number not in self.unreturned

    @waits_out_outages
    def release(self, number: int) -> None:
        """Give a RUNNING trial back so that somebody goes on with it, if it is still ours.

        A trial that was ended in the dashboard stays ended.
        """
        self._release(number)

    def _release(self, number: int) -> None:
        trial_id = self.id_of(number)
        try:
            with self._locked():
                if leases.return_lease(self.engine, trial_id, self.owner):
                    self.storage.set_trial_state_values(trial_id, TrialState.WAITING)
        except TrialLost:
            pass
        except UpdateFinishedTrialError:
            leases.end_lease(self.engine, trial_id)
        self._let_go(trial_id)

    def _let_go(self, trial_id: int) -> None:
        """A trial is ours no more."""
        self.storage.let_go(trial_id)
        self._taken.discard(trial_id)

    @waits_out_outages
    def renew(self, number: int) -> bool:
        """Renew the lease for another grace period. False: the trial is somebody else's by now."""
        return leases.renew_lease(self.engine, self.id_of(number), self.owner)

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
    def reclaim_from(self, owner: str, *, blame: bool = True) -> list[int]:
        """Put the trials of one worker that is gone back to WAITING; returns their numbers.

        blame: whether its trial may have killed it; False where we ended the worker
        """
        with self._locked():
            if not blame:
                leases.uncount_attempt(self.engine, owner)
            return self._abandoned.reclaim(lambda holder: holder == owner)

    @waits_out_outages
    def end_hung(self, number: int, reason: str) -> bool:
        """End a trial whose worker was killed because it hung. False: it had ended by itself."""
        with self._locked():
            trial_id = self.id_of(number)
            if self.storage.get_trial(trial_id).state.is_finished():
                return False
            self._abandoned.fail(trial_id, Outcome.INTERRUPTED, reason)
            return True

    @waits_out_outages
    def reclaim_abandoned(self) -> list[int]:
        """Put the trials of all workers that are gone, or silent for too long, back to WAITING;
        returns their numbers."""
        with self._locked():
            return self._abandoned.reclaim(is_gone)

    @waits_out_outages
    def count(self) -> Counter[str]:
        """Count the trials by state, without failed ones in whose place others are tried.

        Those that pause are no WAITING ones here, but PAUSED; so are those that have ended at a
        rung and are to go on.
        """
        states = self._states.count()
        if states["WAITING"] or states["PRUNED"]:
            self._count_paused(states)
        if states["FAIL"]:
            states["FAIL"] -= self._count_retried()
        return states

    def _count_paused(self, states: Counter[str]) -> None:
        """Count those that pause as PAUSED. One or the other may just have been taken."""
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
        """Count the failed trials in whose place others are tried."""
        return len(read_retries(self.study).numbers)

    @waits_out_outages
    def check_counts(self) -> None:
        """Count all trials in the database. Raises `DatabaseWentBack` where ended ones are gone."""
        self._states.check()

    @waits_out_outages
    def read_again(self) -> None:
        """Forget the trials that were read: from now on all is what the database says now."""
        self.study._storage = TrialCache(self.storage, self.retry)
        self._ids.clear()

    def count_ended(self) -> int:
        """Count the trials that have ended."""
        return count_ended(self.count())

    def has_ended(self, total: int) -> bool:
        """Whether all of ``total`` trials have ended, or those that there are and the sampler has
        nothing left to try."""
        return self.count_ended() >= total or self.is_stopped()

    @waits_out_outages
    def read_choices(self) -> Choices:
        """Read what a person has chosen until now."""
        with read(self.engine) as connection:
            return preferences.read_choices(connection, self.study_id)

    def has_room(self) -> bool:
        """Whether a new trial may begin; always so where no person is asked."""
        return self.shown is None or self.read_choices().has_room(self.shown)

    @waits_out_outages
    def id_of(self, number: int) -> int:
        """Return the database's id of trial ``number``."""
        if number not in self._ids:
            found = self.storage.get_trial_id_from_study_id_trial_number(self.study_id, number)
            self._ids[number] = found
        return self._ids[number]

    @contextmanager
    def keep_lease(
        self, number: int, *, is_stuck: Callable[[], bool] = lambda: False
    ) -> Iterator[threading.Event]:
        """Renew the lease on a trial in the background, also through a long epoch.

        The event that it yields is set once the trial is somebody else's. A database that is
        away for a while costs renewals, not the thread.
        is_stuck: whether the training has not got on for so long that nobody renews its lease
        """
        trial_id = self.id_of(number)
        done, lost = threading.Event(), threading.Event()

        def renew() -> None:
            while not done.wait(leases.RENEWAL):
                if is_stuck():
                    continue
                with suppress(SQLAlchemyError, StorageError):  # the training meets it, too
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


def _without_surplus(states: Counter[str], total: int) -> Counter[str]:
    """Return the states without interrupted trials where as many others as ``total`` have begun: a
    person has lowered it since, and they wait for a higher one."""
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
    )
    if isinstance(sampler, StudySampler) and sampler.draws_alone:
        loaded.get_trials(deepcopy=False)  # fills Optuna's cache before it draws under the lock
    return queue
