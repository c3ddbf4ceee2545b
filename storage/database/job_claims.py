"""Who does which job of a study's finish, over all machines: each retraining and export, once.

    fence = claim_job(engine, token, "retrain-7", owner=owner, seen=0)    # None: another has it
    renew_jobs(engine, token, owner)                  # every `RENEWAL` seconds
    check_job(connection, token, "retrain-7", fence)  # in the transaction of what the job writes
    release_job(engine, token, "retrain-7", fence)    # False: another process has claimed it

A claim is for a job what a lease with a fence is for a trial. ``renewed`` is not compared with a
clock: a process that waits looks whether it changes. The rows stand in ``genstudy_claims``, which
is made with the other tables of FILES. Without FILES one machine does all jobs.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Column, Connection, Engine, Integer, String, Table, select
from sqlalchemy.dialects import postgresql, sqlite

from storage.database.file_records import file_tables
from storage.database.schema import is_sqlite
from storage.database.transactions import read, write

claims = Table(
    "genstudy_claims",
    file_tables,
    Column("token", String(100), primary_key=True),  # of the stored study
    Column("name", String(200), primary_key=True),  # of the job
    Column("fence", Integer, nullable=False),  # of the latest claim: it only grows
    Column("owner", String(200)),  # NULL: nobody is at it
    Column("renewed", Integer, nullable=False),  # how often the owner has said that it is at it
)


@dataclass(frozen=True, kw_only=True)
class JobClaim:
    """The latest claim on a job; see `claims` for its fields."""

    fence: int
    owner: str | None
    renewed: int


class JobLost(Exception):
    """Another process has claimed the job since: the work of this one does not count."""


def read_claims(engine: Engine, token: str) -> dict[str, JobClaim]:
    """Return the latest claim on each job of a study, by its name."""
    with read(engine) as connection:
        rows = connection.execute(select(claims).where(claims.c.token == token))
        return {
            row.name: JobClaim(fence=row.fence, owner=row.owner, renewed=row.renewed)
            for row in rows
        }


def claim_job(engine: Engine, token: str, name: str, *, owner: str, seen: int) -> int | None:
    """Let ``owner`` do a job; return the number of its claim, or None.

    seen: the number of the latest claim that the caller knows, 0 for none. If there is a later one,
        the caller gets none.
    """
    insert = sqlite.insert if is_sqlite(engine) else postgresql.insert
    statement = (
        insert(claims)
        .values(token=token, name=name, fence=1, owner=owner, renewed=0)
        .on_conflict_do_update(
            index_elements=["token", "name"],
            set_={"owner": owner, "renewed": 0, "fence": claims.c.fence + 1},
            where=claims.c.fence == seen,
        )
        .returning(claims.c.fence)
    )
    with write(engine) as connection:
        fence = connection.execute(statement).scalar()
    return None if fence is None else int(fence)


def renew_jobs(engine: Engine, token: str, owner: str) -> None:
    """Renew the owner's claims on all its jobs."""
    with write(engine) as connection:
        connection.execute(
            claims.update()
            .where(claims.c.token == token, claims.c.owner == owner)
            .values(renewed=claims.c.renewed + 1)
        )


def release_job(engine: Engine, token: str, name: str, fence: int) -> bool:
    """Release a job. False: another process has claimed it."""
    with write(engine) as connection:
        changed = connection.execute(
            claims.update()
            .where(claims.c.token == token, claims.c.name == name, claims.c.fence == fence)
            .values(owner=None)
        )
    return changed.rowcount == 1


def check_job(connection: Connection, token: str, name: str, fence: int) -> None:
    """Raise `JobLost` if a job has a later claim.

    No process can claim the job before this transaction ends: Postgres holds the row, and SQLite
    has one writer.
    """
    statement = (
        select(claims.c.fence)
        .where(claims.c.token == token, claims.c.name == name)
        .with_for_update(read=True)
    )
    latest = connection.scalar(statement)
    if latest != fence:
        raise JobLost(f"{name} is at claim {latest}, and this is claim {fence}")
