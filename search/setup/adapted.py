"""Parameters of another study, completed for a trial of this one.

    fit_parameters(study, {"lr": 0.001, "depth": 3}, number=7)    # None: they are outside its space

Parameters that this study does not have are left out. Missing ones are drawn at random, always the
same.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.exceptions import TrialPruned
from optuna.samplers import RandomSampler
from optuna.trial import FixedTrial

from models.seeds import derive_seed
from search.setup.checks import is_within
from search.study import Study

LARGEST = 1e300  # whole numbers of a stranger may be too large for a float


def fit_parameters(study: Study, given: Mapping[str, Any], number: int) -> dict[str, Any] | None:
    """Return all parameters of a trial of ``study``, among them those that are ``given``.

    None: one of them is outside the space, or ``suggest`` turns them down.
    number: of the trial that they come from; the random draws follow from it
    """
    trial = _FilledTrial(given, number)
    with suppress(OutsideSpace, TrialPruned):
        study.spec.suggest(trial)
        found = dict(trial.params)
        return found if found.keys() <= study.space.keys() else None
    return None


class OutsideSpace(Exception):
    """A value is outside the study's space."""


class _FilledTrial(FixedTrial):
    """A trial with some parameters, which draws the others at random."""

    def __init__(self, given: Mapping[str, Any], number: int) -> None:
        super().__init__(dict(given), number)

    def _suggest(self, name: str, distribution: BaseDistribution) -> Any:
        if name in self._params:
            self._params[name] = as_value(distribution, self._params[name])
        else:
            drawing = RandomSampler(seed=derive_seed(0, "warm", self._number, name))
            no_study: Any = None  # for the same in every study
            self._params[name] = drawing.sample_independent(no_study, no_study, name, distribution)
        return super()._suggest(name, distribution)


def as_value(distribution: BaseDistribution, value: Any) -> Any:
    """Return ``value`` as the distribution has it: 64.0 is 64. Raises `OutsideSpace`."""
    if isinstance(distribution, CategoricalDistribution):
        for choice in distribution.choices:
            if isinstance(choice, bool) == isinstance(value, bool) and choice == value:
                return choice
        raise OutsideSpace
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > LARGEST:
        raise OutsideSpace
    if isinstance(distribution, IntDistribution) and value == value // 1:
        value = int(value)
    elif not isinstance(distribution, IntDistribution):
        value = float(value)
    if not is_within(distribution, value):
        raise OutsideSpace
    return value
