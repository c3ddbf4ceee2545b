"""Optuna's samplers by name, seeded so that a trial does not depend on the worker that runs it.

    sampler = make_sampler("tpe(n_startup_trials=5)", seed=0, space=space)

The names are short forms of Optuna's: ``TPESampler(n_startup_trials=5)`` is the same sampler. A
study file may also give a sampler object or a function of a seed. With ``random`` a study has the
same parameters with one worker or eight, and after any interruption (`search.strategies.seeded`).
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import (
    BaseSampler,
    BruteForceSampler,
    CmaEsSampler,
    GPSampler,
    GridSampler,
    NSGAIISampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)

from models.seeds import derive_seed
from search.errors import BadVariable, unknown_name
from search.goals import Goal
from search.strategies.arguments import check_names, parse_call
from search.strategies.preference import PreferenceSampler
from search.strategies.random_state import parts_of, uses_seed
from search.strategies.seeded import (
    OneSequence,
    SamplerFactory,
    StudySampler,
    TrialSeeded,
    is_in_sequence,
    visits_all,
)
from search.words import format_count
from storage.errors import short

Space = Mapping[str, BaseDistribution]

# name -> Optuna's class and the arguments that are set unless given
SAMPLERS: dict[str, tuple[type[BaseSampler], dict[str, Any]]] = {
    "random": (RandomSampler, {}),
    "tpe": (TPESampler, {"multivariate": True, "constant_liar": True}),
    "gp": (GPSampler, {}),
    "cmaes": (CmaEsSampler, {}),
    "qmc": (QMCSampler, {}),
    "nsgaii": (NSGAIISampler, {}),
    "grid": (GridSampler, {}),
    "brute_force": (BruteForceSampler, {}),
    "preference": (PreferenceSampler, {}),
}
LIKE_RANDOM = ("random", "preference")  # their independent draws depend on no other parameter
LARGEST_GRID = 1_000_000


def make_sampler(
    chosen: str | SamplerFactory | BaseSampler,
    *,
    seed: int,
    space: Space,
    goals: Sequence[Goal] = (),
) -> StudySampler:
    """Return the sampler of a study; raise `BadVariable` for a wrong name or argument.

    chosen: a name, perhaps with arguments of Optuna's class; a sampler object; or a
        `SamplerFactory`
    seed: the study's; a ``seed=`` among the arguments takes its place
    space: the study's parameters, from which ``grid`` takes its points
    goals: of the study; where they are several, the sampler has to know what to do with them
    """
    sampler = _make_sampler(chosen, seed=seed, space=space)
    if len(goals) > 1:
        _check_several(sampler, goals)
    return sampler


def _check_several(sampler: StudySampler, goals: Sequence[Goal]) -> None:
    """Raise `BadVariable` for a sampler that follows one value alone."""
    for part in parts_of(sampler.any_sampler()):
        if isinstance(part, CmaEsSampler | PreferenceSampler):
            what = "asks a person" if isinstance(part, PreferenceSampler) else "follows one value"
            raise BadVariable(
                f"sampler {sampler.label!r} {what}, and this study has {len(goals)} goals; take "
                "'nsgaii', 'tpe', 'gp', 'random', 'qmc', 'grid' or 'brute_force'"
            )


def _make_sampler(
    chosen: str | SamplerFactory | BaseSampler, *, seed: int, space: Space
) -> StudySampler:
    if isinstance(chosen, str):
        return _make_named(chosen, seed, space)
    if isinstance(chosen, BaseSampler):
        if is_in_sequence(chosen):
            return OneSequence.around(chosen, seed)
        return TrialSeeded.around(chosen, seed)
    if isinstance(chosen, type) and issubclass(chosen, BaseSampler):
        return _make_from(lambda seed: chosen(seed=seed), seed)  # type: ignore[call-arg]
    if callable(chosen) and not isinstance(chosen, type):
        return _make_from(chosen, seed)
    raise BadVariable(
        f"sampler={short(repr(chosen))} is neither a name, such as 'tpe', nor a sampler of Optuna "
        "nor a function of a seed: sampler=lambda seed: TPESampler(seed=seed)"
    )


def _make_from(make: SamplerFactory, seed: int) -> StudySampler:
    """Return the sampler of a study from a function of a seed.

    A function that gives every sampler the same seed is followed in all but that.
    """
    first_seed = derive_seed(seed, "sampler")
    try:
        first = make(first_seed)
    except Exception as error:  # the user's own code
        raise BadVariable(f"sampler of a seed: {type(error).__name__}: {error}") from error
    if not isinstance(first, BaseSampler):
        raise BadVariable(
            f"sampler made {short(repr(first))} of a seed; return a sampler of Optuna"
        )
    if is_in_sequence(first):
        return OneSequence.around(first, seed)
    if not type(first).__module__.startswith("optuna.") or not uses_seed(make):
        return TrialSeeded.around(first, seed)
    return TrialSeeded(make, seed, label=type(first).__name__, draws_alone=visits_all(first))


def _make_named(chosen: str, seed: int, space: Space) -> StudySampler:
    """Return the sampler of a study from its name and arguments."""
    written, positional, given = parse_call(chosen)
    name = {family.__name__: name for name, (family, _) in SAMPLERS.items()}.get(written, written)
    if name not in SAMPLERS:
        raise BadVariable(unknown_name("sampler", name, SAMPLERS))
    family, defaults = SAMPLERS[name]
    check_names(f"sampler {short(chosen)!r}", given, family)
    arguments = {**defaults, **given}
    own_seed = arguments.pop("seed", None)
    if own_seed is not None:
        if type(own_seed) is not int or own_seed < 0:
            raise BadVariable(
                f"sampler {short(chosen)!r}: seed={short(repr(own_seed))} is not a whole number "
                "from 0 on"
            )
        seed = own_seed
    if name == "grid" and "search_space" not in arguments and not positional:
        arguments["search_space"] = grid_points(space)
    if name == "qmc":  # for its first trials, and for parameters that it cannot draw
        arguments.setdefault("independent_sampler", _make_named("random", seed, space))

    def make(trial_seed: int) -> BaseSampler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # the user chose it by name
            return family(*positional, **{"seed": trial_seed, **arguments})

    try:
        inspect.signature(family).bind(*positional, **{"seed": 0, **arguments})
        first = make(derive_seed(seed, "sampler"))
    except Exception as error:  # wrong arguments make Optuna raise anything
        raise BadVariable(f"sampler {short(chosen)!r}: {short(str(error))}") from error
    if is_in_sequence(first):
        return OneSequence(first, label=name)
    seeded = TrialSeeded(
        make, seed, label=name, independent=name in LIKE_RANDOM, draws_alone=visits_all(first)
    )
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
            f"sampler 'grid': the search space has {format_count(size, 'point')}; "
            "list fewer: grid(search_space={...})"
        )
    return points


def grid_size(sampler: BaseSampler) -> int | None:
    """Return how many points a grid has; None for every other sampler."""
    return sampler.points if isinstance(sampler, StudySampler) else None


def trials_shown_at_once(sampler: BaseSampler) -> int | None:
    """Return how many trials a person chooses among; None: the sampler asks nobody."""
    return sampler.shown if isinstance(sampler, TrialSeeded) else None
