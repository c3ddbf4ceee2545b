"""The goals of a study: what its trials are compared by, and in which direction.

    goals = read_goals(("mse", "code"), "minimize", costs=("parameters", "code"))
    goals[0].name                      # the quality, which is measured after each epoch
    goals_of(study)                    # of a stored study of Optuna

A study with one goal has a best trial. With several goals no trial is the best of all, and those
that no other one beats in every goal make the front (`search.front`).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from search.words import join_words
from storage.errors import short

if TYPE_CHECKING:
    import optuna

MOST_GOALS = 4  # with more, nearly every trial is on the front
DIRECTIONS = ("minimize", "maximize")


@dataclass(frozen=True, kw_only=True)
class Goal:
    """One goal.

    minimize: whether less is better
    is_cost: whether it is known before the first epoch; else it is measured after each
    """

    name: str
    minimize: bool
    is_cost: bool = False

    @property
    def direction(self) -> Literal["minimize", "maximize"]:
        """The direction in Optuna's word."""
        return "minimize" if self.minimize else "maximize"


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """What a study's ``constraints`` see of a trial.

    parameters: as `suggest` has drawn them; epoch: from 1
    values: of all goals, and of all that was measured on the validation images after that epoch
    """

    parameters: Mapping[str, Any]
    values: Mapping[str, float]
    epoch: int


def read_goals(
    metric: str | Sequence[str], direction: str | Sequence[str], *, costs: Sequence[str]
) -> tuple[Goal, ...]:
    """Return the goals that a study file says; raises `ValueError` for what are none.

    costs: names that are costs
    """
    names = (metric,) if isinstance(metric, str) else metric
    if not isinstance(names, tuple | list) or not all(isinstance(name, str) for name in names):
        raise ValueError(
            f"metric={short(repr(metric))} is neither a name nor names of several goals: "
            'metric=("mse", "code")'
        )
    if not 1 <= len(names) <= MOST_GOALS:
        raise ValueError(
            f"metric={short(repr(metric))} names {len(names)} goals; give 1 to {MOST_GOALS}"
        )
    if len(set(names)) < len(names):
        raise ValueError(f"metric={short(repr(metric))} names a goal twice")
    directions = [direction] * len(names) if isinstance(direction, str) else direction
    if not isinstance(directions, tuple | list) or not all(d in DIRECTIONS for d in directions):
        raise ValueError(f"direction={short(repr(direction))} is not 'minimize' or 'maximize'")
    if len(directions) != len(names):
        raise ValueError(
            f"direction={short(repr(direction))} has {len(directions)} words for {len(names)} "
            "goals; give each its own, or one for all"
        )
    return tuple(
        Goal(name=name, minimize=word == "minimize", is_cost=name in costs)
        for name, word in zip(names, directions, strict=True)
    )


def goals_of(study: optuna.Study) -> tuple[Goal, ...]:
    """Return the goals of a stored study, also of one that genstudy did not make."""
    from optuna.exceptions import ExperimentalWarning  # lists do without Optuna

    directions = study.directions
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        names: Any = study.metric_names
    if not is_names(names, len(directions)):
        count = len(directions)
        names = ["value"] if count == 1 else [f"value_{place}" for place in range(count)]
    return tuple(
        Goal(name=name, minimize=direction.name == "MINIMIZE")
        for name, direction in zip(names, directions, strict=True)
    )


def is_names(names: object, count: int) -> bool:
    """Whether these are the names of ``count`` goals; anybody may have written them."""
    return (
        isinstance(names, list)
        and len(names) == count
        and all(isinstance(name, str) for name in names)
    )


def format_values(goals: Sequence[Goal], values: Sequence[float]) -> str:
    """Return ``mse 0.0156, code 14``."""
    return ", ".join(f"{goal.name} {value:.6g}" for goal, value in zip(goals, values, strict=True))


def join_names(goals: Sequence[Goal]) -> str:
    """Return ``mse and code``."""
    return join_words([goal.name for goal in goals])
