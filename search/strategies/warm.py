"""A sampler that also sees trials of earlier studies, as far as these carry over: `WARM=cae,old`.

    sampler = with_warm(make_sampler("tpe", ...), sources, space)
    carry_over([3.0, 9.5, 11.0, 40.2])           # 0: the sampler sees none of a source, 1: all

TPE draws its first trials at random (``n_startup_trials``). In their place it sees trials of
earlier studies, as soon as these seem to hold here. What an earlier study has found may hold, or
not at all. So it is compared with this study's own trials: a random forest learns from the source
which parameters were good there, and says it of the parameters that were tried here. The rank
correlation of what it says with what came out here (Spearman's, less one standard error) is the
share of the source that the sampler sees. It is worked out anew for each trial, and 0 until four
have ended.

Values of another study have another scale. Only their order counts: the source's best tenth gets
the values of this study's best tenth.

When as many trials as TPE asks for have ended, it sees these alone. Shown for longer, a source
whose optimum lies a little beside this one's holds the search back (`tests/benchmarks/warm.py`).

Earlier trials never rank: they are in no table, no count and no pruner, and in the database only as
one attribute of the study (`search.setup.warm`).
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
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
from optuna.samplers import BaseSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from search.errors import BadVariable
from search.strategies.seeded import StudySampler

if TYPE_CHECKING:
    from sklearn.ensemble import ExtraTreesRegressor

ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
LEAST = 4  # trials of this study, before anything is known of what carries over
TREES, LEAF = 100, 2
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


def with_warm(sampler: StudySampler, sources: Sequence[WarmSource], space: Space) -> StudySampler:
    """Return the sampler, which sees the trials of ``sources``, too, if there are any and it learns
    from them."""
    if not sources or _startup_trials(sampler) == 0:
        return sampler
    return WarmSampler(sampler, sources, space)


def check_learns(sampler: StudySampler) -> None:
    """Raise `BadVariable` for a sampler to which earlier trials cannot be told.

    ``gp`` takes values as they are, and those of another study have another scale. ``cmaes`` and
    ``nsgaii`` go on from generations of their own. The others learn from no values at all.
    """
    if not isinstance(sampler._any_sampler(), TPESampler):
        raise BadVariable(
            "WARM tells the sampler what was good in earlier studies, and "
            f"{sampler.label} takes no such trials: give SAMPLER=tpe, or leave WARM out"
        )


def _startup_trials(sampler: StudySampler) -> int:
    """Return how many trials a TPE sampler draws at random; 0: it is another one."""
    drawing = sampler._any_sampler()
    return drawing._n_startup_trials if isinstance(drawing, TPESampler) else 0


class WarmSampler(StudySampler):
    """Another sampler, to which earlier studies are shown as far as they carry over.

    space: the parameters of this study
    needed: trials of this study after which the sampler sees these alone
    """

    def __init__(self, inner: StudySampler, sources: Sequence[WarmSource], space: Space) -> None:
        super().__init__(inner.label, draws_alone=inner.draws_alone)
        self.inner = inner
        self.sources = [_Learnt(source, space) for source in sources]
        self.needed = _startup_trials(inner)
        self._shown: tuple[int, list[FrozenTrial]] = (-1, [])  # to which trial, and what

    @property
    def points(self) -> int | None:
        return self.inner.points

    def _sampler_of(self, trial: FrozenTrial) -> BaseSampler:
        return self.inner

    def _any_sampler(self) -> BaseSampler:
        return self.inner._any_sampler()

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return super().sample_relative(self._with_sources(study, trial), trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        shown = self._with_sources(study, trial)
        return super().sample_independent(shown, trial, param_name, param_distribution)

    def _with_sources(self, study: Study, trial: FrozenTrial) -> Study:
        """Return the study with the earlier trials that count for ``trial``: all of its parameters
        are drawn with the same."""
        if self._shown[0] != trial.number:
            self._shown = trial.number, self._choose(study)
        return _WarmStudy(study, self._shown[1])

    def _choose(self, study: Study) -> list[FrozenTrial]:
        ended = study._get_trials(deepcopy=False, states=ENDED, use_cache=True)
        if not LEAST <= len(ended) < self.needed:
            return []
        own = order_trials(study)
        values = [trial.values[0] for trial in own if trial.state is TrialState.COMPLETE]
        if not values:
            return []
        found: list[FrozenTrial] = []
        for source in self.sources:
            share = source.find_carry_over(own)
            places = spread(len(source.trials), round(share * len(source.trials)))
            for place in places:
                value = value_at((place + 0.5) / len(source.trials), values, len(own))
                found.append(_as_older(source.trials[place], value, source.space, len(found)))
        return found[::-1]  # by number, as Optuna lists trials


def order_trials(study: Study) -> list[FrozenTrial]:
    """Return the trials that have ended, the best first; a pruned one ranks behind all complete
    ones, and by how far it came, as TPE ranks it."""
    sign = -1 if study.direction == StudyDirection.MAXIMIZE else 1
    found = [
        t for t in study._get_trials(deepcopy=False, states=ENDED, use_cache=True) if _counts(t)
    ]

    def place(trial: FrozenTrial) -> tuple[float, float, float, int]:
        if trial.state is TrialState.COMPLETE:
            return 0, 0, sign * trial.values[0], trial.number
        step = trial.last_step
        last = math.nan if step is None else trial.intermediate_values[step]
        value = sign * last if math.isfinite(last) else math.inf
        return 1, -math.inf if step is None else -step, value, trial.number

    return sorted(found, key=place)


def _counts(trial: FrozenTrial) -> bool:
    """Whether a trial that has ended says how good its parameters are."""
    is_number = trial.state is not TrialState.COMPLETE or math.isfinite(trial.values[0])
    return is_number and all(excess <= 0 for excess in trial.constraints.values())


def spread(count: int, chosen: int) -> list[int]:
    """Return ``chosen`` of the places 0 to ``count`` - 1, as far apart as possible.

    >>> spread(10, 3)
    [1, 5, 8]
    """
    return [int((index + 0.5) * count / chosen) for index in range(chosen)]


def value_at(share: float, values: Sequence[float], ranked: int) -> float:
    """Return the value that has ``share`` of all trials before it, from 0 (the best) to 1.

    values: of the complete trials, the best first; ranked: how many trials there are with those
        that were pruned, all of which are worse

    >>> value_at(0.5, [1.0, 2.0, 4.0], 3), value_at(0.9, [1.0, 2.0], 4)
    (2.0, 2.0)
    """
    return float(np.interp(share * ranked - 0.5, range(len(values)), values))


class _Learnt:
    """A source, and what a random forest has learnt of it."""

    def __init__(self, source: WarmSource, space: Space) -> None:
        self.source = source
        self.space = space
        self.trials = source.parameters

    @cached_property
    def _forest(self) -> ExtraTreesRegressor:
        from sklearn.ensemble import ExtraTreesRegressor  # nobody else waits for it

        forest = ExtraTreesRegressor(TREES, min_samples_leaf=LEAF, random_state=0)
        return forest.fit(self._as_numbers(self.trials), np.arange(len(self.trials)))

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

    expected: what the source says of this study's trials, of which the best is the first
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


def _as_older(parameters: Mapping[str, Any], value: float, space: Space, index: int) -> FrozenTrial:
    """Return an earlier trial as the sampler sees it: complete, and before all of the study."""
    return FrozenTrial(
        number=-1 - index,
        trial_id=-1 - index,
        state=TrialState.COMPLETE,
        value=value,
        datetime_start=None,
        datetime_complete=None,
        params=dict(parameters),
        distributions={name: space[name] for name in parameters},
        user_attrs={},
        system_attrs={},
        intermediate_values={},
    )


class _WarmStudy(Study):
    """A study as the sampler sees it, with earlier trials before its own."""

    def __init__(self, study: Study, earlier: Sequence[FrozenTrial]) -> None:
        vars(self).update(vars(study))
        self._earlier = earlier

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        shown = states is None or TrialState.COMPLETE in states
        own = super()._get_trials(deepcopy, states, use_cache)
        return [*(self._earlier if shown else ()), *own]
