"""A trial that repeats another one with a seed of its own, to measure how far seeds differ.

    study._storage.set_trial_system_attr(trial_id, REPEATED, 17)
    repeats_another(trial)                   # it trains to the end, whatever rungs and pruner say
    RepeatingSampler(17)                     # gives it all parameters of trial 17

`search.strategies.stopping` decides which trial is repeated, and when.
"""

from __future__ import annotations

from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

REPEATED = "genstudy:repeats"  # system attribute of a trial: the number of the one it repeats


def repeats_another(trial: FrozenTrial) -> bool:
    """Whether a trial repeats another one: it trains to the end."""
    return REPEATED in trial.system_attrs


class RepeatingSampler(BaseSampler):
    """Gives a trial all parameters of another one."""

    def __init__(self, source: int) -> None:
        self.source = source

    def _trial(self, study: Study) -> FrozenTrial:
        return next(t for t in study.get_trials(deepcopy=False) if t.number == self.source)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return dict(self._trial(study).distributions)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return dict(self._trial(study).params)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        return self._trial(study).params[param_name]
