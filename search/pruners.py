"""Optuna's pruners by name: ``median(n_startup_trials=3, n_warmup_steps=2)``.

Steps are epochs counted from 0, as Optuna's pruners assume: with two warm-up
steps, two epochs are safe and the third may be the last.
"""

from __future__ import annotations

import inspect
import warnings

from optuna.exceptions import ExperimentalWarning
from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    NopPruner,
    PercentilePruner,
    SuccessiveHalvingPruner,
)

from search.calls import parse_call, unknown
from search.errors import BadVariable

PRUNERS: dict[str, type[BasePruner]] = {
    "median": MedianPruner,
    "hyperband": HyperbandPruner,
    "successive_halving": SuccessiveHalvingPruner,
    "percentile": PercentilePruner,
    "none": NopPruner,
}
NEEDED = {"percentile": (25.0,)}  # arguments that have no default at Optuna


def make_pruner(chosen: str | BasePruner) -> BasePruner:
    """The pruner of a study; raises `BadVariable` for a wrong name or argument."""
    if isinstance(chosen, BasePruner):
        return chosen
    name, positional, named = parse_call(chosen)
    if name not in PRUNERS:
        raise BadVariable(unknown("pruner", name, PRUNERS))
    if not positional and not named:
        positional = list(NEEDED.get(name, ()))
    try:
        inspect.signature(PRUNERS[name]).bind(*positional, **named)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # chosen knowingly, by name
            return PRUNERS[name](*positional, **named)
    except (TypeError, ValueError) as error:
        raise BadVariable(f"pruner {chosen!r}: {error}") from error
