"""The trials of one study in the database, as one process reads and writes them.

    trials.report(trial, EpochReport(1, 0.05, {"train_mse": 0.06}))
    trials.try_report(trial, ...)      # False while the database is away
    trials.try_should_prune(trial)

What is written of a trial is refused once another process holds it (`storage.database.fences`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import optuna
from optuna.trial import Trial
from sqlalchemy import Engine

from search.strategies.front_pruner import FrontPruner
from search.trials.epoch_report import EpochReport
from storage.database import notes
from storage.database.optuna_storage import TrialStorage
from storage.database.retry import DatabaseRetry
from storage.database.study_lock import study_lock
from storage.database.transactions import read
from storage.database.trial_cache import TrialCache
from storage.database.trial_states import TrialStates
from storage.database.vectors import read_measured

P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S", bound="StoredTrials")


def waits_out_outages(
    method: Callable[Concatenate[S, P], T],
) -> Callable[Concatenate[S, P], T]:
    """Make a method start again if the database was away: its locks are gone by then.

    A method that calls another one waits as a whole.
    """

    @wraps(method)
    def wait(self: S, *args: P.args, **named: P.kwargs) -> T:
        return self.retry.wait_for(lambda: method(self, *args, **named))

    return cast("Callable[Concatenate[S, P], T]", wait)


class StoredTrials:
    """The stored trials of one study.

    owner: the name of this process in leases (`search.trials.owner.owner_name`)
    retry: waits for a database that is away
    version: of the code that computes values

    Every method waits until the database answers. A method called ``try_`` does not: it returns
    False while the database is away, for callers that have something better to do.
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
        self.study = study
        self.storage = storage
        self.engine: Engine = storage.engine
        self.study_id = storage.get_study_id_from_name(study.study_name)
        self.owner = owner
        self.retry = retry or DatabaseRetry()
        self.version = version
        study._storage = TrialCache(storage, self.retry)
        self._states = TrialStates(self.engine, self.study_id)
        self._ids: dict[int, int] = {}  # by number

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock of the study. After an error all that was read is forgotten, because a
        server undoes what was written under the lock."""
        try:
            with study_lock(self.engine, self.study_id):
                yield
        except Exception:
            self.study._storage = TrialCache(self.storage, self.retry)
            self._states.forget()
            self._ids.clear()
            raise

    @waits_out_outages
    def id_of(self, number: int) -> int:
        """Return the database's id of trial ``number``."""
        if number not in self._ids:
            found = self.storage.get_trial_id_from_study_id_trial_number(self.study_id, number)
            self._ids[number] = found
        return self._ids[number]

    def attempt_at(self, trial: Trial) -> int | None:
        """Return the number of our attempt at a trial, which grows from one attempt to the next;
        None: the trial is not ours."""
        return self.storage.attempt_at(trial._trial_id)

    def was_abandoned(self, trial: Trial) -> bool:
        """Whether an earlier worker of ours died at ``trial``, which has got no further since."""
        return self.storage.counted_at(trial._trial_id) > 1

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
        """Write the report, unless the database is away."""
        return self.retry.try_once(lambda: self._write_report(trial, report))

    def _write_report(self, trial: Trial, report: EpochReport) -> None:
        step = report.epoch - 1  # epochs count from 1, Optuna's steps from 0
        self.storage.write_epoch(trial._trial_id, report.epoch, step, report.value, report.measured)
        trial._cached_frozen_trial.intermediate_values.setdefault(step, report.value)

    @waits_out_outages
    def read_measured(self, trial: Trial, epoch: int) -> dict[str, float]:
        """Return what was measured on the validation images after an epoch of ``trial``."""
        with read(self.engine) as connection:
            return read_measured(connection, trial._trial_id, epoch)

    def try_should_prune(self, trial: Trial) -> bool:
        """Whether the pruner ends ``trial``; False while the database is away."""
        answers: list[bool] = []
        return self.retry.try_once(lambda: answers.append(self._should_prune(trial))) and answers[0]

    def _should_prune(self, trial: Trial) -> bool:
        """Ask the pruner. Optuna's own method refuses trials with several goals."""
        pruner = self.study.pruner
        if isinstance(pruner, FrontPruner):
            return pruner.prune(self.study, trial._cached_frozen_trial)
        return len(self.study.directions) == 1 and trial.should_prune()

    @waits_out_outages
    def write_note(self, trial_id: int | None, words: str) -> None:
        """Write the dashboard's note of a trial or, with None, of the study; another's stays."""
        notes.write_note(self.storage, self.study_id, trial_id, words)

    def try_write_note(self, trial_id: int | None, words: str, *, earlier: str = "") -> bool:
        """Write the note, unless the database is away.

        earlier: a note that counts as ours, too
        """
        place = self.storage, self.study_id, trial_id
        return self.retry.try_once(lambda: notes.write_note(*place, words, earlier=earlier))

    @waits_out_outages
    def check_counts(self) -> None:
        """Count all trials in the database. Raises `DatabaseWentBack` if ended ones are missing."""
        self._states.check()

    @waits_out_outages
    def read_again(self) -> None:
        """Forget the trials that were read before."""
        self.study._storage = TrialCache(self.storage, self.retry)
        self._ids.clear()
