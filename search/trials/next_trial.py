"""What the next trial of a study tries: a reference, or what the sampler draws.

    following = NextTrial(study, storage, references={"reported": {"lr": 0.001}}, suggest=suggest)
    following.enqueue_reference()      # the next trial tries a reference, if one is left
    following.draw(trial)              # under the study's lock, where the sampler needs that
    following.is_stopped()             # the sampler has nothing left to try

`search.trials.queue` calls it inside the lock that one process holds at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.trial import Trial
from sqlalchemy.exc import SQLAlchemyError

from search.strategies.seeded import StudySampler
from storage.database.optuna_storage import TrialStorage

STOPPED_BY = "genstudy:stopped_by"  # system attribute of a study: the sampler that stopped it

Suggest = Callable[[Trial], object]


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

    def enqueue_reference(self) -> None:
        """Make the next trial try a reference that no trial has tried, if there is one."""
        if self.references:
            for tried in self.study.get_trials(deepcopy=False):
                self.references.pop(tried.user_attrs.get("reference", ""), None)
        for name, parameters in self.references.items():
            self.study.enqueue_trial(dict(parameters), user_attrs={"reference": name})
            return

    def draw(self, trial: Trial, *, relative: bool = False) -> None:
        """Draw all parameters of ``trial`` now, if its sampler has to see them before it draws
        another's; those that it draws together if ``relative``."""
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

    def is_stopped(self) -> bool:
        """Whether this sampler has stopped the study: it has nothing left to try."""
        sampler = self.study.sampler
        stored = self.storage.get_study_system_attrs(self.study._study_id).get(STOPPED_BY)
        return isinstance(sampler, StudySampler) and stored == sampler.label

    def note_stop(self) -> None:
        """Store that the sampler has stopped the study, for all workers and later runs."""
        sampler = self.study.sampler
        if isinstance(sampler, StudySampler) and sampler.has_stopped:
            self.storage.set_study_system_attr(self.study._study_id, STOPPED_BY, sampler.label)
