"""How far an earlier study carries over to this one: `carry_over`, from 0 to 1.

    learnt = LearntSource(source, space)
    learnt.find_carry_over(order_trials(study))

A random forest learns from the earlier study which parameters were good there. For each trial of
this study it predicts how good the trial is. The predictions are compared with the results by
Spearman's rank correlation, less one standard error (Fisher's transformation). So a few trials that
agree by chance say little, and a study whose ranks are reversed does not count at all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna import Study
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

if TYPE_CHECKING:
    from sklearn.ensemble import ExtraTreesRegressor

LEAST = 4  # trials of this study, before anything is known of what carries over
TREES, LEAF = 100, 2  # of the forest, and trials in a leaf at least
STRONGEST = 0.999  # correlation: 1 would be certain after four trials

Space = Mapping[str, BaseDistribution]


@dataclass(frozen=True, kw_only=True)
class WarmSource:
    """Trials of an earlier study, the best first, with all parameters that this study asks for.

    name: of that study; numbers: of its trials there
    varied: the parameters that it has given them itself; the others were drawn at random
    """

    name: str
    numbers: Sequence[int]
    parameters: Sequence[Mapping[str, Any]]
    varied: Sequence[str]


def order_trials(study: Study) -> list[FrozenTrial]:
    """Return the trials that have ended, or pause at a rung, the best first.

    One that is pruned or pauses ranks behind all complete ones, and by how far it came, as TPE
    ranks pruned ones.
    """
    sign = -1 if study.direction == StudyDirection.MAXIMIZE else 1
    found = [t for t in study._get_trials(deepcopy=False, use_cache=True) if _counts(t)]

    def place(trial: FrozenTrial) -> tuple[float, float, float, int]:
        if trial.state is TrialState.COMPLETE:
            return 0, 0, sign * trial.values[0], trial.number
        step = trial.last_step
        last = math.nan if step is None else trial.intermediate_values[step]
        value = sign * last if math.isfinite(last) else math.inf
        return 1, math.inf if step is None else -step, value, trial.number

    return sorted(found, key=place)


def _counts(trial: FrozenTrial) -> bool:
    """Whether a trial says how good its parameters are."""
    if trial.state is TrialState.COMPLETE:
        says = math.isfinite(trial.values[0])
    else:
        is_paused = trial.state is TrialState.WAITING and bool(trial.intermediate_values)
        says = is_paused or trial.state is TrialState.PRUNED
    return says and all(excess <= 0 for excess in trial.constraints.values())


class LearntSource:
    """A source, and a random forest that has learned it."""

    def __init__(self, source: WarmSource, space: Space) -> None:
        self.source = source
        self.space = space

    @cached_property
    def _forest(self) -> ExtraTreesRegressor:
        from sklearn.ensemble import ExtraTreesRegressor  # nobody else waits for it

        trials = self.source.parameters
        forest = ExtraTreesRegressor(TREES, min_samples_leaf=LEAF, random_state=0)
        return forest.fit(self._as_numbers(trials), np.arange(len(trials)))

    def find_carry_over(self, own: Sequence[FrozenTrial]) -> float:
        """Return the share of the source that this study's sampler sees, from 0 to 1.

        own: trials of this study, the best first, `LEAST` or more
        """
        expected = self._forest.predict(self._as_numbers([trial.params for trial in own]))
        return carry_over(expected)

    def _as_numbers(self, trials: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Return a row of numbers for each set of parameters; of those that the source varied."""
        return np.array(
            [
                [number for name in self.source.varied
                 for number in as_numbers(self.space[name], trial.get(name, _MISSING))]
                for trial in trials
            ]
        )  # fmt: skip


def carry_over(expected: Sequence[float]) -> float:
    """Return how well a source's ranks hold in this study, from 0 to 1.

    expected: the source's predictions for this study's trials, of which the best comes first
    """
    from scipy.stats import spearmanr

    if len(expected) < LEAST or np.ptp(expected) == 0:
        return 0.0
    correlation = min(float(spearmanr(range(len(expected)), expected).statistic), STRONGEST)
    if correlation <= 0:
        return 0.0
    surely = math.atanh(correlation) - 1 / math.sqrt(len(expected) - 3)  # Fisher's transformation
    return max(0.0, math.tanh(surely))


_MISSING = object()


def as_numbers(distribution: BaseDistribution, value: Any) -> list[float]:
    """Return a parameter as numbers from 0 to 1, or -1 where a branch does not ask for it."""
    if isinstance(distribution, CategoricalDistribution):
        return [
            float(value is not _MISSING and _is_same(value, choice))
            for choice in distribution.choices
        ]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if value is _MISSING:
        return [-1.0]
    low, high, value = distribution.low, distribution.high, float(value)
    if distribution.log:
        low, high, value = math.log(low), math.log(high), math.log(value)
    return [(value - low) / (high - low) if high > low else 0.0]


def _is_same(value: Any, choice: Any) -> bool:
    return type(value) is type(choice) and bool(value == choice)
