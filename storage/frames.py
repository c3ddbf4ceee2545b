"""Studies as tidy pandas frames, read by direct SQL, also while a study runs.

    from storage import best, curves, trials

    frame = trials("cae")
    frame[frame.state == "COMPLETE"].plot.scatter("latent", "value")

The database may also be one that Optuna's own scripts have filled.

Optuna's own `trials_dataframe` builds every trial as an object first. These queries read the same
tables, and for ten thousand trials they take a fraction of the time and memory. They are written
for Optuna's schema 12, which is checked; for any other, Optuna's own calls make the same frame.

Every column has a name of its own. A parameter that is called like one of the first columns gets
the prefix ``param_`` (``param_value``), and an attribute that is called like a parameter the prefix
``attr_``: beside a parameter ``seed``, the trial's own seed is ``attr_seed``.
``frame.attrs["parameters"]`` lists the columns that are parameters.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
from sqlalchemy import Connection, text

from storage.database.address import parse_url, redact_url
from storage.database.columns import Columns
from storage.database.connection import open_engine
from storage.database.explanation import explained
from storage.database.preferences import (
    VALUES,
    is_preferential,
    pairs_of,
    read_attributes,
    read_choices,
)
from storage.database.rows import known_schema
from storage.database.trial_frame import (
    read_directions,
    trial_frame,
    trial_frame_by_optuna,
)
from storage.database.trial_states import TrialStatus, count_outcomes
from storage.errors import (
    DatabaseUnreachable,
    SeveralObjectives,
    StudyNotFound,
    short,
    suggest_name,
)
from storage.paths import RunPaths

COUNTED = """
    SELECT s.study_name AS study, t.state, count(t.trial_id) AS trials FROM studies s
    LEFT JOIN trials t ON t.study_id = s.study_id GROUP BY s.study_name, t.state
"""
BEST_VALUES = """
    SELECT s.study_name AS study, d.direction, min(v.value) AS low, max(v.value) AS high
    FROM studies s
    JOIN study_directions d ON d.study_id = s.study_id AND d.objective = 0
    JOIN trials t ON t.study_id = s.study_id AND t.state = 'COMPLETE'
    JOIN trial_values v ON v.trial_id = t.trial_id AND v.objective = 0
    WHERE NOT EXISTS (
        SELECT 1 FROM study_directions o WHERE o.study_id = s.study_id AND o.objective > 0
    )
    GROUP BY s.study_name, d.direction
