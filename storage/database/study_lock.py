"""The lock of a study, which one process on one machine holds at a time.

    with study_lock(engine, study_id):
        ...

Whoever creates trials or takes them over holds it. It is a file lock beside an SQLite database, and
an advisory lock in Postgres; the system releases both when their holder dies.

The advisory lock belongs to a transaction, because behind a pooler (PgBouncer, in transaction mode)
only a transaction stays on one connection of the server. Whoever waits asks again and again, each
time in a new transaction: one that waited inside the database would occupy a connection, of which a
pooler has few, and the holder could get none for its work.

A lock can be lost: the server ends the connection that holds it, or the holder is cut off from the
network. The server then frees it after `IDLE` seconds. Nothing rests on the lock alone: who holds a
trial, and how many trials there are, is checked where they are written
(`storage.database.fences`, `storage.database.optuna_storage.TrialStorage.at_most`). So the end of a
lock that was lost is no error.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from storage.database.schema import is_sqlite

POLL = 0.01  # seconds between two attempts at first
LONGEST_POLL = 0.1  # seconds between two attempts, after a while
CREATION = 0  # in place of a study's id: the lock to look for a study and to create it
OURS = 0x67656E73 * 2**31  # "gens": unlike other programs' locks

log = logging.getLogger("genstudy")
IDLE = 60  # seconds that the server waits for a holder that does not answer

TRY = text(
    f"SELECT pg_try_advisory_xact_lock(:key), "
    f"set_config('idle_in_transaction_session_timeout', '{IDLE}s', true)"
)


@contextmanager
def study_lock(engine: Engine, study_id: int) -> Iterator[None]:
    """Hold the lock of a study."""
    if is_sqlite(engine):
        from filelock import FileLock

        with FileLock(f"{engine.url.database}.study-{study_id}.lock", poll_interval=POLL):
            yield
        return
    pause = POLL
    while True:
        connection = engine.connect()
        try:
            if connection.scalar(TRY, {"key": OURS + study_id}):
                yield
                return
        finally:
            _end_transaction(connection)
        time.sleep(pause * random.uniform(0.5, 1.0))
        pause = min(1.2 * pause, LONGEST_POLL)


def _end_transaction(connection: Connection) -> None:
    """Free the lock, if the transaction still holds it."""
    try:
        connection.rollback()
    except DBAPIError as error:
        log.info("the lock of a study was lost: %s", error)
    finally:
        connection.close()
