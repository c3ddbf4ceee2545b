"""Leases say who runs which trial, so that a trial outlives its worker.

    attempt = take_lease(engine, trial_id, owner)
    renew_lease(engine, trial_id, owner)              # every `RENEWAL` seconds
    end_lease(engine, trial_id)

A worker holds a lease on its trial and renews it every few seconds, as long as its training gets
on. A trial that is RUNNING without a live lease is abandoned: its worker was killed, or its machine
went down. Such a trial goes back to WAITING and keeps its number, parameters and reports, and the
next worker takes it. A trial that was abandoned `MAX_ATTEMPTS` times, and got no further in
between, seems to kill its workers, and is failed instead.

The leases stand in ``genstudy_leases(trial_id, owner, attempts, renewed)``. ``renewed`` is the time
in seconds by the database's clock. Nobody compares it with a clock, which may be set: whoever waits
for a trial looks whether it changes (`search.trials.abandoned`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, case, extract, func, text
from sqlalchemy.sql import ColumnElement

from storage.database.fences import TrialLost, raise_fence
from storage.database.schema import is_sqlite, leases
from storage.database.transactions import read, write
from storage.database.trial_states import TrialStatus

RENEWAL = 5.0  # seconds between two renewals
GRACE = 60.0  # seconds without a renewal after which a trial counts as abandoned
STUCK = 900.0  # seconds without a step or an epoch, after which nobody renews
MAX_ATTEMPTS = 5  # workers that may die at a trial: some die for other reasons

STATE = text("SELECT CAST(state AS VARCHAR) FROM trials WHERE trial_id = :trial_id")


class Attempt(NamedTuple):
    """One worker's attempt at a trial.

    fence: its number, which every write of the trial needs (`storage.database.fences`)
    counted: how many attempts count against the trial since it last got further, with this one
    """

    fence: int
    counted: int


class HeldTrial(NamedTuple):
    """A RUNNING trial and who holds it.

    attempts: how many workers have run it (0: it never had a lease)
    owner: None if the trial was released, or never taken
    renewed: a number that changes with every renewal
    """

    trial_id: int
    number: int
    attempts: int
    owner: str | None
    renewed: float | None


def take_lease(engine: Engine, trial_id: int, owner: str) -> Attempt:
    """Let ``owner`` run the trial. Only its attempt may write from now on.

    Raises `TrialLost` if another process has put the trial back since it was made RUNNING.
    """
    now = database_time(engine)
    with write(engine) as connection:
        fence = raise_fence(connection, trial_id)
        if connection.scalar(STATE, {"trial_id": trial_id}) != TrialStatus.RUNNING:
            raise TrialLost(f"trial {trial_id} does not run any more")
        attempts = connection.execute(
            leases.update()
            .where(leases.c.trial_id == trial_id)
            .values(owner=owner, attempts=leases.c.attempts + 1, renewed=now)
            .returning(leases.c.attempts)
        ).scalar()
        if attempts is None:
            attempts = 1
            connection.execute(
                leases.insert().values(trial_id=trial_id, owner=owner, attempts=1, renewed=now)
            )
    return Attempt(fence=fence, counted=int(attempts))


def renew_lease(engine: Engine, trial_id: int, owner: str) -> bool:
    """Keep the trial for another `GRACE` seconds. Return False if another process has it.

    The stored time only grows, even if the clock is set back or stands still.
    """
    now = database_time(engine)
    with write(engine) as connection:
        changed = connection.execute(
            leases.update()
            .where(leases.c.trial_id == trial_id, leases.c.owner == owner)
            .values(renewed=case((now > leases.c.renewed, now), else_=leases.c.renewed + 1))
        )
    return changed.rowcount == 1


def return_lease(engine: Engine, trial_id: int, owner: str) -> bool:
    """Give the trial back without counting the attempt. Return False if it was not ours."""
    with write(engine) as connection:
        changed = connection.execute(
            leases.update()
            .where(leases.c.trial_id == trial_id, leases.c.owner == owner)
            .values(owner=None, attempts=leases.c.attempts - 1)
        )
    return changed.rowcount == 1


def clear_owner(engine: Engine, trial_id: int) -> int:
    """Take the trial from its owner, which can write no more; the attempt counts.

    Returns the number of the new attempt, which may write.
    """
    with write(engine) as connection:
        fence = raise_fence(connection, trial_id)
        connection.execute(leases.update().where(leases.c.trial_id == trial_id).values(owner=None))
    return fence


def uncount_attempt(engine: Engine, owner: str) -> None:
    """Do not count the attempt of ``owner``, a worker that we have stopped, against its trial."""
    with write(engine) as connection:
        connection.execute(
            leases.update().where(leases.c.owner == owner).values(attempts=leases.c.attempts - 1)
        )


def forgive_attempts(connection: Connection, trial_id: int) -> None:
    """Count no earlier attempt against a trial that has got further than they did."""
    connection.execute(leases.update().where(leases.c.trial_id == trial_id).values(attempts=1))


def end_lease(engine: Engine, trial_id: int) -> None:
    """Delete the lease of a trial that has ended."""
    with write(engine) as connection:
        connection.execute(leases.delete().where(leases.c.trial_id == trial_id))


def running_trials(engine: Engine, study_id: int, *, after: int = -1) -> list[HeldTrial]:
    """Return the study's RUNNING trials with ids above ``after``, by number."""
    statement = text(
        "SELECT trials.trial_id, trials.number, coalesce(genstudy_leases.attempts, 0), "
        "genstudy_leases.owner, genstudy_leases.renewed "
        "FROM trials LEFT JOIN genstudy_leases ON genstudy_leases.trial_id = trials.trial_id "
        "WHERE trials.study_id = :study_id AND trials.trial_id > :after "
        "AND trials.state = 'RUNNING' ORDER BY trials.number"
    )
    with read(engine) as connection:
        found = connection.execute(statement, {"study_id": study_id, "after": after})
        return [HeldTrial(*row) for row in found]


def database_time(engine: Engine) -> ColumnElement[Any]:
    """Return the seconds of the database's clock, as an SQL expression."""
    if is_sqlite(engine):
        return (func.julianday("now") - 2440587.5) * 86400.0
    return extract("epoch", func.clock_timestamp())
