"""What the next trial of a study tries: a reference, a failed trial once more, or a new draw.

    following = NextTrial(study, storage, references={"reported": {"lr": 0.001}}, suggest=suggest)
    following.enqueue_known()          # lets the next trial try a reference, or a failed trial
    following.draw(trial)              # under the study's lock, if the sampler needs that
    following.is_exhausted()           # every point has a trial, which may still run
    following.is_stopped()             # the sampler has nothing left to try

`search.trials.queue` calls it inside the lock that one process holds at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.samplers import BaseSampler
from optuna.trial import Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from search.strategies.seeded import StudySampler
from search.trials.retries import ATTRIBUTE as RETRIES
from search.trials.retries import read_retries, write_retries
from storage.database.optuna_storage import TrialStorage

STOPPED_BY = "genstudy:stopped_by"  # system attribute of a study: the sampler that stopped it
STOP_REASON = "genstudy:stop_reason"  # and why, in words

OPEN = (TrialState.RUNNING, TrialState.WAITING)

Suggest = Callable[[Trial], object]


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """What trials are drawn with.

    references: parameters that the first trials try, by name
    """

    sampler: BaseSampler
    references: Mapping[str, Mapping[str, Any]]


FindBegun = Callable[[optuna.Study], Drawing | None]


class NextTrial:
    """The references of a study that no trial has tried, and its sampler.

    references: parameters by name; suggest: asks a trial for all its parameters
    """

    def __init__(
        self,
        study: optuna.Study,
        storage: TrialStorage,
        *,
        references: Mapping[str, Mapping[str, Any]],
        suggest: Suggest,
    ) -> None:
        self.study = study
        self.storage = storage
        self.references = dict(references)  # those that no trial has tried yet, as far as we know
        self.suggest = suggest

    def enqueue_known(self) -> bool:
        """Let the next trial try a reference that no trial has tried, or a failed trial that was
        mended.

        Return whether there is one.
        """
        if self.references:
            for tried in self.study.get_trials(deepcopy=False):
                self.references.pop(tried.user_attrs.get("reference", ""), None)
        for name, parameters in self.references.items():
            self.study.enqueue_trial(dict(parameters), user_attrs={"reference": name})
            return True
        retries = read_retries(self.study)
        if not retries.waiting:
            return False
        number, left = retries.with_one_made()
        write_retries(self.study, left)  # first: a kill here costs the retry, and no trial
        found = self.storage.get_trial_id_from_study_id_trial_number(self.study._study_id, number)
        failed = self.storage.get_trial(found)
        kept = {key: value for key, value in failed.user_attrs.items() if key == "reference"}
        self.study.enqueue_trial(failed.params, user_attrs={RETRIES: number, **kept})
        return True

    def draw(self, trial: Trial, *, relative: bool = False) -> None:
        """Draw all parameters of ``trial`` now, if its sampler needs them before another trial
        draws.

        relative: draw the parameters that the sampler draws together in any case
        """
        sampler = self.study.sampler
        draws_alone = isinstance(sampler, StudySampler) and sampler.draws_alone
        if relative or draws_alone:
            _ = trial.relative_params
        if draws_alone:
            try:
                self.suggest(trial)
            except (SQLAlchemyError, StorageInternalError):
                raise
            except Exception:
                return  # the trial asks for its parameters again, and has the error for itself

    def is_exhausted(self) -> bool:
        """Whether no further trial may be made: the sampler has stopped the study, or all points
        have trials.

        It is False while a failed trial is to be tried again. Trials may still run, and be given
        back.
        """
        sampler = self.study.sampler
        if not isinstance(sampler, StudySampler) or read_retries(self.study).waiting:
            return False
        stored = self.storage.get_study_system_attrs(self.study._study_id).get(STOPPED_BY)
        return stored == sampler.label or sampler.has_tried_all(self.study)

    def is_stopped(self) -> bool:
        """Whether nothing is left to try, and all trials have ended."""
        return self.is_exhausted() and not self.study.get_trials(deepcopy=False, states=OPEN)

    def stop_reason(self) -> str:
        """Return why the sampler has stopped the study, in words."""
        found = self.storage.get_study_system_attrs(self.study._study_id).get(STOP_REASON)
        return str(found) if found else "the sampler has nothing left to try"

    def note_stop(self) -> None:
        """Store that the sampler has stopped the study, for all workers and later runs."""
        sampler = self.study.sampler
        if isinstance(sampler, StudySampler) and sampler.has_stopped:
            self.storage.set_study_system_attr(self.study._study_id, STOP_REASON, sampler.reason)
            self.storage.set_study_system_attr(self.study._study_id, STOPPED_BY, sampler.label)
