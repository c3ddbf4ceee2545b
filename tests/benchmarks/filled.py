"""A study of many finished trials, written by direct SQL: what the database is measured on.

    fill_study("sqlite:////tmp/bench.db", "bench-10000", 10_000)

Always the same trials: 6 parameters, 20 reports with 3 metrics each, 5 attributes.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)
from sqlalchemy import Engine, text

from storage.database.connection import open_storage
from storage.database.schema import is_sqlite

STEPS = 20
SPACE: dict[str, BaseDistribution] = {
    "channels": IntDistribution(4, 10),
    "latent": IntDistribution(10, 60),
    "optimizer": CategoricalDistribution(["adam", "sgd"]),
    "lr": FloatDistribution(5e-5, 5e-2, log=True),
    "weight_decay": FloatDistribution(1e-6, 1e-4, log=True),
    "dropout": FloatDistribution(0.0, 0.5),
}
METRICS = ("train_mse", "valid_mse", "epoch_seconds")


def fill_study(url: str, name: str, trials: int) -> None:
    """A finished study: ``trials`` complete trials of 6 parameters, 20 reports, 5 attributes."""
    storage = open_storage(url)
    optuna.create_study(study_name=name, storage=storage, direction="minimize")
    study_id = storage.get_study_id_from_name(name)
    _insert_trials(storage.engine, study_id, trials)
    with storage.engine.connect() as connection:
        found = connection.execute(
            text("SELECT trial_id FROM trials WHERE study_id = :study_id ORDER BY number"),
            {"study_id": study_id},
        )
        ids = [int(row[0]) for row in found]
    draw = random.Random(0)
    _insert_parameters(storage.engine, ids, draw)
    _insert_curves(storage.engine, {trial_id: draw.uniform(0.01, 0.2) for trial_id in ids})
    _insert(
        storage.engine,
        "trial_user_attributes (trial_id, key, value_json)",
        (
            (trial_id, key, json.dumps(value))
            for number, trial_id in enumerate(ids)
            for key, value in attributes(number).items()
        ),
    )
    if not is_sqlite(storage.engine):  # a server does it by itself, some time later
        with storage.engine.begin() as connection:
            connection.execute(text("ANALYZE"))
    storage.engine.dispose()


def _insert_trials(engine: Engine, study_id: int, count: int) -> None:
    began, minute = datetime(2026, 3, 1), timedelta(minutes=1)
    _insert(
        engine,
        "trials (number, study_id, state, datetime_start, datetime_complete)",
        (
            (n, study_id, "COMPLETE", str(began + n * minute), str(began + (n + 0.5) * minute))
            for n in range(count)
        ),
    )


def _insert_parameters(engine: Engine, ids: list[int], draw: random.Random) -> None:
    written = {name: distribution_to_json(kind) for name, kind in SPACE.items()}
    _insert(
        engine,
        "trial_params (trial_id, param_name, param_value, distribution_json)",
        (
            (trial_id, name, _drawn(draw, kind), written[name])
            for trial_id in ids
            for name, kind in SPACE.items()
        ),
    )


def _insert_curves(engine: Engine, levels: dict[int, float]) -> None:
    """Values that fall toward a level of the trial's own, and metrics beside them."""
    _insert(
        engine,
        "trial_intermediate_values (trial_id, step, intermediate_value, intermediate_value_type)",
        (
            (trial_id, step, level * (1 + 1 / (step + 1)), "FINITE")
            for trial_id, level in levels.items()
            for step in range(STEPS)
        ),
    )
    _insert(
        engine,
        "genstudy_metrics (trial_id, epoch, name, value)",
        (
            (trial_id, epoch, metric, level / epoch)
            for trial_id, level in levels.items()
            for epoch in range(1, STEPS + 1)
            for metric in METRICS
        ),
    )
    _insert(
        engine,
        "trial_values (trial_id, objective, value, value_type)",
        ((i, 0, level * (1 + 1 / STEPS), "FINITE") for i, level in levels.items()),
    )


def _drawn(draw: random.Random, kind: BaseDistribution) -> float:
    """As Optuna stores it: a choice's index, a whole number, or a float."""
    if isinstance(kind, CategoricalDistribution):
        return float(draw.randrange(len(kind.choices)))
    if isinstance(kind, IntDistribution):
        return float(draw.randint(kind.low, kind.high))
    assert isinstance(kind, FloatDistribution)
    return draw.uniform(kind.low, kind.high)


def attributes(number: int) -> dict[str, Any]:
    return {
        "device": "cpu",
        "host": "bench",
        "seed": number * 7919,
        "seconds": 47.0 + number % 10 / 10,
        "outcome": "complete",
    }


def _insert(engine: Engine, table: str, rows: Iterable[tuple[Any, ...]]) -> None:
    """All rows in one go, Postgres by COPY. ``table``: its name and columns."""
    connection = engine.raw_connection()
    try:
        cursor: Any = connection.cursor()
        if is_sqlite(engine):
            marks = ", ".join("?" * (table.count(",") + 1))
            cursor.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)
        else:
            with cursor.copy(f"COPY {table} FROM STDIN") as copy:
                for row in rows:
                    copy.write_row(row)
        connection.commit()
    finally:
        connection.close()
