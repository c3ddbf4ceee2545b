"""Connections to a database file: tuned for many writers, or without writing anything at all.

    connection = connect(Path("runs/studies.db"))

WAL mode with synchronous=NORMAL was measured at two to three times the trials per second of
SQLite's defaults. With a minute of patience no worker dies of "database is locked".

Somebody else's file, or one on a disk that is mounted read-only, can only be read. What a writer
has left beside it, a log (`-wal`, `-journal`), belongs to its content.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote

PATIENCE = 60.0  # seconds that SQLite waits for another writer
LOGS = ("-wal", "-journal")  # what SQLite keeps beside a file that is being written


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

    A file without a log cannot change under us: SQLite reads it without locks. With a log, SQLite
    needs the shared memory that the writer has left as well. Where that is gone, a copy is read.
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
