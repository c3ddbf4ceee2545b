"""The trial database under torture, from the side of whoever looks after it.

    database.look()                   # how far the study is: `Look`, or None while it is away
    database.copy(place)              # a copy as it is at one moment, while the study runs
    database.put_back(place)          # the database is as it was then
    database.mend()                   # nothing that a fault has set stays

Both kinds can do this. What only one of them can suffer is a method of its own.
"""

from __future__ import annotations

import sqlite3
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import sqlalchemy

from storage.database.study_lock import study_lock
from storage.paths import sqlite_url

LOOK = (
    "SELECT (SELECT count(*) FROM trials), "
    "(SELECT count(*) FROM trials WHERE state IN ('COMPLETE', 'PRUNED', 'FAIL')), "
    "(SELECT count(*) FROM trials WHERE state = 'FAIL'), "
    "(SELECT count(*) FROM trial_intermediate_values), "
    "(SELECT count(*) FROM trials WHERE state = 'RUNNING')"
)
# A clock that is set changes what is renewed next, and not the last renewal of who is gone.
SET_CLOCK = (
    "UPDATE genstudy_leases SET renewed = renewed + {seconds} WHERE abs(renewed - {now}) < 15"
)


class Look(NamedTuple):
    """How far the study is: any change is progress."""

    trials: int
    ended: int
    failed: int
    epochs: int
    running: int


class Database(ABC):
    """A trial database of one study.

    url: as STORAGE says it
    went_back: when an older state was last put in its place, on the monotonic clock
    """

    url: str
    went_back: float = float("-inf")

    @abstractmethod
    def look(self) -> Look | None:
        """Read how far the study is; None while it cannot be told."""

    @abstractmethod
    def copy(self, place: Path) -> None:
        """Copy the database as it is now to ``place``, while others write to it."""

    @abstractmethod
    def put_back(self, place: Path) -> None:
        """Give the database the content of a copy, while others use it."""

    @abstractmethod
    def set_clock(self, seconds: int) -> None:
        """Let all leases look as if the clock had been set, when they were renewed."""

    @abstractmethod
    def mend(self) -> None:
        """Undo what faults have set."""

    @contextmanager
    def going_back(self) -> Iterator[None]:
        """Note when the database goes back."""
        self.went_back = time.monotonic()
        yield
        self.went_back = time.monotonic()

    @contextmanager
    def study_locked(self) -> Iterator[None]:
        """Hold the lock under which trials are made, as a process that hangs does."""
        engine = sqlalchemy.create_engine(self.engine_url)
        try:
            with study_lock(engine, 1):
                yield
        finally:
            engine.dispose()

    @property
    def engine_url(self) -> str:
        return self.url


class SQLiteFile(Database):
    """A file of SQLite."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.url = sqlite_url(path)

    def _connect(self, seconds: float) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=seconds, isolation_level=None)

    def look(self) -> Look | None:
        if not self.path.exists():
            return None
        with suppress(sqlite3.Error), closing(self._connect(1.0)) as connection:
            return Look(*connection.execute(LOOK).fetchone())
        return None

    def copy(self, place: Path) -> None:
        with closing(self._connect(30.0)) as ours, closing(sqlite3.connect(place)) as theirs:
            ours.backup(theirs)

    def put_back(self, place: Path) -> None:
        ours, theirs = self._connect(60.0), sqlite3.connect(place)
        with closing(ours), closing(theirs), self.going_back():
            theirs.backup(ours)

    def replace_by(self, place: Path) -> None:
        """Put the copy where the file was; nobody has it open."""
        with self.going_back():
            for end in ("-wal", "-shm"):
                self.path.with_name(f"{self.path.name}{end}").unlink(missing_ok=True)
            place.replace(self.path)

    def set_clock(self, seconds: int) -> None:
        with closing(self._connect(30.0)) as connection:
            connection.execute(SET_CLOCK.format(seconds=seconds, now=time.time()))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the one who writes."""
        with closing(self._connect(60.0)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield
            connection.rollback()

    def mend(self) -> None:
        """Nothing stays: locks end with their connections."""
