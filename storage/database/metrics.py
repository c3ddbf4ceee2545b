"""What a trial has to say each epoch beyond the one value it reports.

Table ``genstudy_metrics(trial_id, epoch, name, value)``: training loss, KL,
coverage, gradient norms, seconds. Epochs count from 1; Optuna's step of the
same epoch is one less. NaN and infinities are stored as NULL.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from sqlalchemy import Connection

from storage.database.schema import metrics


def replace_metrics(
    connection: Connection, trial_id: int, epoch: int, values: Mapping[str, float]
) -> None:
    """Write one epoch, in the caller's transaction; an epoch that runs again replaces its rows."""
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


def forget_metrics(connection: Connection, trial_id: int) -> None:
    """Drop a trial's rows: it starts anew, or its id was that of a deleted study's trial."""
    connection.execute(metrics.delete().where(metrics.c.trial_id == trial_id))
