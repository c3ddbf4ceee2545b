"""The lock of a study, which one process on one machine holds at a time.

    with study_lock(engine, study_id):
        ...

A process holds it while it creates trials or takes them over. It is a file lock beside an SQLite
database, and an advisory lock in Postgres. The system releases both when their holder dies.

The advisory lock belongs to a transaction, because behind a pooler (PgBouncer, in transaction mode)
only a transaction stays on one connection of the server. All that the holder writes belongs to that
transaction (`storage.database.transactions`), and others see it once the lock is free. A process
that waits asks again and again, each time in a new transaction. If it waited inside the database,
it would occupy a connection, of which a pooler has few, and the holder might get none.

A lock can be lost: the server ends the connection that holds it, or the holder is cut off from the
network. The server then frees it after `IDLE` seconds, and undoes what the holder has written; the
holder begins again. Files of SQLite may lose the lock, too. So nothing rests on the lock alone: the
holder of a trial, and the number of trials, are checked in the transactions that write them
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
