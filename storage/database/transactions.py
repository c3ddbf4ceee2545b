"""Transactions; inside a study's lock they are parts of the lock's own transaction.

    with write(engine) as connection:     # committed at the end
        connection.execute(...)
    with read(engine) as connection: ...

On a server, a transaction holds the lock of a study (`storage.database.study_lock`). All that the
holder does meanwhile belongs to that transaction, and each write to a savepoint in it. So a process
needs one connection, of which servers and poolers have few. If the lock is lost, all that was done
under it is undone.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

_held = threading.local()  # .connection: that holds a lock in this thread


@contextmanager
def nest_transactions(connection: Connection) -> Iterator[None]:
    """Let all transactions of this thread and this engine be parts of the one on ``connection``."""
    before = getattr(_held, "connection", None)
    _held.connection = connection
    try:
        yield
    finally:
        _held.connection = before


def lock_holder(engine: Engine) -> Connection | None:
    """Return the connection that holds a lock for this thread; None: there is none."""
    connection: Connection | None = getattr(_held, "connection", None)
    return connection if connection is not None and connection.engine is engine else None


@contextmanager
def write(engine: Engine) -> Iterator[Connection]:
    """Begin a transaction and commit it; an error undoes it."""
    held = lock_holder(engine)
    if held is None:
        with engine.begin() as connection:
            yield connection
        return
    with held.begin_nested():
        yield held


@contextmanager
def read(engine: Engine) -> Iterator[Connection]:
    """Open a connection to read."""
    held = lock_holder(engine)
    if held is None:
        with engine.connect() as connection:
            yield connection
        return
    yield held


class _PartSession(Session):
    """A session of Optuna's storage whose transaction may be a part of another."""

    def get_bind(self, mapper: Any = None, **more: Any) -> Engine | Connection:
        found = super().get_bind(mapper, **more)
        held = lock_holder(found) if isinstance(found, Engine) else None
        return found if held is None else held


def open_sessions(engine: Engine) -> scoped_session[Session]:
    """Return what opens the sessions of Optuna's storage."""
    return scoped_session(
        sessionmaker(bind=engine, class_=_PartSession, join_transaction_mode="create_savepoint")
    )
