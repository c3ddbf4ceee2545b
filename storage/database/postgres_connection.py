"""Connections to Postgres on which neither side waits for ever for the other.

    connection = connect(sqlalchemy.make_url("postgresql+psycopg://me@host/studies"), {})

If a server is frozen, or a network drops packets, a client waits for hours: TCP alone notices
nothing. Here the server may be silent for `ANSWER` seconds, and for `HURRY` once the user wants the
run to end. Then the connection is given up, and the caller tries again (`storage.database.retry`).

The server is told to do the same, so that it does not keep the locks of a machine that vanishes.
Behind a pooler (PgBouncer) it is not told: the next transaction may be another client's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from typing import Any, Self, TypeVar

import psycopg
import psycopg.waiting
from psycopg.abc import PQGen, PQGenConn
from sqlalchemy.engine import URL

ANSWER = 15.0  # seconds
HURRY = 2.0
READ = 60.0  # seconds, for commands that read a whole study at once, and hold up no trial
INTERVAL = 0.1  # seconds after which psycopg looks for signals
T = TypeVar("T")

# What the server does, by its own names. A value is in milliseconds or in seconds.
SETTINGS = {
    "idle_in_transaction_session_timeout": "60s",  # a client that has vanished, or is suspended
    "lock_timeout": "10s",  # less than we wait for an answer, so that it can say why
    "tcp_user_timeout": "30s",
    "tcp_keepalives_idle": "15s",
    "tcp_keepalives_interval": "5s",
    "tcp_keepalives_count": "3",
}
# Nothing where the server's number for this connection is not what we were given: a pooler's.
SET = ", ".join(f"set_config('{name}', '{value}', false)" for name, value in SETTINGS.items())
TELL = f"SELECT {SET} WHERE pg_backend_pid() = %s"


class PatientConnection(psycopg.Connection[Any]):
    """A connection that ends when the server is silent for too long.

    patience: seconds of silence; None: `ANSWER`
    given_up: returns whether the user wants the run to end
    """

    patience: float | None = None
    given_up: Callable[[], bool] = staticmethod(lambda: False)

    def wait(self, gen: PQGen[T], interval: float = INTERVAL, timeout: float | None = None) -> T:
        if timeout is not None:  # psycopg's own, when it closes or cancels
            return super().wait(gen, interval, timeout)
        try:
            return psycopg.waiting.wait(self._heard(gen), self.pgconn.socket, interval)
        except (KeyboardInterrupt, TimeoutError) as error:
            self.pgconn.finish()  # what it would answer later belongs to no statement
            if isinstance(error, KeyboardInterrupt):
                raise
            raise psycopg.OperationalError(str(error)) from None

    def _heard(self, gen: PQGen[T]) -> PQGen[T]:
        """Pass on what comes from the server. Raises `TimeoutError` after too long a silence."""
        return _watch(gen, lambda: self.patience or ANSWER, self.given_up)

    @classmethod
    def _connect_gen(cls, conninfo: str = "") -> PQGenConn[Self]:
        """Connect; an attempt ends soon once the user wants the run to end."""
        try:
            return (yield from _watch(super()._connect_gen(conninfo), lambda: ANSWER, cls.given_up))
        except TimeoutError as error:
            raise psycopg.OperationalError(str(error)) from None


def _watch(
    gen: Generator[Any, Any, T], patience: Callable[[], float], given_up: Callable[[], bool]
) -> Generator[Any, Any, T]:
    """Yield what ``gen`` yields. Raises `TimeoutError` when nothing was ready for too long."""
    heard = time.monotonic()
    try:
        waits_for = next(gen)
        while True:
            ready = yield waits_for
            now = time.monotonic()
            if ready:  # not: an interval has passed
                heard = now
            most = min(patience(), HURRY) if given_up() else patience()
            if now - heard > most:
                gen.close()
                raise TimeoutError(f"the server has not answered for {most:g} s")
            waits_for = gen.send(ready)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]


def connect(
    place: URL,
    arguments: Mapping[str, Any],
    *,
    patience: float | None = None,
    read_only: bool = False,
    given_up: Callable[[], bool] = lambda: False,
) -> PatientConnection:
    """Connect to ``place`` as SQLAlchemy does.

    arguments: of libpq, beside those of the URL
    read_only: whether the server refuses what is written
    """

    class Patient(PatientConnection):
        pass

    Patient.patience = patience
    Patient.given_up = staticmethod(given_up)
    positional, named = place.get_dialect()().create_connect_args(place)
    connection = Patient.connect(*positional, **{**named, **arguments})
    try:
        connection.autocommit = True
        connection.execute(TELL, [connection.info.backend_pid])
        connection.autocommit = False
        connection.read_only = read_only
    except BaseException:
        connection.close()
        raise
    return connection
