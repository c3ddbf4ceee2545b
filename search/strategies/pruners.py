"""Optuna's pruners by name: ``median(n_startup_trials=3, n_warmup_steps=2)``.

Steps are epochs counted from 0, as Optuna's pruners assume: with two warm-up
steps, two epochs are safe and the third may be the last.

The median and percentile pruners answer as Optuna's do, of which they are, at a
price that does not grow with the study: at once in warm-up and between intervals,
else from the columns of `storage.database.completed_reports`.
"""

from __future__ import annotations

import inspect
import warnings
from copy import copy

import numpy as np
from optuna import Study
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    NopPruner,
    PercentilePruner,
    SuccessiveHalvingPruner,
)
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from search.errors import BadVariable, unknown_name
from search.strategies.arguments import parse_call
from storage.database.optuna_storage import TrialStorage
from storage.errors import short


class QuickPercentilePruner(PercentilePruner):
    """Optuna's percentile pruner over a database of ours; over any other, Optuna's own code.

    bound: what the last trial that was judged was held to; None where it was not
    """

    bound: float | None = None

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        self.bound = None
        if not self._asks_at(trial):
            return False
        storage = getattr(study._storage, "_backend", None)
        known = storage.completed(study._study_id) if isinstance(storage, TrialStorage) else None
        if known is None:
            return super().prune(study, trial)
        known.refresh()
        if known.trials < max(1, self._n_startup_trials):
            return False
        maximize = study.direction == StudyDirection.MAXIMIZE
        own = [value for value in trial.intermediate_values.values() if value == value]
        if not own:
            return True  # NaN from its first epoch on
        others = np.frombuffer(known.at(trial.last_step or 0))
        finite = others[~np.isnan(others)]
        if len(others) < self._n_min_trials or not len(finite):
            return False
        with np.errstate(invalid="ignore"):  # between two infinities
            bound = np.percentile(finite, 100 - self._percentile if maximize else self._percentile)
        self.bound = float(bound)
        return max(own) < self.bound if maximize else min(own) > self.bound

    def _asks_at(self, trial: FrozenTrial) -> bool:
        """Whether the last step is one to judge: the first report of an interval after warm-up."""
        step = trial.last_step
        if step is None or step < self._n_warmup_steps:
            return False
        first = step - (step - self._n_warmup_steps) % self._interval_steps
        before = max((s for s in trial.intermediate_values if s != step), default=-1)
        return before < first


class QuickMedianPruner(QuickPercentilePruner, MedianPruner):
    """Optuna's median pruner, the same way."""


PRUNERS: dict[str, type[BasePruner]] = {
    "median": QuickMedianPruner,
    "hyperband": HyperbandPruner,
    "successive_halving": SuccessiveHalvingPruner,
    "percentile": QuickPercentilePruner,
    "none": NopPruner,
}
NEEDED = {"percentile": (25.0,)}  # arguments that have no default at Optuna
QUICK: dict[type[BasePruner], type[BasePruner]] = {
    MedianPruner: QuickMedianPruner,
    PercentilePruner: QuickPercentilePruner,
}


def make_pruner(chosen: str | BasePruner) -> BasePruner:
    """The pruner of a study; raises `BadVariable` for a wrong name or argument."""
    if isinstance(chosen, BasePruner):
        return _quick(chosen)
    if not isinstance(chosen, str):
        raise BadVariable(
            f"pruner={short(repr(chosen))} is neither a name, such as 'median' or 'none', nor a "
            "pruner of Optuna: pruner=MedianPruner()"
        )
    name, positional, named = parse_call(chosen)
    if name not in PRUNERS:
        raise BadVariable(unknown_name("pruner", name, PRUNERS))
    if not positional and not named:
        positional = list(NEEDED.get(name, ()))
    try:
        inspect.signature(PRUNERS[name]).bind(*positional, **named)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # chosen knowingly, by name
            return PRUNERS[name](*positional, **named)
    except (TypeError, ValueError) as error:
        raise BadVariable(f"pruner {short(chosen)!r}: {short(str(error))}") from error


def _quick(pruner: BasePruner) -> BasePruner:
    """A pruner object from a study's file: itself, or ours with its arguments."""
    if type(pruner) not in QUICK:
        return pruner
    made = copy(pruner)
    made.__class__ = QUICK[type(pruner)]
    return made
