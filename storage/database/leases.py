"""Leases say who runs which trial, so that a trial outlives its worker.

    take_lease(engine, trial_id, owner, first=True)
    renew_lease(engine, trial_id, owner)              # every `RENEWAL` seconds
    end_lease(engine, trial_id)

A worker holds a lease on its trial and renews it every few seconds. A trial that is RUNNING without
a live lease is abandoned: its worker was killed, or its machine went down. Such a trial goes back
to WAITING and keeps its number, parameters and reports, and the next worker takes it. A trial that
was abandoned `MAX_ATTEMPTS` times seems to kill its workers, and is failed instead.

The leases stand in ``genstudy_leases(trial_id, owner, attempts, renewed)``. ``renewed`` is the time
in seconds by the database's clock, so that the clocks of the machines need not agree.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import Engine, extract, func, select, text
from sqlalchemy.sql import ColumnElement

from storage.database.metrics import forget_metrics
from storage.database.schema import is_sqlite, leases

RENEWAL = 5.0  # seconds between two renewals
GRACE = 60.0  # seconds without a renewal after which a trial counts as abandoned
MAX_ATTEMPTS = 5  # workers that a trial may take down: some die for other reasons


class HeldTrial(NamedTuple):
    """A RUNNING trial and who holds it.

    attempts: how many workers have run it (0: it never had a lease)
    owner: None if the trial was released, or never taken
    silent: whether the owner has not renewed the lease for `GRACE` seconds
    """

    trial_id: int
    number: int
    attempts: int
    owner: str | None
    silent: bool


def take_lease(engine: Engine, trial_id: int, owner: str, *, first: bool) -> None:
    """Make ``owner`` the one who runs the trial.

    first: whether the trial is new; a lease or metrics of its id belong to a deleted study
    """
    now = _database_time(engine)
    with engine.begin() as connection:
        if first:
            connection.execute(leases.delete().where(leases.c.trial_id == trial_id))
            forget_metrics(connection, trial_id)
        else:
            changed = connection.execute(
                leases.update()
                .where(leases.c.trial_id == trial_id)
                .values(owner=owner, attempts=leases.c.attempts + 1, renewed=now)
            )
            if changed.rowcount == 1:
                return
        connection.execute(
            leases.insert().values(trial_id=trial_id, owner=owner, attempts=1, renewed=now)
        )


def renew_lease(engine: Engine, trial_id: int, owner: str) -> bool:
    """Keep the trial for another `GRACE` seconds. Return False if somebody else has it by now."""
    with engine.begin() as connection:
        changed = connection.execute(
            leases.update()
            .where(leases.c.trial_id == trial_id, leases.c.owner == owner)
            .values(renewed=_database_time(engine))
        )
    return changed.rowcount == 1


def return_lease(engine: Engine, trial_id: int, owner: str) -> bool:
    """Give the trial back without counting the attempt. Return False if it was not ours."""
    with engine.begin() as connection:
        changed = connection.execute(
            leases.update()
            .where(leases.c.trial_id == trial_id, leases.c.owner == owner)
            .values(owner=None, attempts=leases.c.attempts - 1)
        )
    return changed.rowcount == 1


def clear_owner(engine: Engine, trial_id: int) -> None:
    """Take the trial from its owner; the attempt counts."""
    with engine.begin() as connection:
        connection.execute(leases.update().where(leases.c.trial_id == trial_id).values(owner=None))


def uncount_attempt(engine: Engine, owner: str) -> None:
    """Do not count the attempt of ``owner``, a worker that we have ended, against its trial."""
    with engine.begin() as connection:
        connection.execute(
            leases.update().where(leases.c.owner == owner).values(attempts=leases.c.attempts - 1)
        )


def end_lease(engine: Engine, trial_id: int) -> None:
    """Delete the lease of a trial that has ended."""
    with engine.begin() as connection:
        connection.execute(leases.delete().where(leases.c.trial_id == trial_id))


def running_trials(engine: Engine, study_id: int, *, after: int = -1) -> list[HeldTrial]:
    """Return the study's RUNNING trials with ids above ``after``, by number."""
    statement = text(
        "SELECT trials.trial_id, trials.number, coalesce(genstudy_leases.attempts, 0), "
        "genstudy_leases.owner, coalesce(:now - genstudy_leases.renewed > :grace, false) "
        "FROM trials LEFT JOIN genstudy_leases ON genstudy_leases.trial_id = trials.trial_id "
        "WHERE trials.study_id = :study_id AND trials.trial_id > :after "
        "AND trials.state = 'RUNNING' ORDER BY trials.number"
    )
    with engine.connect() as connection:
        now = connection.scalar(select(_database_time(engine)))
        found = connection.execute(
            statement, {"study_id": study_id, "after": after, "now": now, "grace": GRACE}
        )
        return [HeldTrial(*row) for row in found]


def _database_time(engine: Engine) -> ColumnElement[Any]:
    """Return the seconds of the database's clock, as an SQL expression."""
    if is_sqlite(engine):
        return (func.julianday("now") - 2440587.5) * 86400.0
    return extract("epoch", func.clock_timestamp())
