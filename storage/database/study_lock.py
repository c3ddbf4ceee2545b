"""The lock of a study, which one process on one machine holds at a time.

    with study_lock(engine, study_id):
        ...

Whoever creates trials or takes them over holds it. It is a file lock beside an SQLite database, and
an advisory lock in Postgres; the system releases both when their holder dies.

The advisory lock belongs to a transaction, because behind a pooler (PgBouncer, in transaction mode)
only a transaction stays on one connection of the server. Whoever waits asks again and again, each
time in a new transaction: one that waited inside the database would occupy a connection, of which a
pooler has few, and the holder could get none for its work.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine, text

from storage.database.schema import is_sqlite

POLL = 0.01  # seconds between two attempts at first
LONGEST_POLL = 0.1  # seconds between two attempts, after a while
CREATION = 0  # in place of a study's id: the lock to look for a study and to create it
OURS = 0x67656E73 * 2**31  # "gens": unlike other programs' locks

TRY = text("SELECT pg_try_advisory_xact_lock(:key)")


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
        with engine.begin() as connection:
            if connection.scalar(TRY, {"key": OURS + study_id}):
                yield
                return
        time.sleep(pause * random.uniform(0.5, 1.0))
        pause = min(1.2 * pause, LONGEST_POLL)
