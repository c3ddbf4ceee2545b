"""A file of SQLite that fails once, at a statement or a commit of our choice.

with failing_at(monkeypatch, 17) as fault:
    ...
fault.count        # statements and commits until the end
fault.said         # what failed; None: nothing did
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import pytest

AWAY = "database is locked"


@dataclass
class Fault:
    """at: the number of the statement that fails, from 1; late: a commit fails once it is done"""

    at: int
    late: bool = False
    count: int = 0
    said: str | None = None

    def meet(self, statement: str) -> None:
        """Count a statement; raise what SQLite raises, where it is the one."""
        self.count += 1
        if self.count == self.at:
            self.said = statement
            raise sqlite3.OperationalError(AWAY)


@contextmanager
def failing_at(monkeypatch: pytest.MonkeyPatch, at: int, *, late: bool = False) -> Iterator[Fault]:
    """Let all connections that are opened meanwhile share one fault."""
    fault = Fault(at, late)

    class FaultyCursor(sqlite3.Cursor):
        def execute(self, statement: str, *values: Any) -> Self:
            fault.meet(statement)
            return super().execute(statement, *values)

        def executemany(self, statement: str, values: Any) -> Self:
            fault.meet(statement)
            return super().executemany(statement, values)

    class FaultyConnection(sqlite3.Connection):
        def cursor(self, factory: Any = FaultyCursor) -> Any:
            return super().cursor(factory)

        def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
            cursor: sqlite3.Cursor = self.cursor().execute(statement, *values)
            return cursor

        def commit(self) -> None:
            if fault.late:
                super().commit()
            fault.meet("COMMIT")
            super().commit()

    connect = sqlite3.connect

    def open_faulty(*args: Any, **named: Any) -> sqlite3.Connection:
        return connect(*args, **{**named, "factory": FaultyConnection})

    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", open_faulty)
        yield fault
