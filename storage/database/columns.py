"""The tables of one study as columns, filled from the driver's rows.

    found = Columns(connection, study_id)
    found.numbers, found.states              # one item a trial, by number
    found.values(), found.parameters(), found.attributes()
    found.curves()                           # one item a trial and epoch

Every column of trials has n items, one for each trial of the study; the place of a trial is its
index there. The queries are written for Optuna's schema 12; `storage.frames` checks it.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection, inspect

from storage.database.frozen_trials import INFINITE
from storage.database.rows import fetch_rows, split_into_portions, trial_condition
from storage.database.schema import metrics as own_metrics

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Times = npt.NDArray[np.datetime64]

QUARTER = 900  # seconds: local clocks change only at a quarter of an hour


class LongTable(NamedTuple):
    """One value a row: of the trial in that place, of that epoch, under the word of that code."""

    places: Integers
    epochs: Integers
    codes: Integers
    values: Floats

    @classmethod
    def empty(cls) -> LongTable:
        nothing = np.empty(0, dtype=np.int64)
        return cls(nothing, nothing, nothing, np.empty(0))


class Columns:
    """The columns of a study; each is read from the database when its method is called."""

    def __init__(self, connection: Connection, study_id: int) -> None:
        self._connection = connection
        found = fetch_rows(
            connection,
            "SELECT trial_id, number, CAST(state AS VARCHAR), datetime_start, datetime_complete "
            "FROM trials WHERE study_id = :study_id ORDER BY number",
            study_id=study_id,
        )
        ids, numbers, states, started, ended = zip(*found, strict=True) if found else [()] * 5
        self.numbers: Integers = np.array(numbers, dtype=np.int64)
        self.states: list[str] = list(states)
        self.started = local_time(started)
        self.ended = local_time(ended)
        # of the times as they are stored: a local clock is changed in some trials
        self.durations = _to_moments(ended) - _to_moments(started)
        self._ids = ids
        self._place: dict[int, int] = {trial_id: row for row, trial_id in enumerate(ids)}
        self._ours = trial_condition(
            ids
        )  # in SQL; may admit trials of other studies, which have no place

    def values(self, objective: int = 0) -> Floats:
        """Return the trials' values of one objective; NaN where there is none."""
        column = [np.nan] * len(self.numbers)
        for trial_id, value, kind in fetch_rows(
            self._connection,
            "SELECT trial_id, value, CAST(value_type AS VARCHAR) FROM trial_values "
            f"WHERE objective = :objective AND {self._ours}",
            objective=objective,
        ):
            if trial_id in self._place:
                column[self._place[trial_id]] = INFINITE.get(kind, value)
        return np.array(column, dtype=np.float64)

    def parameters(self) -> dict[str, npt.NDArray[Any] | list[Any]]:
        """Return a column for each parameter, by name. Each distribution is parsed once."""
        found = self._read_wide(
            f"SELECT trial_id, param_name, param_value FROM trial_params WHERE {self._ours}"
        )
        columns: dict[str, npt.NDArray[Any] | list[Any]] = {}
        for name, values in found.items():
            column = np.array(values, dtype=np.float64)
            columns[name] = _to_suggested(column, self._read_distribution(name, column))
        return columns

    def _read_distribution(self, name: str, column: Floats) -> dict[str, Any]:
        """Return the distribution that stands with the first trial that has the parameter."""
        places = np.flatnonzero(~np.isnan(column))
        if not len(places):
            return {"name": "none: no trial has a value of it"}
        first = int(places[0])
        ((written,),) = fetch_rows(
            self._connection,
            "SELECT distribution_json FROM trial_params "
            "WHERE trial_id = :trial_id AND param_name = :name",
            trial_id=self._ids[first],
            name=name,
        )
        parsed: dict[str, Any] = json.loads(written)
        return parsed

    def attributes(self) -> dict[str, npt.NDArray[Any]]:
        """Return a column for each user attribute, by name; NaN where a trial has none."""
        columns = self._read_wide(
            f"SELECT trial_id, key, value_json FROM trial_user_attributes WHERE {self._ours}"
        )
        return {name: _parse_texts(column) for name, column in columns.items()}

    def violating(self) -> Integers:
        """Return the numbers of the trials that violate a constraint of Optuna's."""
        found = set()
        for trial_id, written in fetch_rows(
            self._connection,
            "SELECT trial_id, value_json FROM trial_system_attributes "
            f"WHERE substr(key, 1, 11) = 'constraints' AND {self._ours}",
        ):
            values = json.loads(written)
            listed = values if isinstance(values, list) else [values]  # as Optuna 4 wrote them
            violates = any(isinstance(each, int | float) and each > 0 for each in listed)
            if trial_id in self._place and violates:
                found.add(self._place[trial_id])
        return self.numbers[sorted(found)]

    def curves(self) -> dict[str, npt.NDArray[Any]]:
        """Return number, epoch (from 1), value and every metric, for each epoch that has any."""
        reports, kinds = self._read_long(
            "SELECT trial_id, step + 1, CAST(intermediate_value_type AS VARCHAR), "
            f"intermediate_value FROM trial_intermediate_values WHERE {self._ours}"
        )
        measured, metrics = LongTable.empty(), list[str]()
        if inspect(self._connection).has_table(own_metrics.name):  # else Optuna's own scripts
            measured, metrics = self._read_long(
                f"SELECT trial_id, epoch, name, value FROM genstudy_metrics WHERE {self._ours}"
            )
        for code, kind in enumerate(kinds):
            if kind in INFINITE:
                reports.values[reports.codes == code] = INFINITE[kind]
        span = 1 + max(reports.epochs.max(initial=0), measured.epochs.max(initial=0))
        cells = reports.places * span + reports.epochs
        others = measured.places * span + measured.epochs
        every = np.union1d(cells, others)
        columns: dict[str, npt.NDArray[Any]] = {
            "number": self.numbers[every // span],
            "epoch": every % span,
            "value": _fill_column(reports.values, np.searchsorted(every, cells), len(every)),
        }
        rows_of_others = np.searchsorted(every, others)
        for name in sorted(metrics):
            its = measured.codes == metrics.index(name)
            columns[name] = _fill_column(measured.values[its], rows_of_others[its], len(every))
        return columns

    def _read_long(self, statement: str) -> tuple[LongTable, list[str]]:
        """Return rows of trial, epoch, word and value as arrays, and the words by their codes."""
        words: dict[str, int] = {}
        whole: list[Integers] = [np.empty((3, 0), dtype=np.int64)]  # places, epochs, codes
        floats: list[Floats] = [np.empty(0)]
        for portion in split_into_portions(self._connection, statement):
            own = [
                [self._place.get(row[0], -1) for row in portion],
                [row[1] for row in portion],
                [words.setdefault(row[2], len(words)) for row in portion],
            ]
            whole.append(np.array(own, dtype=np.int64))
            floats.append(np.array([row[3] for row in portion], dtype=np.float64))
        joined = np.concatenate(whole, axis=1)
        ours = joined[0] >= 0
        places, epochs, codes = joined[:, ours]
        return LongTable(places, epochs, codes, np.concatenate(floats)[ours]), [*words]

    def _read_wide(self, statement: str) -> dict[str, list[Any]]:
        """Turn rows of trial, name and value into a column a name; NaN where there is no row."""
        size = len(self.numbers)
        place = self._place
        columns: defaultdict[str, list[Any]] = defaultdict(lambda: [np.nan] * size)
        for portion in split_into_portions(self._connection, statement):
            for trial_id, name, value in portion:
                if trial_id in place:
                    columns[name][place[trial_id]] = value
        return dict(sorted(columns.items()))


def _to_suggested(column: Floats, distribution: dict[str, Any]) -> npt.NDArray[Any] | list[Any]:
    """Turn Optuna's stored floats into what the study suggested; NaN where a trial has none."""
    missing = np.isnan(column)
    if distribution["name"] == "CategoricalDistribution":
        choices = [*distribution["attributes"]["choices"], np.nan]
        return [choices[index] for index in np.where(missing, -1, column).astype(np.int64)]
    if distribution["name"].startswith("Int") and not missing.any():  # Optuna 2 had three kinds
        return column.astype(np.int64)
    return column


def _parse_texts(column: list[Any]) -> npt.NDArray[Any]:
    """Parse all JSON texts of a column by one call of the parser; the others stay as they are."""
    texts = [text for text in column if isinstance(text, str)]
    values = iter(json.loads(f"[{','.join(texts)}]"))
    filled = (next(values) if isinstance(text, str) else text for text in column)
    return np.fromiter(filled, dtype=object, count=len(column))


def _fill_column(values: Floats, rows: Integers, size: int) -> Floats:
    """Return a column of ``size`` rows with these values in ``rows``, and NaN in the others."""
    column = np.full(size, np.nan)
    column[rows] = values
    return column


def _to_moments(stored: Any) -> Times:
    """Return times as the driver gives them, naive and in UTC."""
    return np.array(stored, dtype="datetime64[us]")


def local_time(stored: Any) -> Times:
    """Turn naive UTC, as Optuna stores it, into naive local time, as Optuna shows it."""
    moments = _to_moments(stored)
    there = ~np.isnat(moments)
    seconds = moments[there].astype("datetime64[s]").astype(np.int64)
    quarters, where = np.unique(seconds // QUARTER, return_inverse=True)
    offsets = [time.localtime(int(quarter) * QUARTER).tm_gmtoff for quarter in quarters]
    moments[there] += np.array(offsets, dtype="timedelta64[s]")[where]
    return moments
