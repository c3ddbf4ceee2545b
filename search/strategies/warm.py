"""A sampler that also sees trials of earlier studies, as far as these carry over: `WARM=cae,old`.

    sampler = with_warm(make_sampler("tpe", ...), sources, space)

TPE draws its first trials at random (``n_startup_trials``). In their place it sees trials of
earlier studies, as far as these seem to hold in this study, too. The share of a source that it sees
is how far that source carries over (`search.strategies.carry_over`). The share is computed anew for
each trial. It is 0 until four trials have ended or pause.

Values of another study have another scale, so only their order counts. The best tenth of the source
gets the values of this study's best tenth.

Once TPE has as many trials of this study as it asks for, it sees these alone. A source that is
shown for longer holds the search back if its optimum lies a little beside this study's
(`tests/benchmarks/warm.py`).

Earlier trials never rank. They are in no table, no count and no pruner, and in the database only as
one attribute of the study (`search.setup.warm`).
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from search.errors import BadVariable
from search.strategies.carry_over import (
    LEAST,
    LearntSource,
    Space,
    WarmSource,
    order_trials,
)
from search.strategies.seeded import StudySampler

ENDED = (TrialState.COMPLETE, TrialState.PRUNED)  # what TPE counts


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
    if not isinstance(sampler.any_sampler(), TPESampler):
        raise BadVariable(
            "WARM tells the sampler what was good in earlier studies, and "
            f"{sampler.label} takes no such trials: give SAMPLER=tpe, or leave WARM out"
        )


def _startup_trials(sampler: StudySampler) -> int:
    """Return how many trials a TPE sampler draws at random; 0: it is another one."""
    drawing = sampler.any_sampler()
    return drawing._n_startup_trials if isinstance(drawing, TPESampler) else 0


class WarmSampler(StudySampler):
    """Another sampler, to which earlier studies are shown as far as they carry over.

    space: the parameters of this study
    needed: trials of this study after which the sampler sees these alone
    """

    def __init__(self, inner: StudySampler, sources: Sequence[WarmSource], space: Space) -> None:
        super().__init__(inner.label, draws_alone=inner.draws_alone)
        self.inner = inner
        self.sources = [LearntSource(source, space) for source in sources]
        self.needed = _startup_trials(inner)
        self._shown: tuple[int, list[FrozenTrial]] = (-1, [])  # to which trial, and what

    @property
    def points(self) -> int | None:
        return self.inner.points

    def _sampler_of(self, trial: FrozenTrial) -> BaseSampler:
        return self.inner

    def any_sampler(self) -> BaseSampler:
        return self.inner.any_sampler()

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._shown = -1, []  # a trial that is given back is drawn by what is known then
        super().before_trial(study, trial)

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
        return _WarmStudy(study, self._shown[1]) if self._shown[1] else study

    def _choose(self, study: Study) -> list[FrozenTrial]:
        """Return the earlier trials that count now."""
        ended = study._get_trials(deepcopy=False, states=ENDED, use_cache=True)
        own = order_trials(study)
        if len(ended) >= self.needed or len(own) < LEAST:
            return []
        values = [trial.values[0] for trial in own if trial.state is TrialState.COMPLETE]
        if not values:  # all pause, or were pruned: then any values in this order do
            sign = -1.0 if study.direction == StudyDirection.MAXIMIZE else 1.0
            values = [sign * place for place in range(len(own))]
        found: list[FrozenTrial] = []
        for source in self.sources:
            trials = source.source.parameters
            shown = round(source.find_carry_over(own) * len(trials))
            for place in spread(len(trials), shown):
                value = value_at((place + 0.5) / len(trials), values, len(own))
                found.append(_as_older(trials[place], value, source.space, len(found)))
        return found[::-1]  # by number, as Optuna lists trials


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
        vars(self).update(object.__getattribute__(study, "__dict__"))  # Hyperband's studies hide it
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
