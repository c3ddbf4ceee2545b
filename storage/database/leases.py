"""Who runs which trial, so that a trial outlives its worker.

A worker holds a lease on its trial and renews it every few seconds. A trial
that is RUNNING without a live lease was abandoned (its worker was killed, its
machine went down): it goes back to WAITING, keeps its number, parameters and
reports, and the next worker takes it. One that was abandoned `MAX_ATTEMPTS`
times kills its workers, and is failed instead.

Table ``genstudy_leases(trial_id, owner, attempts, renewed)``; ``renewed`` is the
database's clock, in seconds, so that machines need not agree on the time.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import (
    Engine,
    extract,
    func,
    select,
    text,
)
from sqlalchemy.sql import ColumnElement

from storage.database.metrics import forget_metrics
from storage.database.schema import is_sqlite, leases

RENEWAL = 5.0  # seconds between two renewals
GRACE = 60.0  # seconds without one until a trial counts as abandoned
MAX_ATTEMPTS = 5  # workers that one trial may take down: some die for other reasons


class HeldTrial(NamedTuple):
    """A RUNNING trial and who holds it.

    attempts: so far (0: it never had a lease); owner: None if it was released, or never taken;
    silent: its owner has not renewed the lease for `GRACE` seconds
    """

    trial_id: int
    number: int
    attempts: int
    owner: str | None
    silent: bool


def take_lease(engine: Engine, trial_id: int, owner: str, *, first: bool) -> None:
    """Make ``owner`` the one who runs the trial.

    first: whatever stood there, or among the metrics, was that of a deleted study's trial
    """
    now = _now(engine)
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
    """Keep the trial for another `GRACE` seconds. False: it belongs to somebody else by now."""
    with engine.begin() as connection:
        changed = connection.execute(
            leases.update()
            .where(leases.c.trial_id == trial_id, leases.c.owner == owner)
            .values(renewed=_now(engine))
        )
    return changed.rowcount == 1


def return_lease(engine: Engine, trial_id: int, owner: str) -> bool:
    """Give the trial back unharmed: the attempt does not count. False: it was not ours."""
    with engine.begin() as connection:
        changed = connection.execute(
            leases.update()
            .where(leases.c.trial_id == trial_id, leases.c.owner == owner)
            .values(owner=None, attempts=leases.c.attempts - 1)
        )
    return changed.rowcount == 1


def clear_owner(engine: Engine, trial_id: int) -> None:
    """Nobody holds the trial any more; the attempt that was made at it counts."""
    with engine.begin() as connection:
        connection.execute(leases.update().where(leases.c.trial_id == trial_id).values(owner=None))


def uncount_attempt(engine: Engine, owner: str) -> None:
    """Its worker was ended by us: that attempt does not count against the trial."""
    with engine.begin() as connection:
        connection.execute(
            leases.update().where(leases.c.owner == owner).values(attempts=leases.c.attempts - 1)
        )


def end_lease(engine: Engine, trial_id: int) -> None:
    """The trial has ended: nothing is left to hold."""
    with engine.begin() as connection:
        connection.execute(leases.delete().where(leases.c.trial_id == trial_id))


def running_trials(engine: Engine, study_id: int, *, after: int = -1) -> list[HeldTrial]:
    """The study's RUNNING trials with ids above ``after``, by number."""
    statement = text(
        "SELECT trials.trial_id, trials.number, coalesce(genstudy_leases.attempts, 0), "
        "genstudy_leases.owner, coalesce(:now - genstudy_leases.renewed > :grace, false) "
        "FROM trials LEFT JOIN genstudy_leases ON genstudy_leases.trial_id = trials.trial_id "
        "WHERE trials.study_id = :study_id AND trials.trial_id > :after "
        "AND trials.state = 'RUNNING' ORDER BY trials.number"
    )
    with engine.connect() as connection:
        now = connection.scalar(select(_now(engine)))
        found = connection.execute(
            statement, {"study_id": study_id, "after": after, "now": now, "grace": GRACE}
        )
        return [HeldTrial(*row) for row in found]


def _now(engine: Engine) -> ColumnElement[Any]:
    """Seconds on the database's clock, as an SQL expression."""
    if is_sqlite(engine):
        return (func.julianday("now") - 2440587.5) * 86400.0
    return extract("epoch", func.clock_timestamp())