"""


def trials(study: str, *, storage: str | None = None) -> pd.DataFrame:
    """Return one row a trial, by number.

    The columns are number, state, value, duration, started, ended (local time), then every
    parameter, then every attribute (device, host, pid, seed, outcome, ...). A study of several
    objectives has value_0, value_1, ... in place of value. ``duration`` is all the time between
    start and end (a timedelta); the attribute ``seconds`` is what the training took of it.
    study: its stored name, as `studies` lists it: ``cae-digits`` for ``cae`` on digits
    storage: a database URL; by default ``STORAGE``, else ``RUNS/studies.db``
    Raises `DatabaseUnreachable` or `StudyNotFound`.
    """
    with connected(storage) as connection:
        study_id = find_study(connection, study)
        if known_schema(connection):
            return trial_frame(connection, study_id)
    return trial_frame_by_optuna(study, database_url(storage))


def curves(study: str, *, storage: str | None = None) -> pd.DataFrame:
    """Return one row a trial and epoch: number, epoch (from 1), value, and a column a metric.

    ``train_`` and ``valid_`` tell where a metric was measured; ``epoch_seconds`` is what the epoch
    took. Raises what `trials` raises.
    """
    with connected(storage) as connection:
        study_id = find_study(connection, study)
        return pd.DataFrame(Columns(connection, study_id).curves())


def best(study: str, *, top: int = 1, storage: str | None = None) -> pd.DataFrame:
    """Return the ``top`` complete trials, best first; fewer rows if fewer are complete.

    They are ranked by value, and in a preferential study by a person's choices. Raises
    `SeveralObjectives` where neither ranks them.
    """
    with connected(storage) as connection:
        study_id = find_study(connection, study)
        chosen = None
        if is_preferential(read_attributes(connection, study_id)):
            chosen = read_choices(connection, study_id)
        directions = read_directions(connection, study_id)
    if len(directions) > 1:
        raise SeveralObjectives(
            f"study {short(repr(study))} has {len(directions)} objectives, so that no trial is the "
            f"best of all; trials({short(repr(study))}) has the values of each"
        )
    ascending = directions[0] == "MINIMIZE"
    frame = trials(study, storage=storage)
    complete = frame[frame["state"] == TrialStatus.COMPLETE]
    if chosen is not None:
        sign = 1 if ascending else -1
        values = dict(zip(complete["number"], sign * complete["value"], strict=True))
        ranks = {number: rank for rank, number in enumerate(chosen.ranked(values))}
        return complete.sort_values("number", key=lambda numbers: numbers.map(ranks)).head(top)
    return complete.sort_values(["value", "number"], ascending=[ascending, True]).head(top)


def choices(study: str, *, storage: str | None = None) -> pd.DataFrame:
    """Return one row a pair that a person has compared: choice, better, worse (trials' numbers).

    A choice of the worst of four makes three pairs. A study that is ranked by value has no rows.
    """
    with connected(storage) as connection:
        attributes = read_attributes(connection, find_study(connection, study))
    found = [
        (key.removeprefix(VALUES), better, worse)
        for key in sorted(attributes)
        for better, worse in pairs_of({key: attributes[key]})
    ]
    return pd.DataFrame(found, columns=["choice", "better", "worse"])


def outcomes(*, storage: str | None = None) -> dict[str, Counter[str]]:
    """Return how many trials of each study ended in which way, in the words of `OUTCOMES`."""
    with connected(storage) as connection:
        return count_outcomes(connection)


def studies(*, storage: str | None = None) -> pd.DataFrame:
    """Return one row a study: its name, how many trials are in each state, and the best value.

    A study of several objectives has no best value.
    """
    with connected(storage) as connection:
        counted = _read_frame(connection, COUNTED)
        values = _read_frame(connection, BEST_VALUES)
    wide = counted.pivot_table(
        index="study", columns="state", values="trials", aggfunc="sum", fill_value=0
    )
    states = [status.value for status in TrialStatus]
    frame = wide.reindex(columns=states, fill_value=0).astype(int)
    frame = frame.reindex(sorted(set(counted["study"])), fill_value=0)
    minimize = values["direction"] == "MINIMIZE"
    best_value = values["low"].where(minimize, values["high"]).set_axis(values["study"])
    frame["best"] = best_value.astype(float)
    frame.columns.name = None
    return frame.rename(columns=str.lower).rename_axis("study").reset_index()


def _read_frame(connection: Connection, statement: str) -> pd.DataFrame:
    found = connection.execute(text(statement))
    return pd.DataFrame(found.fetchall(), columns=list(found.keys()))


def database_url(storage: str | None) -> str:
    """Return the database's URL: ``storage``, else ``STORAGE``, else the one under ``RUNS``.

    Raises `DatabaseUnreachable` for a path, and where the file that nobody has named is missing:
    a notebook often lies in another folder than RUNS.
    """
    given = str(storage or "")
    if given and "://" not in given and "@" not in given:  # a path, and no half of a password
        right = f"sqlite:///{Path(given).expanduser().absolute()}"
        raise DatabaseUnreachable(
            f"storage={short(repr(given))} is no URL; write storage={right!r}"
        )
    if url := given or os.environ.get("STORAGE"):
        return url
    paths = RunPaths(Path(os.environ.get("RUNS") or "runs"))
    if not paths.database.exists():
        raise DatabaseUnreachable(
            f"no trial database at {short(str(paths.database.absolute()))}; run a study first, or "
            "name the right one: storage='sqlite:////PATH/TO/runs/studies.db'"
        )
    return paths.database_url


@contextmanager
def connected(storage: str | None) -> Iterator[Connection]:
    """Yield a connection for one frame; nothing stays open afterwards."""
    url = database_url(storage)
    engine = open_engine(url)
    try:
        with explained(parse_url(url), what="read"), engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def find_study(connection: Connection, study: str) -> int:
    """Return the id of a study. Raises `StudyNotFound` with the names that there are."""
    rows = connection.execute(text("SELECT study_name, study_id FROM studies"))
    names = {str(name): int(study_id) for name, study_id in rows}
    if study not in names:
        place = redact_url(connection.engine.url.render_as_string(hide_password=False))
        available = ", ".join(sorted(names)) or "none yet"
        raise StudyNotFound(
            f"no study {short(repr(study))} in {place}; {suggest_name(study, names)}"
            f"available: {available}"
        )
    return names[study]
