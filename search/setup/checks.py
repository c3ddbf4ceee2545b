"""Try a study in memory before it runs.

    space, configurations = probe(spec)           # run suggest on random trials; nothing is trained
    check_strategies(suggest, sampler, pruner, goals)    # run a few trials without a model
    check_fit(study, (1, 28, 28), images)         # build one model without memory

A misspelt name or a wrong argument is found now and not by fifty failing trials.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
import torch
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.exceptions import ExperimentalWarning, TrialPruned
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FixedTrial, FrozenTrial, Trial, TrialState
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from models.base import Model
from models.data.images import ImageSplits, Shape
from search.errors import BadVariable, StudyFileError, unknown_name
from search.goals import Goal
from search.setup.mistakes import mistakes_of
from search.setup.sampled import sample_configurations
from search.study import Study, StudySpec
from storage.errors import short

PROBES = 64  # random trials that a study file is tried with
TRIALS, STEPS = 12, 3  # that a sampler and a pruner are tried with


def probe(spec: StudySpec) -> tuple[dict[str, BaseDistribution], str]:
    """Run ``suggest`` on random trials; return the search space and a digest of the configurations.

    The same file always gives the same answer, conditional parameters included.
    """
    study = optuna.create_study(
        storage=optuna.storages.InMemoryStorage(), sampler=_CheckedSampler(seed=0)
    )
    space: dict[str, BaseDistribution] = {}
    digest = hashlib.sha256()
    for _ in range(PROBES):
        trial = study.ask()
        try:
            with warnings.catch_warnings():  # Optuna warns of a name that is asked for in two ways
                warnings.filterwarnings("error", message="Inconsistent parameter values")
                config = spec.suggest(trial)
        except TrialPruned:  # suggest turns this combination down
            digest.update(b"pruned")
            study.tell(trial, state=TrialState.PRUNED)
            continue
        if not isinstance(config, spec.model.config_type):
            raise StudyFileError(
                f"suggest returned {type(config).__name__}, but {spec.model.__name__} "
                f"takes a {spec.model.config_type.__name__}"
            )
        for name, distribution in trial.distributions.items():
            if space.setdefault(name, distribution) != distribution:
                raise StudyFileError(
                    f"suggest asks for {name!r} in two ways, {space[name]} and {distribution}; "
                    "give them two names"
                )
        digest.update(repr(sorted(config.to_plain().items())).encode())
        study.tell(trial, 0.0)
    if not study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        raise StudyFileError(
            f"suggest raised TrialPruned in each of {PROBES} random trials; let it return a "
            f"{spec.model.config_type.__name__} for some"
        )
    for name, parameters in spec.references.items():
        _check_reference(spec, space, name, parameters)
    return space, digest.hexdigest()[:16]


def _check_reference(
    spec: StudySpec, space: Mapping[str, BaseDistribution], name: str, parameters: Mapping[str, Any]
) -> None:
    """Raise `StudyFileError` unless a reference sets exactly the parameters that `suggest` asks
    for, within their bounds.

    A reference may lead into a branch of the space that no random trial has reached.
    """
    trial = FixedTrial(dict(parameters))
    mistake: Exception | None = None
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*is out of the range of")  # said below
            spec.suggest(trial)
    except ValueError as error:
        mistake = error
    known = {**space, **trial.distributions}
    for key, value in parameters.items():
        if key not in known:
            raise StudyFileError(f"reference {name!r}: " + unknown_name("parameter", key, known))
        if not is_within(known[key], value):
            raise StudyFileError(f"reference {name!r}: {key}={value!r} is outside {known[key]}")
    if mistake is not None:
        raise StudyFileError(f"reference {name!r}: {mistake}") from mistake
    if unused := sorted(set(parameters) - set(trial.params)):
        unasked = f"reference {name!r} sets {unused[0]!r}, which suggest does not ask for"
        raise StudyFileError(unasked)


def is_within(distribution: BaseDistribution, value: Any) -> bool:
    """Whether a parameter may have a value."""
    try:
        return distribution._contains(distribution.to_internal_repr(value))
    except (ValueError, TypeError):
        return False


class _CheckedSampler(RandomSampler):
    """A random sampler that refuses ranges from which Optuna cannot draw, and choices that no
    database can keep."""

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        _check_range(param_name, param_distribution)
        return super().sample_independent(study, trial, param_name, param_distribution)


def _check_range(name: str, distribution: BaseDistribution) -> None:
    if isinstance(distribution, FloatDistribution):
        if not (math.isfinite(distribution.low) and math.isfinite(distribution.high)):
            raise StudyFileError(
                f"suggest asks for {name!r} from {distribution.low} to {distribution.high}; "
                "give two finite bounds"
            )
    elif isinstance(distribution, CategoricalDistribution):
        for choice in distribution.choices:
            if not (choice is None or isinstance(choice, bool | int | float | str)):
                raise StudyFileError(
                    f"suggest asks for {name!r} with the choice {short(repr(choice))}; a choice "
                    "is None, bool, int, float or str: choose a name and look the thing up"
                )


def check_strategies(
    suggest: Callable[[Trial], object],
    sampler: BaseSampler,
    pruner: BasePruner,
    goals: Sequence[Goal],
) -> None:
    """Raise `BadVariable` for a sampler that cannot draw or a pruner that cannot judge.

    Optuna makes objects of ``tpe(n_startup_trials='a')`` or ``hyperband(max_resource=0)``
    without an error, and then each trial fails. A few trials in memory show it in milliseconds.
    """
    study = optuna.create_study(
        storage=optuna.storages.InMemoryStorage(),
        sampler=sampler,
        pruner=pruner,
        directions=[goal.direction for goal in goals],
    )
    values = [float(place) for place in range(len(goals))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", message=".*out of range.*")
        warnings.simplefilter("ignore", ExperimentalWarning)
        for number in range(TRIALS):
            try:
                trial = study.ask()
                suggest(trial)
            except TrialPruned:
                study.tell(trial, state=TrialState.PRUNED)
                continue
            except Exception as error:
                raise BadVariable(
                    f"the sampler cannot draw a trial: {short(str(error))}"
                ) from error
            try:
                for step in range(STEPS if len(goals) == 1 else 0):  # `make_pruner` knows the rest
                    trial.report(float(number), step)
                    trial.should_prune()
            except Exception as error:
                raise BadVariable(
                    f"the pruner cannot judge a trial: {short(str(error))}"
                ) from error
            study.tell(trial, [float(number) + value for value in values])


def check_fit(
    study: Study, shape: Shape, images: ImageSplits | None = None, base: Model | None = None
) -> None:
    """Build one model without memory, to see that it fits the images and its base.

    Without ``images`` only the shape is checked. A model that starts from another one is not
    checked without its ``base``.
    """
    spec = study.spec
    if base is None and spec.starts_from is not None:
        return
    with mistakes_of(study.path), torch.device("meta"), _Unfilled():
        (config,) = sample_configurations(study, 1)
        if images is not None:
            config = spec.model.fitted(config, images)
        if base is not None:
            config = spec.model.based_on(config, base)
        spec.model(config, shape)


class _Unfilled(TorchFunctionMode):
    """Skips the drawing of weights, which have no values without memory.

    Drawing them would load PyTorch's compiler.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in (Tensor.normal_, nn.init.normal_):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
