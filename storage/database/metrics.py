"""What is measured in each epoch of a trial, beyond the one value that it reports to Optuna.

    write_metrics(connection, trial_id, 1, {"train_mse": 0.1, "seconds": 2.5}, again=False)
    read_metrics(connection, trial_id)         # {1: {"train_mse": 0.1, "seconds": 2.5}}

The measures stand in ``genstudy_metrics(trial_id, epoch, name, value)``: training loss, KL,
coverage, gradient norms, seconds. Epochs count from 1; Optuna's step of the same epoch is one less.
NaN and infinities are stored as NULL.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from sqlalchemy import Connection, select

from storage.database.schema import metrics


def write_metrics(
    connection: Connection,
    trial_id: int,
    epoch: int,
    values: Mapping[str, float],
    *,
    again: bool,
) -> None:
    """Write one epoch in the caller's transaction.

    again: whether the epoch may have been written before; its rows are replaced
    """
    if again:
        connection.execute(
            metrics.delete().where(metrics.c.trial_id == trial_id, metrics.c.epoch == epoch)
        )
    rows = [
        {
            "trial_id": trial_id,
            "epoch": epoch,
            "name": name,
            "value": float(value) if math.isfinite(value) else None,
        }
        for name, value in values.items()
    ]
    if rows:
        connection.execute(metrics.insert(), rows)


def read_metrics(connection: Connection, trial_id: int) -> dict[int, dict[str, float]]:
    """Return what was measured in each epoch of a trial, without what was not finite."""
    rows = connection.execute(
        select(metrics.c.epoch, metrics.c.name, metrics.c.value)
        .where(metrics.c.trial_id == trial_id)
        .order_by(metrics.c.epoch)
    )
    found: dict[int, dict[str, float]] = {}
    for epoch, name, value in rows:
        if value is not None:
            found.setdefault(epoch, {})[name] = value
    return found
