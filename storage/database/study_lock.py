"""The lock of a study, which one process on one machine holds at a time.

    with study_lock(engine, study_id):
        ...

Whoever creates trials or takes them over holds it. It is a file lock beside an SQLite database, and
an advisory lock in Postgres; the system releases both when their holder dies.

The advisory lock belongs to a transaction, because behind a pooler (PgBouncer, in transaction mode)
only a transaction stays on one connection of the server. All that its holder writes belongs to it
(`storage.database.transactions`), and is there for others once the lock is free. Whoever waits asks
again and again, each time in a new transaction: one that waited inside the database would occupy a
connection, of which a pooler has few, and the holder could get none for its work.

A lock can be lost: the server ends the connection that holds it, or the holder is cut off from the
network. The server then frees it after `IDLE` seconds. What the holder has written is undone with
it, and it begins again. Yet nothing rests on the lock alone, which files of SQLite may lose: who
holds a trial, and how many trials there are, is checked where they are written
(`storage.database.fences`, `storage.database.optuna_storage.TrialStorage.limit_trials`).
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine, text

from storage.database.schema import is_sqlite
from storage.database.transactions import lock_holder, nest_transactions

POLL = 0.01  # seconds between two attempts at first
LONGEST_POLL = 0.1  # seconds between two attempts, after a while
CREATION = 0  # in place of a study's id: the lock to look for a study and to create it
OURS = 0x67656E73 * 2**31  # "gens": unlike other programs' locks

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
    pauses = _pauses()
    if (held := lock_holder(engine)) is not None:  # a lock under another
        while not held.scalar(TRY, {"key": OURS + study_id}):
            time.sleep(next(pauses))
        yield
        return
    while True:
        with engine.begin() as connection:
            if connection.scalar(TRY, {"key": OURS + study_id}):
                with nest_transactions(connection):
                    yield
                return
        time.sleep(next(pauses))


def _pauses() -> Iterator[float]:
    """Yield seconds to wait between two attempts."""
    pause = POLL
    while True:
        yield pause * random.uniform(0.5, 1.0)
        pause = min(1.2 * pause, LONGEST_POLL)
