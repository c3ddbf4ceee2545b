"""What a person has chosen between trials, as optuna-dashboard keeps it in Optuna's tables.

    choices = read_choices(connection, study_id)
    choices.ranked({3: 0.1, 7: 0.2})                # numbers of trials, best first

On the page of a preferential study each click says which of the trials shown is the worst. The
dashboard stores it as system attributes of the study, which are read here without importing it:

    preference:is_preferential       true
    preference:n_generate            how many trials are shown at once
    preference:component             what is shown of each: the artifact that an attribute names
    preference:valuesUUID            [[better, worse], ...] of one click; [] when it was undone
    preference:skip_trial:TRIAL_ID   the trial is put aside, neither better nor worse

Strengths follow Bradley and Terry (1952): trial i is preferred to trial j with probability
1 / (1 + exp(s_j - s_i)). Each strength has a normal prior, so that it exists from the first choice
on.

Shapes: n trials, m pairs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import Connection

from storage.database.rows import fetch_rows
from storage.database.trial_states import OPEN, TrialStatus

PICTURE = "picture"  # a trial's attribute: the id of the artifact that the page shows
IS_PREFERENTIAL = "preference:is_preferential"
SHOWN_AT_ONCE = "preference:n_generate"
COMPONENT = "preference:component"
VALUES = "preference:values"
SKIP = "preference:skip_trial:"

PRIOR = 1.5  # standard deviation of a strength before any choice
CONVERGED = 1e-9  # the largest step of a strength after which they stand

Pair = tuple[int, int]  # numbers of the better and of the worse trial


def page_settings(shown: int) -> dict[str, Any]:
    """Return the system attributes of a preferential study with ``shown`` trials at once."""
    return {
        IS_PREFERENTIAL: True,
        SHOWN_AT_ONCE: shown,
        COMPONENT: {"output_type": "artifact", "artifact_key": PICTURE},
    }


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What was chosen so far. Trials are named by their numbers.

    pairs: the better and the worse trial of each comparison, in no order
    clicks: how many choices were made, without those that were undone
    put_aside: trials that were the worst of a choice, or were skipped
    shown: trials that are trained, have a picture and are not put aside
    training: trials that will be shown
    """

    pairs: tuple[Pair, ...]
    clicks: int
    put_aside: frozenset[int]
    shown: tuple[int, ...]
    training: tuple[int, ...]

    def has_room(self, at_once: int) -> bool:
        """Return whether a new trial may begin, with ``at_once`` trials on the page."""
        return len(self.shown) + len(self.training) < at_once

    def ranked(self, values: Mapping[int, float]) -> list[int]:
        """Return the trials of ``values``, best first.

        Trials that were never put aside come first. Then strength decides, then the value: the
        smaller, the better.
        """
        strengths = strengths_of(self.pairs)
        return sorted(
            values,
            key=lambda n: (n in self.put_aside, -strengths.get(n, 0.0), values[n], n),
        )


def is_preferential(attributes: Mapping[str, Any]) -> bool:
    """Return whether a person ranks a study with these system attributes."""
    return bool(attributes.get(IS_PREFERENTIAL))


def read_attributes(connection: Connection, study_id: int) -> dict[str, Any]:
    """Read the system attributes of a study that hold preferences."""
    found = fetch_rows(
        connection,
        "SELECT key, value_json FROM study_system_attributes "
        "WHERE study_id = :study_id AND substr(key, 1, 11) = 'preference:'",
        study_id=study_id,
    )
    return {key: json.loads(value) for key, value in found}


def read_choices(connection: Connection, study_id: int) -> Choices:
    """Read what was chosen in a study until now."""
    attributes = read_attributes(connection, study_id)
    found = fetch_rows(
        connection,
        "SELECT trials.trial_id, number, CAST(state AS VARCHAR), value_json FROM trials "
        "LEFT JOIN trial_user_attributes AS attributes "
        f"ON attributes.trial_id = trials.trial_id AND key = '{PICTURE}' "
        "WHERE study_id = :study_id ORDER BY number",
        study_id=study_id,
    )
    numbers = {trial_id: number for trial_id, number, _, _ in found}
    pictured = [number for _, number, _, picture in found if picture is not None]
    put_aside = frozenset(_trials_put_aside(attributes, numbers))
    states = {number: state for _, number, state, _ in found if number not in put_aside}
    return Choices(
        pairs=tuple(pairs_of(attributes)),
        clicks=sum(1 for key, value in attributes.items() if key.startswith(VALUES) and value),
        put_aside=put_aside,
        shown=tuple(n for n in pictured if states.get(n) == TrialStatus.COMPLETE),
        training=tuple(n for n, state in states.items() if state in OPEN),
    )


def pairs_of(attributes: Mapping[str, Any]) -> list[Pair]:
    """Return all pairs in a study's system attributes, in the order of the attributes' keys."""
    return [
        (better, worse)
        for key in sorted(attributes)
        if key.startswith(VALUES)
        for better, worse in attributes[key]
    ]


def _trials_put_aside(attributes: Mapping[str, Any], numbers: Mapping[int, int]) -> Iterable[int]:
    """Yield the trials that were the worst of a choice or were skipped.

    numbers: the trials' numbers by id
    """
    yield from (worse for _, worse in pairs_of(attributes))
    for key in attributes:
        skipped = key.removeprefix(SKIP)
        if key.startswith(SKIP) and skipped.isdigit() and int(skipped) in numbers:
            yield numbers[int(skipped)]


def strengths_of(pairs: Iterable[Pair]) -> dict[int, float]:
    """Return the most probable strength of every trial in ``pairs``; 0 is average.

    Newton's method finds the minimum: the negative log posterior is convex, with a curvature of at
    least 1 / PRIOR².
    """
    pairs = list(pairs)
    numbers = sorted({number for pair in pairs for number in pair})
    place = {number: index for index, number in enumerate(numbers)}
    better = np.array([place[number] for number, _ in pairs], dtype=int)  # (m,)
    worse = np.array([place[number] for _, number in pairs], dtype=int)  # (m,)
    strengths = np.zeros(len(numbers))  # (n,)
    while True:
        doubt = 1 / (1 + np.exp(strengths[better] - strengths[worse]))  # (m,)
        slope = strengths / PRIOR**2  # (n,)
        np.add.at(slope, better, -doubt)
        np.add.at(slope, worse, doubt)
        curve = np.eye(len(numbers)) / PRIOR**2  # (n, n)
        weight = doubt * (1 - doubt)  # (m,)
        for row, column, sign in (
            (better, better, 1), (worse, worse, 1), (better, worse, -1), (worse, better, -1),
        ):  # fmt: skip
            np.add.at(curve, (row, column), sign * weight)
        step = np.linalg.solve(curve, slope)  # (n,)
        strengths -= step / max(1.0, float(np.abs(step).max(initial=0.0)))
        if np.abs(step).max(initial=0.0) < CONVERGED:
            return dict(zip(numbers, strengths.tolist(), strict=True))
