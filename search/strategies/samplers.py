"""Optuna's samplers by name, seeded so that a trial does not depend on the worker that runs it.

    sampler = make_sampler("tpe(n_startup_trials=5)", seed=0, space=space)

Optuna's samplers carry random state from trial to trial, so that workers with one seed repeat each
other's trials. Here every trial has a sampler of its own, seeded from (study seed, trial number):
with ``random`` a study has the same parameters with one worker or eight, and after any
interruption.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from optuna import Study
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    GridSampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)
from optuna.search_space import IntersectionSearchSpace
from optuna.trial import FrozenTrial, TrialState

from models.seeds import derive_seed
from search.errors import BadVariable, unknown_name
from search.strategies.arguments import parse_call
from search.strategies.preference import PreferenceSampler
from storage.errors import short

Space = Mapping[str, BaseDistribution]
SamplerFactory = Callable[[int], BaseSampler]
"""``seed -> sampler``, for samplers of Optuna that have no name here."""

# name -> Optuna's class and the arguments that are set unless given
SAMPLERS: dict[str, tuple[type[BaseSampler], dict[str, Any]]] = {
    "random": (RandomSampler, {}),
    "tpe": (TPESampler, {"multivariate": True, "constant_liar": True}),
    "gp": (GPSampler, {}),
    "cmaes": (CmaEsSampler, {}),
    "qmc": (QMCSampler, {}),
    "grid": (GridSampler, {}),
    "preference": (PreferenceSampler, {}),
}
LIKE_RANDOM = ("random", "preference")  # their independent draws depend on no other parameter
ONE_SEQUENCE = ("qmc", "grid")  # all trials share one sequence, and so one seed
LARGEST_GRID = 1_000_000


def make_sampler(chosen: str | SamplerFactory, *, seed: int, space: Space) -> BaseSampler:
    """Return the sampler of a study; raise `BadVariable` for a wrong name or argument.

    chosen: a name, perhaps with arguments of Optuna's class, or a `SamplerFactory`
    space: the study's parameters, from which ``grid`` takes its points
    """
    if callable(chosen):
        return TrialSeeded(chosen, seed)
    if not isinstance(chosen, str):
        raise BadVariable(
            f"sampler={short(repr(chosen))} is neither a name, such as 'tpe', nor a function "
            "of a seed: sampler=lambda seed: TPESampler(seed=seed)"
        )
    name, positional, given = parse_call(chosen)
    if name not in SAMPLERS:
        raise BadVariable(unknown_name("sampler", name, SAMPLERS))
    family, defaults = SAMPLERS[name]
    arguments = {**defaults, **given}
    if name == "grid" and "search_space" not in arguments and not positional:
        arguments["search_space"] = grid_points(space)
    if name == "qmc":  # for its first trials, and for parameters that it cannot draw
        arguments.setdefault("independent_sampler", make_sampler("random", seed=seed, space=space))

    def make(trial_seed: int) -> BaseSampler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # the user chose it by name
            return family(*positional, **{"seed": trial_seed, **arguments})

    try:
        inspect.signature(family).bind(*positional, **{"seed": 0, **arguments})
        first = make(derive_seed(seed, "sampler"))
    except Exception as error:  # wrong arguments make Optuna raise anything
        raise BadVariable(f"sampler {short(chosen)!r}: {short(str(error))}") from error
    if name in ONE_SEQUENCE:
        return OneSequence(first)
    seeded = TrialSeeded(make, seed, independent=name in LIKE_RANDOM)
    if isinstance(first, PreferenceSampler):
        seeded.shown = first.shown
    return seeded


def grid_points(space: Space) -> dict[str, list[Any]]:
    """Return all values of every parameter; raise `BadVariable` for one that has no steps."""
    points: dict[str, list[Any]] = {}
    size = 1
    for name, distribution in space.items():
        if isinstance(distribution, CategoricalDistribution):
            points[name] = list(distribution.choices)
        elif isinstance(distribution, IntDistribution):
            points[name] = list(range(distribution.low, distribution.high + 1, distribution.step))
        elif isinstance(distribution, FloatDistribution) and distribution.step is not None:
            count = round((distribution.high - distribution.low) / distribution.step)
            points[name] = [distribution.low + i * distribution.step for i in range(count + 1)]
        else:
            raise BadVariable(
                f"sampler 'grid': {name} is continuous; list the values of every parameter: "
                f"grid(search_space={{'{name}': [...], ...}})"
            )
        size *= len(points[name])
    if size > LARGEST_GRID:
        raise BadVariable(
            f"sampler 'grid': the search space has {size:,} points; "
            "list fewer: grid(search_space={...})"
        )
    return points


def grid_size(sampler: BaseSampler) -> int | None:
    """Return how many points a grid has; None for every other sampler."""
    if isinstance(sampler, OneSequence) and isinstance(sampler.inner, GridSampler):
        return len(sampler.inner._all_grids)
    return None


def trials_shown_at_once(sampler: BaseSampler) -> int | None:
    """Return how many trials a person chooses among; None: the sampler asks nobody."""
    return sampler.shown if isinstance(sampler, TrialSeeded) else None


class TrialSeeded(BaseSampler):
    """Makes a new sampler for every trial, seeded from (study seed, trial number).

    independent: make one for every parameter, too; a trial that goes on after only some of its
    parameters were drawn then gets the same others
    """

    def __init__(self, make: SamplerFactory, seed: int, *, independent: bool = False) -> None:
        self.make = make
        self.seed = seed
        self.independent = independent
        self.shown: int | None = None
        self.inner: dict[int, BaseSampler] = {}  # by trial number, while the trial runs
        self.known_spaces: dict[str, IntersectionSearchSpace] = {}
        self.known_study: Study | None = None

    def _sampler_of(self, trial: FrozenTrial) -> BaseSampler:
        """Return the sampler of this trial, which is made at its first use."""
        if trial.number not in self.inner:
            sampler = self.make(derive_seed(self.seed, "sampler", trial.number))
            if not isinstance(sampler, BaseSampler):
                raise BadVariable(f"sampler made {sampler!r} of a seed; return a sampler of Optuna")
            self.inner[trial.number] = sampler
        return self.inner[trial.number]

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._sampler_of(trial).before_trial(study, trial)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        sampler = self._sampler_of(trial)
        self._share_known_space(sampler, study)
        return sampler.infer_relative_search_space(study, trial)

    def _share_known_space(self, sampler: BaseSampler, study: Study) -> None:
        """Let samplers of all trials share what is known of the parameters that all trials have, so
        that it is not found out anew each time.

        Hyperband shows each trial another part of the study. Nothing is shared there.
        """
        if type(study) is not Study:
            return
        if self.known_study is not study:
            self.known_study, self.known_spaces = study, {}
        for name, value in vars(sampler).items():
            if isinstance(value, IntersectionSearchSpace):
                setattr(sampler, name, self.known_spaces.setdefault(name, value))

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._sampler_of(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        sampler = self._sampler_of(trial)
        if self.independent:
            sampler = self.make(derive_seed(self.seed, "sampler", trial.number, param_name))
        return sampler.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        self._sampler_of(trial).after_trial(study, trial, state, values)
        self.inner.pop(trial.number, None)


class OneSequence(BaseSampler):
    """A sampler whose trials are places in one sequence, which the trial database keeps.

    The `after_trial` of ``inner`` is never called: a grid would stop Optuna's own loop there, which
    does not run here.
    """

    def __init__(self, inner: BaseSampler) -> None:
        self.inner = inner

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self.inner.before_trial(study, trial)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self.inner.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self.inner.sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        return self.inner.sample_independent(study, trial, param_name, param_distribution)
