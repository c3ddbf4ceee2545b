"""Rows as the driver gives them, for reads so large that an object for each row costs too much.

    fetch_rows(connection, "SELECT number FROM trials WHERE study_id = :study_id", study_id=1)

A column of an enumeration is selected as ``CAST(state AS VARCHAR)``: Postgres sends numbers and
dates in its binary form here, and enumerations as bytes.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

SCHEMA = 12  # the version of Optuna's tables that storage/ reads and writes itself
PORTION = 2_000  # rows at once: few enough objects for the processor's cache
FEW = 200  # trials that are selected one by one; more are read as a range

_NAME = re.compile(r":([a-z_]+)")


def fetch_rows(connection: Connection, statement: str, **parameters: Any) -> list[tuple[Any, ...]]:
    """Return what ``statement`` selects as plain tuples; its parameters are written ``:name``."""
    with closing(_execute(connection, statement, parameters)) as cursor, _as_sqlalchemy(connection):
        found: list[tuple[Any, ...]] = cursor.fetchall()
    return found


def split_into_portions(
    connection: Connection, statement: str, **parameters: Any
) -> Iterator[list[tuple[Any, ...]]]:
    """Yield what `fetch_rows` returns in lists of `PORTION` rows, so that few objects exist."""
    with closing(_execute(connection, statement, parameters)) as cursor:
        while True:
            with _as_sqlalchemy(connection):
                found = cursor.fetchmany(PORTION)
            if not found:
                return
            yield found


def _execute(connection: Connection, statement: str, parameters: dict[str, Any]) -> Any:
    driver: Any = connection.connection
    if connection.dialect.name == "sqlite":
        cursor = driver.cursor()
    else:
        cursor = driver.cursor(binary=True)
        statement = _NAME.sub(r"%(\1)s", statement)
    with _as_sqlalchemy(connection):
        cursor.execute(statement, parameters)
    return cursor


@contextmanager
def _as_sqlalchemy(connection: Connection) -> Iterator[None]:
    """Raise a driver's error as SQLAlchemy does, so that callers can wait for a database that is
    away."""
    errors: Any = connection.dialect.loaded_dbapi
    try:
        yield
    except errors.Error as error:
        driver: Any = connection.connection
        lost = connection.dialect.is_disconnect(error, driver.driver_connection, None)
        if lost:
            connection.invalidate(error)
        raise DBAPIError.instance(
            None, None, error, errors.Error, hide_parameters=True, connection_invalidated=lost,
            dialect=connection.dialect,
        ) from error  # fmt: skip


def trial_condition(trial_ids: Collection[int]) -> str:
    """Return the SQL condition on ``trial_id`` for these trials; for many it admits others too."""
    if len(trial_ids) <= FEW:
        return f"trial_id IN ({', '.join(str(int(i)) for i in trial_ids) or 'NULL'})"
    return f"trial_id BETWEEN {int(min(trial_ids))} AND {int(max(trial_ids))}"


def known_schema(connection: Connection) -> bool:
    """Return whether we know the version of Optuna's tables; if not, use Optuna's own calls."""
    return bool(connection.scalar(text("SELECT schema_version FROM version_info")) == SCHEMA)
