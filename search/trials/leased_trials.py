"""Who holds which trial of a study: given back, renewed, and taken from workers that are gone.

with trials.keep_lease(7) as lost: ...      # set once trial 7 is somebody else's
trials.release(7)                           # somebody goes on with it
trials.reclaim_abandoned()                  # those of workers that are gone
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from search.trials.abandoned import AbandonedTrials
from search.trials.outcomes import Outcome
from search.trials.owner import is_gone
from search.trials.stored_trials import StoredTrials, waits_out_outages
from storage.database import leases
from storage.database.fences import TrialLost
from storage.database.optuna_storage import TrialStorage
from storage.database.retry import DatabaseLost, DatabaseRetry
from storage.errors import StorageError


class LeasedTrials(StoredTrials):
    """The stored trials of one study, each of which one process holds at a time.

    unreturned: trials that could not be given back
    """

    def __init__(
        self,
        study: optuna.Study,
        storage: TrialStorage,
        *,
        owner: str,
        retry: DatabaseRetry | None = None,
        version: str = "",
    ) -> None:
        super().__init__(study, storage, owner=owner, retry=retry, version=version)
        self.unreturned: set[int] = set()
        self._taken: set[int] = set()  # ids of those that were claimed here and are not back
        self._abandoned = AbandonedTrials(storage, self.study_id, self._states, version)

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
        """Forget a trial: it is not ours any more."""
        self.storage.end_attempt(trial_id)
        self._taken.discard(trial_id)

    def try_release(self, number: int) -> bool:
        """Give the trial back. If the database is away, another process takes it once our lease
        expires."""
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
    def renew(self, number: int) -> bool:
        """Renew the lease for another grace period. False: another process has taken the trial."""
        return leases.renew_lease(self.engine, self.id_of(number), self.owner)

    @contextmanager
    def keep_lease(
        self, number: int, *, is_stuck: Callable[[], bool] = lambda: False
    ) -> Iterator[threading.Event]:
        """Renew the lease on a trial in the background, also through a long epoch.

        The event that it yields is set once another process has taken the trial. A database that is
        away for a while costs renewals, but does not end the thread.
        is_stuck: whether the training stands still for so long that its lease is to expire
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

    @waits_out_outages
    def reclaim_from(self, owner: str, *, blame: bool = True) -> list[int]:
        """Put the trials of one worker that is gone back to WAITING; returns their numbers.

        blame: whether its trial may have killed it; False if we have ended the worker
        """
        with self._locked():
            if not blame:
                leases.uncount_attempt(self.engine, owner)
            return self._abandoned.reclaim(lambda holder: holder == owner)

    @waits_out_outages
    def reclaim_abandoned(self) -> list[int]:
        """Put the trials of all workers that are gone, or silent for too long, back to WAITING;
        returns their numbers."""
        with self._locked():
            return self._abandoned.reclaim(is_gone)

    @waits_out_outages
    def end_hung(self, number: int, reason: str) -> bool:
        """End a trial whose worker was killed because it hung. False: it had ended by itself."""
        with self._locked():
            trial_id = self.id_of(number)
            if self.storage.get_trial(trial_id).state.is_finished():
                return False
            self._abandoned.fail(trial_id, Outcome.INTERRUPTED, reason)
            return True
