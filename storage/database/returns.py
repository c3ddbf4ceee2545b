"""Trials that have ended and go on all the same: promoted later, or in a study with more epochs.

    let_return(connection, trial_id)              # an ended trial is WAITING again, as the same one
    end_at_rung(connection, trial_id, ...)        # a complete trial ends at a rung instead
    read_returns(connection, study_id)            # which trials did so, and how often
    read_reached(connection, study_id, ...)       # what each of them that may go on has come to

Optuna has no call for it. Here it is one transaction: the state, the value and what was kept of the
end change together, and an attempt that wakes up late writes nothing more (`fences`). The number,
parameters, reports and checkpoint of the trial stay.

Whoever follows a study takes an ended trial for settled (`trial_states`). Those that return stand
in ``genstudy_returns(trial_id, times)``, so that every process looks at them again.
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
    """What a trial that has returned has come to.

    state: WAITING or RUNNING, or PRUNED, from which it goes on if it is promoted
    best: of the values that it has reported
    """

    number: int
    state: str
    best: float


def let_return(connection: Connection, trial_id: int) -> bool:
    """Make an ended trial wait for a worker. False: it has not ended as complete or pruned.

    Who calls holds the study's lock. Should the lock be lost, the second one finds nothing to do.
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
    """Make a complete trial one that ended at a rung, as pruned, and may be promoted from there.

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
    """Return how often each trial of a study that has returned did so, by the database's ids."""
    return {int(row[0]): int(row[1]) for row in fetch_rows(connection, READ, study_id=study_id)}


def read_reached(connection: Connection, study_id: int, *, minimize: bool) -> dict[int, Reached]:
    """Return what each trial that has returned and is not complete again has come to, by the
    database's ids."""
    statement = REACHED.format(best="min" if minimize else "max")
    found = fetch_rows(connection, statement, study_id=study_id)
    return {
        int(row[0]): Reached(number=row[1], state=row[2], best=float(row[3]))
        for row in found
        if row[3] is not None
    }
