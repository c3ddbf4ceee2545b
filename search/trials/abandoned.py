"""Trials whose worker is gone: they are put back for another worker, or failed.

A worker that is killed, or whose machine goes down, leaves its trial RUNNING with a lease that
nobody renews. Such a trial goes back to WAITING, and the next worker takes it. One that was
abandoned `storage.database.leases.MAX_ATTEMPTS` times without getting further kills its workers,
and fails instead.

How long a lease was not renewed is measured here, by this process's own monotonic clock: the
database's may be set forward or back by hours.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Set
from contextlib import suppress

from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from search.trials.outcomes import Outcome
from search.trials.retries import VERSION
from search.words import format_count
from storage.database import leases
from storage.database.notes import write_note
from storage.database.optuna_storage import TrialStorage
from storage.database.trial_states import TrialStates
from storage.files.markdown import escape_markup

SECOND_LOOK = 2 * leases.RENEWAL  # seconds: a worker that lives has renewed its lease by then


class AbandonedTrials:
    """Finds the abandoned trials of one study. Its caller holds the study's lock.

    version: of the study's files
    """

    def __init__(
        self, storage: TrialStorage, study_id: int, states: TrialStates, version: str = ""
    ) -> None:
        self.storage = storage
        self.version = version
        self.study_id = study_id
        self.states = states
        self._seen: dict[int, tuple[float | None, float]] = {}  # last renewals, and since when
        self._silent: dict[int, float] = {}  # trials whose leases ran out, and when we saw it

    def reclaim(self, is_dead: Callable[[str], bool], *, kept: Set[int] = frozenset()) -> list[int]:
        """Put trials of dead workers back to WAITING, and fail those that killed several workers.

        is_dead: whether the owner of a lease is gone; kept: ids of trials that the caller trains
        Returns the numbers of these trials.
        """
        engine = self.storage.engine
        running = leases.running_trials(engine, self.study_id, after=self.states.floor)
        held = [trial for trial in running if trial.trial_id not in kept]
        found = [t for t in held if t.owner is None or is_dead(t.owner) or self._stays_silent(t)]
        for trial in found:
            if trial.attempts >= leases.MAX_ATTEMPTS:
                times = format_count(trial.attempts, "time")
                reason = f"its worker died {times} without getting further"
                self.fail(trial.trial_id, Outcome.FAILED, reason)
            else:
                self._put_back(trial.trial_id)
        return [trial.number for trial in found]

    def _put_back(self, trial_id: int) -> None:
        """Let a trial wait for another worker. Writes of its own worker are refused from now on.

        Two processes may do this at once, if the lock was lost. The last one decides.
        """
        fence = leases.clear_owner(self.storage.engine, trial_id)
        self.storage.begin_attempt(trial_id, leases.Attempt(fence=fence, counted=0))
        with suppress(UpdateFinishedTrialError):  # it has just ended, or is taken over already
            self.storage.set_trial_state_values(trial_id, TrialState.WAITING)
        self.storage.end_attempt(trial_id)

    def fail(self, trial_id: int, outcome: Outcome, reason: str) -> None:
        """End a trial that its worker cannot end any more."""
        self.storage.end_attempt(trial_id)  # should the attempt have been our own
        words = f"**{str(outcome).capitalize()}**: {escape_markup(reason)}"
        write_note(self.storage, self.study_id, trial_id, words)
        about = {"outcome": str(outcome), "reason": reason}
        if outcome is Outcome.FAILED and self.version:
            about[VERSION] = self.version
        self.storage.write_attributes(trial_id, about)
        self.storage.set_trial_state_values(trial_id, TrialState.FAIL)
        leases.end_lease(self.storage.engine, trial_id)

    def _stays_silent(self, trial: leases.HeldTrial) -> bool:
        """Whether nobody has renewed an expired lease, although the database was there.

        After an outage all leases have expired. Live workers then renew theirs at once.
        """
        now = time.monotonic()
        renewed, since = self._seen.setdefault(trial.trial_id, (trial.renewed, now))
        if renewed != trial.renewed:
            self._seen[trial.trial_id] = trial.renewed, now
        if renewed != trial.renewed or now - since < leases.GRACE:
            self._silent.pop(trial.trial_id, None)
            return False
        return now - self._silent.setdefault(trial.trial_id, now) >= SECOND_LOOK
