"""Trials that go on after their end: promoted later, or in a study with more epochs.

    let_return(connection, trial_id)              # an ended trial is WAITING again, as the same one
    end_at_rung(connection, trial_id, ...)        # a complete trial ends at a rung instead
    read_returns(connection, study_id)            # which trials did so, and how often
    read_reached(connection, study_id, ...)       # the best value of each that may go on

Optuna has no call for this. Here it is one transaction: the state, the value and the attributes of
the end change together, and an earlier attempt that wakes up late can write nothing more
(`fences`). The number, parameters, reports and checkpoint of the trial stay.

A process that follows a study takes an ended trial as settled (`trial_states`). Trials that return
stand in ``genstudy_returns(trial_id, times)``, so that every process reads them again.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, text

from storage.database.fences import raise_fence
from storage.database.rows import fetch_rows

RETURN = text(
    "UPDATE trials SET state = 'WAITING', datetime_complete = NULL "
    "WHERE trial_id = :trial_id AND state IN ('COMPLETE', 'PRUNED')"
)
NOTE = text(
    "INSERT INTO genstudy_returns (trial_id, times) VALUES (:trial_id, 1) "
    "ON CONFLICT (trial_id) DO UPDATE SET times = genstudy_returns.times + 1"
)
FORGET_VALUE = text("DELETE FROM trial_values WHERE trial_id = :trial_id")
FORGET_END = text(
    "DELETE FROM trial_user_attributes WHERE trial_id = :trial_id "
    "AND key IN ('outcome', 'epochs', 'bound', 'reason', 'violation')"
)
FORGET_CONSTRAINTS = text(
    "DELETE FROM trial_system_attributes WHERE trial_id = :trial_id "
    "AND substr(key, 1, 12) = 'constraints:'"
)
PRUNE = text("UPDATE trials SET state = 'PRUNED' WHERE trial_id = :trial_id AND state = 'COMPLETE'")
LAST_VALUE = text(
    "UPDATE trial_values SET value = :value WHERE trial_id = :trial_id AND objective = 0"
)
PRUNED = text(
    "UPDATE trial_user_attributes SET value_json = '\"pruned\"' "
    "WHERE trial_id = :trial_id AND key = 'outcome'"
)
ARRIVE = text(
    "INSERT INTO genstudy_rungs (trial_id, rung, value, waits) "
    "VALUES (:trial_id, :rung, :value, 1) ON CONFLICT (trial_id, rung) DO NOTHING"
)
READ = (
    "SELECT genstudy_returns.trial_id, times FROM genstudy_returns "
    "JOIN trials ON trials.trial_id = genstudy_returns.trial_id WHERE study_id = :study_id"
)
REACHED = (
    "SELECT trials.trial_id, number, CAST(trials.state AS VARCHAR), {best}(intermediate_value) "
    "FROM trials "
    "JOIN genstudy_returns ON genstudy_returns.trial_id = trials.trial_id "
    "JOIN trial_intermediate_values AS reported ON reported.trial_id = trials.trial_id "
    "WHERE study_id = :study_id AND trials.state IN ('WAITING', 'RUNNING', 'PRUNED') "
    "AND CAST(intermediate_value_type AS VARCHAR) = 'FINITE' "  # infinity is stored as 0
    "GROUP BY trials.trial_id, number, trials.state"
)


@dataclass(frozen=True, kw_only=True)
class Reached:
    """A trial that has returned, and the best value that it has reached.

    state: WAITING or RUNNING; or PRUNED, from which it goes on if it is promoted
    best: of the values that it has reported
    """

    number: int
    state: str
    best: float


def let_return(connection: Connection, trial_id: int) -> bool:
    """Make an ended trial wait for a worker. False: it has not ended as complete or pruned.

    The caller holds the study's lock. If the lock is lost, a second caller finds nothing to do.
    """
    if connection.execute(RETURN, {"trial_id": trial_id}).rowcount != 1:
        return False
    for statement in (NOTE, FORGET_VALUE, FORGET_END, FORGET_CONSTRAINTS):
        connection.execute(statement, {"trial_id": trial_id})
    raise_fence(connection, trial_id)
    return True


def end_at_rung(
    connection: Connection, trial_id: int, *, rung: int, best: float, last: float
) -> None:
    """End a complete trial at a rung instead, as pruned. It may be promoted from there.

    best: its best value; last: that of its last epoch, which Optuna keeps of a pruned trial
    """
    if connection.execute(PRUNE, {"trial_id": trial_id}).rowcount != 1:
        return
    connection.execute(LAST_VALUE, {"trial_id": trial_id, "value": last})
    connection.execute(ARRIVE, {"trial_id": trial_id, "rung": rung, "value": best})
    for statement in (NOTE, PRUNED):
        connection.execute(statement, {"trial_id": trial_id})
    raise_fence(connection, trial_id)


def read_returns(connection: Connection, study_id: int) -> dict[int, int]:
    """Return how often each trial of a study has returned, by the database's ids."""
    return {int(row[0]): int(row[1]) for row in fetch_rows(connection, READ, study_id=study_id)}


def read_reached(connection: Connection, study_id: int, *, minimize: bool) -> dict[int, Reached]:
    """Return each trial that has returned and is not complete again, by the database's ids."""
    statement = REACHED.format(best="min" if minimize else "max")
    found = fetch_rows(connection, statement, study_id=study_id)
    return {
        int(row[0]): Reached(number=row[1], state=row[2], best=float(row[3]))
        for row in found
        if row[3] is not None
    }
