"""Connections to Postgres that do not wait for ever for a server that does not answer.

    connection = connect(sqlalchemy.make_url("postgresql+psycopg://me@host/studies"), {})

A server that is frozen, or a network that drops packets, leaves a client waiting for hours: TCP
alone notices nothing. Here an answer takes at most `ANSWER` seconds. Then the connection is given
up, and what waits for the database tries again (`storage.database.retry`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.errors import _WaitTimeout
from sqlalchemy.engine import URL

ANSWER = 15.0  # seconds
INTERVAL = 0.1  # seconds after which psycopg looks for signals
T = TypeVar("T")


class PatientConnection(psycopg.Connection[Any]):
    """A connection that ends when an answer takes too long."""

    def wait(self, gen: PQGen[T], interval: float = INTERVAL, timeout: float | None = None) -> T:
        try:
            return super().wait(gen, interval, ANSWER if timeout is None else timeout)
        except _WaitTimeout as error:
            if timeout is not None:
                raise
            self.pgconn.finish()  # what it would answer later belongs to no statement
            raise psycopg.OperationalError(
                f"the server has not answered for {ANSWER:g} s"
            ) from error


def connect(place: URL, arguments: Mapping[str, Any]) -> PatientConnection:
    """Connect to ``place`` as SQLAlchemy does; arguments: of libpq, beside those of the URL."""
    positional, named = place.get_dialect()().create_connect_args(place)
    return PatientConnection.connect(*positional, **{**named, **arguments})
