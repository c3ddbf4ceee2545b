"""Optuna's pruners by name: ``median(n_startup_trials=3, n_warmup_steps=2)``.

Steps are epochs counted from 0, as Optuna's pruners assume: with two warm-up steps, two epochs are
safe and the third may be the last.

The median and percentile pruners are subclasses of Optuna's and give the same answers, at a cost
that does not grow with the study: during warm-up and between intervals they answer at once,
otherwise from the columns of `storage.database.completed_reports`.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence
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
    ThresholdPruner,
    WilcoxonPruner,
)
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from search.errors import BadVariable, unknown_name
from search.goals import Goal
from search.strategies.arguments import check_names, parse_call
from search.strategies.front_pruner import FrontPruner
from search.strategies.promotion import AshaPruner
from storage.database.optuna_storage import TrialStorage
from storage.errors import short


class QuickPercentilePruner(PercentilePruner):
    """Optuna's percentile pruner, fast over a `TrialStorage`; elsewhere Optuna's own code runs.

    bound: the value that the last trial had to reach; None: it was not compared
    """

    bound: float | None = None

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        self.bound = None
        if not self._is_due(trial):
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

    def _is_due(self, trial: FrozenTrial) -> bool:
        """Return whether the last step is the first report of an interval after warm-up."""
        step = trial.last_step
        if step is None or step < self._n_warmup_steps:
            return False
        first = step - (step - self._n_warmup_steps) % self._interval_steps
        before = max((s for s in trial.intermediate_values if s != step), default=-1)
        return before < first


class QuickMedianPruner(QuickPercentilePruner, MedianPruner):
    """Optuna's median pruner, fast in the same way."""


PRUNERS: dict[str, type[BasePruner]] = {
    "median": QuickMedianPruner,
    "hyperband": HyperbandPruner,
    "successive_halving": SuccessiveHalvingPruner,
    "percentile": QuickPercentilePruner,
    "threshold": ThresholdPruner,
    "wilcoxon": WilcoxonPruner,
    "asha": AshaPruner,
    "front": FrontPruner,
    "none": NopPruner,
}
NAMES = {family.__name__.removeprefix("Quick"): name for name, family in PRUNERS.items()}
NEEDED = {"percentile": (25.0,)}  # arguments for which Optuna has no default
QUICK: dict[type[BasePruner], type[BasePruner]] = {
    MedianPruner: QuickMedianPruner,
    PercentilePruner: QuickPercentilePruner,
}


def make_pruner(chosen: str | BasePruner, goals: Sequence[Goal] | None = None) -> BasePruner:
    """Return the pruner of a study; raise `BadVariable` for a wrong name or argument.

    goals: of the study, which the pruner has to fit; None: that is not looked at
    """
    pruner = _make_pruner(chosen)
    return pruner if goals is None else _fit_pruner(pruner, chosen, goals)


def _fit_pruner(pruner: BasePruner, chosen: str | BasePruner, goals: Sequence[Goal]) -> BasePruner:
    """Return the pruner for a study with these goals; raise `BadVariable` if it cannot serve."""
    name = chosen if isinstance(chosen, str) else type(chosen).__name__
    if isinstance(pruner, FrontPruner):
        if len(goals) > 1:
            return pruner.with_goals(goals)
        raise BadVariable(
            f"pruner {short(name)!r} compares trials by several goals, and this study has one; "
            "take another, such as 'median'"
        )
    if len(goals) > 1 and not isinstance(pruner, NopPruner):
        reason = (
            "promotes the best of a rung"
            if isinstance(pruner, AshaPruner)
            else "compares one value of each trial"
        )
        raise BadVariable(
            f"pruner {short(name)!r} {reason}, and of {len(goals)} goals ({_name(goals)}) no trial "
            "is the best of all; take 'front' or 'none'"
        )
    return pruner


def _name(goals: Sequence[Goal]) -> str:
    return ", ".join(goal.name for goal in goals)


def _make_pruner(chosen: str | BasePruner) -> BasePruner:
    if isinstance(chosen, BasePruner):
        return _quick_pruner(chosen)
    if not isinstance(chosen, str):
        raise BadVariable(
            f"pruner={short(repr(chosen))} is neither a name, such as 'median' or 'none', nor a "
            "pruner of Optuna: pruner=MedianPruner()"
        )
    written, positional, named = parse_call(chosen)
    name = NAMES.get(written, written)
    if name not in PRUNERS:
        raise BadVariable(unknown_name("pruner", name, PRUNERS))
    if not positional and not named:
        positional = list(NEEDED.get(name, ()))
    check_names(f"pruner {short(chosen)!r}", named, PRUNERS[name])
    try:
        inspect.signature(PRUNERS[name]).bind(*positional, **named)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # the user chose it by name
            return PRUNERS[name](*positional, **named)
    except (TypeError, ValueError) as error:
        raise BadVariable(f"pruner {short(chosen)!r}: {short(str(error))}") from error


def _quick_pruner(pruner: BasePruner) -> BasePruner:
    """Return the quick pruner with the same arguments, or ``pruner`` itself if there is none."""
    if type(pruner) not in QUICK:
        return pruner
    quick = copy(pruner)
    quick.__class__ = QUICK[type(pruner)]
    return quick
