"""Connections to a database file: tuned for many writers, or without writing anything at all.

    connection = connect(Path("runs/studies.db"))

WAL mode with synchronous=NORMAL was measured at two to three times the trials per second of
SQLite's defaults. With a minute of patience no worker dies of "database is locked".

    watched = WatchedFile(path, connect)       # a file that has to stay the same one
    create_engine(url, creator=watched.connect)

If a file is deleted, moved or replaced while it is open, its processes go on writing to the old
content, which is gone when they end. So each use of a connection first checks that the file is
still the same one.

Another person's file, or a file on a disk that is mounted read-only, can only be read. A log that a
writer has left beside it (`-wal`, `-journal`) belongs to its content.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote

from storage.database.retry import DatabaseLost
from storage.errors import short

PATIENCE = 60.0  # seconds that SQLite waits for another writer
LOGS = ("-wal", "-journal")  # what SQLite keeps beside a file that is being written


class DatabaseReplaced(DatabaseLost):
    """The file was deleted, moved or replaced while it was in use."""


class WatchedFile:
    """A file to which all connections of a process lead, and which has to stay the same one.

    connect: opens it; the first call may create it
    """

    def __init__(self, path: Path, connect: Callable[[Path], sqlite3.Connection]) -> None:
        self.path = path
        self._connect = connect
        self._known: tuple[int, int] | None = None  # device and number of the file

    def connect(self) -> sqlite3.Connection:
        """Open a connection. Raises `DatabaseReplaced`, and creates no second file."""
        self.check()
        connection = self._connect(self.path)
        self._known = self._known or self._identity()
        return connection

    def check(self) -> None:
        """Raise `DatabaseReplaced` unless the file is still the one that was opened first."""
        found = self._identity()
        if self._known is None or found == self._known:
            return
        name = short(str(self.path))
        if found is None:
            raise DatabaseReplaced(
                f"the trial database {name} is not there any more: it was deleted or moved while "
                "the study ran; put it back, then the same command goes on; without it, it begins "
                "anew"
            )
        raise DatabaseReplaced(
            f"another file has taken the place of the trial database {name} while the study ran: "
            "what was written since is not in it; the same command goes on from what is there"
        )

    def _identity(self) -> tuple[int, int] | None:
        """Return what tells the file from others; None where there is none."""
        with suppress(FileNotFoundError):
            found = self.path.stat()
            return found.st_dev, found.st_ino
        return None


def connect(path: Path) -> sqlite3.Connection:
    """Open a connection: to write, where that is allowed, else to read."""
    return connect_to_write(path) if is_writable(path) else connect_to_read(path)


def is_writable(path: Path) -> bool:
    """Return whether this process may write a file: SQLite also writes beside it."""
    place = path if path.exists() else path.parent
    return os.access(place, os.W_OK) and os.access(path.parent, os.W_OK)


def connect_as_it_is(path: Path) -> sqlite3.Connection:
    """Open a connection that leaves the file in its mode, which another program may have chosen."""
    if is_writable(path):
        return sqlite3.connect(path, timeout=PATIENCE, check_same_thread=False)
    return connect_to_read(path)


def connect_to_write(path: Path) -> sqlite3.Connection:
    """Open a connection in WAL mode."""
    connection = sqlite3.connect(path, timeout=PATIENCE, check_same_thread=False)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    return connection


def connect_to_read(path: Path) -> sqlite3.Connection:
    """Open a connection that writes nothing, neither to the file nor beside it.

    A file without a log cannot change meanwhile, so SQLite reads it without locks. With a log,
    SQLite also needs the shared memory that the writer has left. If that is gone, a copy is
    read.
    """
    if not any(_has_content(path, log) for log in LOGS):
        return _open(path, "immutable=1")
    connection = _open(path, "mode=ro")
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:
        connection.close()
        return _read_copy(path)
    return connection


def _open(path: Path, how: str) -> sqlite3.Connection:
    url = f"file:{quote(os.fsencode(path))}?{how}"
    return sqlite3.connect(url, uri=True, timeout=PATIENCE, check_same_thread=False)


def _has_content(path: Path, log: str) -> bool:
    with suppress(FileNotFoundError):
        return Path(f"{path}{log}").stat().st_size > 0
    return False


def _read_copy(path: Path) -> sqlite3.Connection:
    """Copy the file with its logs, let SQLite finish what they hold, and return it in memory."""
    memory = sqlite3.connect(":memory:", check_same_thread=False)
    with TemporaryDirectory() as folder:
        copy = Path(folder) / "copy.db"
        for end in ("", *LOGS):
            if end == "" or _has_content(path, end):
                shutil.copyfile(f"{path}{end}", f"{copy}{end}")
        with closing(sqlite3.connect(copy)) as connection:
            connection.backup(memory)
    return memory
