"""The vectors of a study's trials after one epoch: what trials with several goals are compared by.

    read_vectors(connection, study_id, 4, goals)     # {trial_id: ((0.021, 27.0), 0.0), ...}

The first goal of a trial is the value that it has reported to Optuna at that step. Other measured
goals, and by how much constraints are violated, stand among the metrics of the epoch. Costs stand
in the trial's attributes (`cost_attribute`), from its start on.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from string import ascii_lowercase
from typing import Protocol

from sqlalchemy import Connection

from storage.database.frozen_trials import INFINITE
from storage.database.rows import fetch_rows

VIOLATION = "violation"  # metric of an epoch, and attribute of a trial that violates constraints
COST = "cost_"  # how the attributes of costs begin


class NamedGoal(Protocol):
    """A goal: `search.goals.Goal`."""

    @property
    def name(self) -> str: ...

    @property
    def is_cost(self) -> bool: ...


def cost_attribute(name: str) -> str:
    """Return the attribute of a trial that holds a cost."""
    return COST + name


def measured_name(name: str) -> str:
    """Return the name of a measured goal among the metrics of an epoch."""
    return f"valid_{name}"


def read_vectors(
    connection: Connection, study_id: int, step: int, goals: Sequence[NamedGoal]
) -> dict[int, tuple[tuple[float, ...], float]]:
    """Return the vector, and the violation of constraints, of each trial that has reported this
    step (from 0), by the trial's id; a trial that lacks a goal is left out."""
    known: defaultdict[int, dict[str, float]] = defaultdict(dict)
    first, *others = goals
    for trial_id, value, kind in fetch_rows(
        connection,
        "SELECT found.trial_id, intermediate_value, CAST(intermediate_value_type AS VARCHAR) "
        "FROM trial_intermediate_values found JOIN trials ON trials.trial_id = found.trial_id "
        "WHERE study_id = :study_id AND step = :step",
        study_id=study_id,
        step=step,
    ):
        known[trial_id][first.name] = INFINITE.get(kind, value)
    names = {measured_name(goal.name): goal.name for goal in others if not goal.is_cost}
    names[VIOLATION] = VIOLATION
    wanted = {f"name_{letter}": name for letter, name in zip(ascii_lowercase, names, strict=False)}
    for trial_id, name, value in fetch_rows(
        connection,
        "SELECT found.trial_id, name, value FROM genstudy_metrics found "
        "JOIN trials ON trials.trial_id = found.trial_id "
        "WHERE study_id = :study_id AND epoch = :epoch "
        f"AND name IN ({', '.join(f':{key}' for key in wanted)})",
        study_id=study_id,
        epoch=step + 1,
        **wanted,
    ):
        if value is not None:
            known[trial_id][names[name]] = value
    costs = {cost_attribute(goal.name): goal.name for goal in others if goal.is_cost}
    for trial_id, key, written in fetch_rows(
        connection,
        "SELECT found.trial_id, key, value_json FROM trial_user_attributes found "
        "JOIN trials ON trials.trial_id = found.trial_id "
        f"WHERE study_id = :study_id AND substr(key, 1, {len(COST)}) = '{COST}'",
        study_id=study_id,
    ):
        if key in costs:
            known[trial_id][costs[key]] = json.loads(written)
    vectors = {}
    for trial_id, values in known.items():
        vector = tuple(values.get(goal.name, math.nan) for goal in goals)
        if all(isinstance(value, int | float) and value == value for value in vector):
            vectors[trial_id] = vector, values.get(VIOLATION, 0.0)
    return vectors


def read_measured(connection: Connection, trial_id: int, epoch: int) -> dict[str, float]:
    """Return what was measured on the validation images after an epoch (from 1), by metric."""
    prefix = measured_name("")
    return {
        name.removeprefix(prefix): value
        for name, value in fetch_rows(
            connection,
            "SELECT name, value FROM genstudy_metrics "
            "WHERE trial_id = :trial_id AND epoch = :epoch",
            trial_id=trial_id,
            epoch=epoch,
        )
        if name.startswith(prefix) and value is not None
    }
