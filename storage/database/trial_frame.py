"""All trials of one study as a frame: a row a trial, a column a value, parameter and attribute.

    frame = trial_frame(connection, study_id)
    frame.attrs["parameters"]                 # the columns that are parameters

`storage.trials` returns it, and says how columns are called.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, timedelta
from typing import TYPE_CHECKING

import pandas as pd
from sqlalchemy import Connection, text

from storage.database.columns import Columns
from storage.database.connection import open_storage
from storage.database.json_texts import parse_json

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

PARAMETERS = "parameters"  # in a frame's attrs: the names of its columns of parameters
GOALS = "goals"  # in a frame's attrs: name and direction of several objectives, in Optuna's words
METRIC_NAMES = "study:metric_names"  # Optuna's system attribute of a study
VIOLATING = "violating"  # in a frame's attrs: the numbers of trials that violate constraints


def trial_frame(connection: Connection, study_id: int) -> pd.DataFrame:
    """Read the frame from Optuna's tables."""
    found = Columns(connection, study_id)
    directions = read_directions(connection, study_id)
    names = _value_columns(len(directions))
    frame = pd.DataFrame(
        {
            "number": found.numbers,
            "state": found.states,
            **{name: found.values(objective) for objective, name in enumerate(names)},
            "duration": found.durations,
            "started": found.started,
            "ended": found.ended,
        }
    )
    attributes = pd.DataFrame(found.attributes()).infer_objects()
    joined = _join(frame, pd.DataFrame(found.parameters()), attributes)
    if len(names) > 1:
        goals = _read_goal_names(connection, study_id, names)
        joined.attrs[GOALS] = list(zip(goals, directions, strict=True))
        joined.attrs[VIOLATING] = [int(number) for number in found.violating()]
    return joined


def trial_frame_by_optuna(study: str, url: str) -> pd.DataFrame:
    """Make the same frame by Optuna's own calls: the schema is not known here."""
    import optuna

    opened = open_storage(url, create=False)
    try:
        loaded = optuna.load_study(study_name=study, storage=opened)
        found, names = loaded.get_trials(deepcopy=False), _value_columns(len(loaded.directions))
    finally:
        opened.engine.dispose()
    frame = pd.DataFrame(
        [
            {
                "number": trial.number,
                "state": trial.state.name,
                **dict(zip(names, trial.values or [None] * len(names), strict=True)),
                "duration": _duration(trial),
                "started": trial.datetime_start,
                "ended": trial.datetime_complete,
            }
            for trial in found
        ],
        columns=["number", "state", *names, "duration", "started", "ended"],
    )
    parameters = pd.DataFrame([trial.params for trial in found])
    attributes = pd.DataFrame([trial.user_attrs for trial in found])
    joined = _join(frame, parameters, attributes)
    if len(names) > 1:
        known = loaded._storage.get_study_system_attrs(loaded._study_id).get(METRIC_NAMES)
        goals = known if known is not None and _are_names(known, len(names)) else names
        words = [direction.name for direction in loaded.directions]
        joined.attrs[GOALS] = list(zip(goals, words, strict=True))
        joined.attrs[VIOLATING] = [
            trial.number
            for trial in found
            if any(isinstance(v, int | float) and v > 0 for v in trial.constraints.values())
        ]
    return joined


def _read_goal_names(connection: Connection, study_id: int, otherwise: list[str]) -> list[str]:
    """Return what the objectives are called; ``otherwise`` where nobody has named them."""
    found = connection.scalar(
        text(
            "SELECT value_json FROM study_system_attributes "
            "WHERE study_id = :study_id AND key = :key"
        ),
        {"study_id": study_id, "key": METRIC_NAMES},
    )
    try:
        names = parse_json(found)
    except (TypeError, ValueError):
        return otherwise
    return names if _are_names(names, len(otherwise)) else otherwise


def _are_names(names: object, count: int) -> bool:
    """Whether these are names for so many objectives; anybody may have written them."""
    if not isinstance(names, list) or len(names) != count:
        return False
    return all(isinstance(name, str) for name in names)


def read_directions(connection: Connection, study_id: int) -> list[str]:
    """Return MINIMIZE or MAXIMIZE for each objective of a study."""
    rows = connection.execute(
        text(
            "SELECT direction FROM study_directions WHERE study_id = :study_id ORDER BY objective"
        ),
        {"study_id": study_id},
    )
    return [str(direction) for (direction,) in rows]


def _value_columns(objectives: int) -> list[str]:
    """Return the names of the columns of values."""
    return ["value"] if objectives < 2 else [f"value_{each}" for each in range(objectives)]


def _duration(trial: FrozenTrial) -> timedelta | None:
    """Return how long a trial took, also where local clocks were changed meanwhile."""
    if trial.datetime_start is None or trial.datetime_complete is None:
        return None
    return trial.datetime_complete.astimezone(UTC) - trial.datetime_start.astimezone(UTC)


def _join(frame: pd.DataFrame, parameters: pd.DataFrame, attributes: pd.DataFrame) -> pd.DataFrame:
    """Put the frames side by side; a name that is taken already gets a prefix."""
    parameters.columns = pd.Index(_free_names(parameters.columns, frame.columns, "param_"))
    taken = [*frame.columns, *parameters.columns]
    attributes.columns = pd.Index(_free_names(attributes.columns, taken, "attr_"))
    joined = pd.concat([frame, parameters, attributes], axis=1)
    joined.attrs[PARAMETERS] = list(parameters.columns)
    return joined


def _free_names(names: Collection[str], taken: Collection[str], prefix: str) -> list[str]:
    """Return the names, each with the prefix as often as it takes to be a name of its own."""
    free: list[str] = []
    for name in names:
        own = name
        while own in taken or own in free or (own != name and own in names):
            own = prefix + own
        free.append(own)
    return free
