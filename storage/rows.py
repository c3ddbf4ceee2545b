"""Rows as the driver gives them: for reads so large that an object a row would be the cost.

    rows(connection, "SELECT trial_id, number FROM trials WHERE study_id = :study_id", study_id=1)

What stands in a column of an enumeration is selected as ``CAST(state AS VARCHAR)``:
Postgres sends numbers and dates in its binary form here, and enumerations as bytes.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from sqlalchemy import Connection, text

SCHEMA = 12  # of Optuna's tables, as they are read and written in this room
FEW = 200  # trials that are looked for one by one; more are found by reading through a table

_NAME = re.compile(r":([a-z_]+)")


def rows(connection: Connection, statement: str, **parameters: Any) -> list[tuple[Any, ...]]:
    """What ``statement`` selects, as plain tuples; its parameters are written ``:name``."""
    driver: Any = connection.connection
    if connection.dialect.name == "sqlite":
        cursor = driver.cursor()
    else:
        cursor = driver.cursor(binary=True)
        statement = _NAME.sub(r"%(\1)s", statement)
    try:
        cursor.execute(statement, parameters)
        found: list[tuple[Any, ...]] = cursor.fetchall()
        return found
    finally:
        cursor.close()


def among(trial_ids: Collection[int]) -> str:
    """The condition, in SQL, on ``trial_id`` for these trials; for many it lets in a few others.

    The plus sign keeps SQLite from looking up each row by the index: slower for many.
    """
    if len(trial_ids) <= FEW:
        return f"trial_id IN ({', '.join(str(int(i)) for i in trial_ids) or 'NULL'})"
    return f"+trial_id BETWEEN {int(min(trial_ids))} AND {int(max(trial_ids))}"


def known_schema(connection: Connection) -> bool:
    """Whether Optuna's tables are as we know them; else its own calls are to be used."""
    return bool(connection.scalar(text("SELECT schema_version FROM version_info")) == SCHEMA)
