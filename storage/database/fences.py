"""Fences: numbers that tell the latest attempt at a trial from all earlier ones.

    fence = raise_fence(connection, trial_id)         # each new attempt gets a new number
    check_fence(connection, trial_id, fence)          # in the transaction of every write

A worker may be suspended for an hour, or lose its connection in the middle of a step, and go on
when another worker has its trial. No lock or clock can stop it in time. The number can: it only
grows, and a write of an attempt with an older number is refused by its own transaction.

The numbers stand in ``genstudy_fences(trial_id, fence)`` and outlive the leases.
"""

from __future__ import annotations

from optuna.exceptions import UpdateFinishedTrialError
from sqlalchemy import Connection, text

RAISE = text(
    "INSERT INTO genstudy_fences (trial_id, fence) VALUES (:trial_id, 1) "
    "ON CONFLICT (trial_id) DO UPDATE SET fence = genstudy_fences.fence + 1 RETURNING fence"
)
READ = (
    "SELECT fence, CAST(state AS VARCHAR) FROM genstudy_fences "
    "JOIN trials ON trials.trial_id = genstudy_fences.trial_id "
    "WHERE genstudy_fences.trial_id = :trial_id"
)
SQLITE, POSTGRES = text(READ), text(READ + " FOR SHARE OF genstudy_fences")


class TrialLost(UpdateFinishedTrialError):
    """Another process has the trial: this attempt can write nothing more."""


def raise_fence(connection: Connection, trial_id: int) -> int:
    """Return a new number for a trial: from now on only its holder may write."""
    return int(connection.execute(RAISE, {"trial_id": trial_id}).scalar_one())


def check_fence(connection: Connection, trial_id: int, fence: int) -> str:
    """Return the trial's state, as a word; raise `TrialLost` if it has a newer number.

    No process gets a newer number before this transaction ends: Postgres holds the row, and SQLite
    has one writer.

    It comes last in its transaction. A transaction that begins with a read may not get SQLite's
    lock for its first write.
    """
    statement = SQLITE if connection.dialect.name == "sqlite" else POSTGRES
    found = connection.execute(statement, {"trial_id": trial_id}).one_or_none()
    latest, state = (None, "") if found is None else found
    if latest != fence:
        raise TrialLost(f"trial {trial_id} is at attempt {latest}, and this is attempt {fence}")
    return str(state)
