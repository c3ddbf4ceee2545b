"""Connections to the trial database: SQLite on a local disk, or Postgres, tuned and checked.

    storage = open_storage("sqlite:///runs/studies.db")     # for Optuna
    engine = open_engine("postgresql://me@host/studies")    # for SQL; this creates nothing
    with study_lock(engine, study_id):                      # one process at a time
        ...

SQLite runs in WAL mode with synchronous=NORMAL and waits a minute for a lock. This was measured at
two to three times the trials per second of SQLite's defaults, and no worker dies of "database is
locked".

What Optuna's schema has no place for stands in tables of our own (`storage.database.schema`).
"""

from __future__ import annotations

import random
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, create_engine, make_url, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from storage.database.schema import is_sqlite, own_tables
from storage.errors import DatabaseUnreachable, short
from storage.paths import try_writing

if TYPE_CHECKING:
    from storage.database.optuna_storage import TrialStorage

LOCK_PATIENCE = 60.0  # seconds that SQLite waits for another writer
LOCK_POLL = 0.01  # seconds between two attempts at the study's lock file
CONNECT_PATIENCE = 10  # seconds that Postgres has to answer
CREATORS = 5  # attempts at creating tables that other processes create at the same time
FIRST_TABLES = {"studies", "trials", "version_info"}  # Optuna creates one of these first
CREATION = 0  # in place of a study's id: the lock to look for a study and to create it

# what a database tells the second of two processes that create the same tables
_SAME_MOMENT = re.compile("already exists|UNIQUE constraint|duplicate key")


def open_storage(url: str) -> TrialStorage:
    """Open Optuna's storage at ``url``; create it when it is missing, and our own tables.

    Raises `DatabaseUnreachable` with the place (never the password) and the fix.
    """
    place = parse_url(url)
    if is_sqlite(place):
        _check_file(place)
    with _explain_errors(place):
        if place.database and is_sqlite(place):
            Path(place.database).parent.mkdir(parents=True, exist_ok=True)
        for attempt in range(CREATORS):
            try:
                return _create_storage(place)
            except DBAPIError as error:
                if attempt == CREATORS - 1 or not _SAME_MOMENT.search(str(error.orig)):
                    raise
            time.sleep(random.random())
        raise AssertionError("the last attempt returns or raises")


def _create_storage(place: URL) -> TrialStorage:
    from storage.database.optuna_storage import TrialStorage

    try:
        opened = TrialStorage(_full_url(place), _engine_arguments(place))
    except RuntimeError as error:  # Optuna raises it for tables of another version
        raise DatabaseUnreachable(f"cannot use {_without_password(place)}: {error}") from error
    own_tables.create_all(opened.engine)
    return opened


def check_database(url: str) -> None:
    """Raise `DatabaseUnreachable` unless a study can be kept at ``url``; nothing is changed there.

    A file must be a database of trials: in another program's, we would create our tables.
    """
    place = parse_url(url)
    if is_sqlite(place):
        _check_file(place)
        with _explain_errors(place):
            try_writing(Path(place.database or "").parent)
        return
    with _explain_errors(place):
        engine = create_engine(_full_url(place), **_engine_arguments(place))
        try:
            engine.connect().close()
        finally:
            engine.dispose()


def _check_file(place: URL) -> None:
    """Raise `DatabaseUnreachable` if the file exists and is no database of trials.

    The connection has none of the settings of `_connect_sqlite`, which write to the file.
    """
    path = Path(place.database or "")
    with _explain_errors(place):
        if not path.exists() or (path.is_file() and path.stat().st_size == 0):
            return
        if not path.is_file():
            raise OSError("it is not a file")
        with closing(sqlite3.connect(path, timeout=LOCK_PATIENCE)) as connection:
            found = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            tables = [str(name) for (name,) in found]
    if tables and FIRST_TABLES.isdisjoint(tables):
        raise DatabaseUnreachable(
            f"{short(str(path))} is another program's database (it has the table "
            f"{tables[0]!r} and none of trials); name a new file"
        )


def open_engine(url: str) -> Engine:
    """Open a connection pool for our own SQL. Raises `DatabaseUnreachable` if nothing is there."""
    place = parse_url(url)
    with _explain_errors(place):
        missing = is_sqlite(place) and not Path(place.database or "").is_file()
    if missing:
        raise DatabaseUnreachable(
            f"no trial database at {short(str(place.database))}; run a study first, "
            "or name the right one with RUNS or STORAGE (in Python with storage=)"
        )
    if is_sqlite(place):
        _check_file(place)
    with _explain_errors(place):
        engine = create_engine(_full_url(place), **_engine_arguments(place))
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
    return engine


def parse_url(url: str) -> URL:
    """Check ``url`` and return it with the driver that we use. Raises `DatabaseUnreachable`."""
    hint = "use sqlite:///PATH or postgresql://USER:PASSWORD@HOST/DATABASE"
    try:
        place = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise DatabaseUnreachable(f"STORAGE is not a database URL; {hint}") from error
    backend = place.drivername.partition("+")[0]
    if backend in ("postgresql", "postgres"):
        if "@" in (place.host or ""):
            raise DatabaseUnreachable("STORAGE holds two '@'; the one in the password is %40")
        return place.set(drivername="postgresql+psycopg")
    if backend == "sqlite":
        if not place.database or place.database == ":memory:":
            raise DatabaseUnreachable(
                "STORAGE=sqlite:// names no file, and workers share one; use sqlite:///PATH"
            )
        return place.set(drivername="sqlite")
    raise DatabaseUnreachable(f"STORAGE begins with {backend}://, which is not supported; {hint}")


def absolute_url(url: str) -> str:
    """Check ``url``; make a relative SQLite path absolute, because workers start elsewhere."""
    place = parse_url(url)
    if not is_sqlite(place):
        return url
    path = Path(place.database or "").expanduser().absolute()
    return place.set(database=str(path)).render_as_string(hide_password=False)


def redact_url(url: str) -> str:
    """Return ``url`` without its password, to show it to people."""
    return _without_password(parse_url(url))


@contextmanager
def study_lock(engine: Engine, study_id: int) -> Iterator[None]:
    """Hold the lock of a study, which one process on one machine holds at a time.

    Whoever creates trials or takes them over holds it. It is a file lock beside an SQLite database,
    and an advisory lock in Postgres; the system releases both when their holder dies.
    """
    if is_sqlite(engine):
        from filelock import FileLock

        with FileLock(f"{engine.url.database}.study-{study_id}.lock", poll_interval=LOCK_POLL):
            yield
    else:
        key = 0x67656E73 * 2**31 + study_id  # "gens": unlike other programs' locks
        with engine.begin() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})
            yield


def _engine_arguments(place: URL) -> dict[str, Any]:
    """Return the arguments of `create_engine`.

    The values of a failed statement stay out of messages: they may be a user's secrets.
    """
    if is_sqlite(place):
        connect = partial(_connect_sqlite, str(place.database))
        return {"hide_parameters": True, "creator": connect}
    return {
        "hide_parameters": True,
        "pool_pre_ping": True,
        "connect_args": {
            "connect_timeout": CONNECT_PATIENCE,
            "application_name": "genstudy",
        },
    }


def _connect_sqlite(path: str) -> sqlite3.Connection:
    """Open a connection in WAL mode. An engine creates all its connections with this function."""
    connection = sqlite3.connect(path, timeout=LOCK_PATIENCE, check_same_thread=False)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    return connection


def _without_password(place: URL) -> str:
    if "password" in place.query:
        place = place.update_query_dict({"password": "***"})
    return place.render_as_string(hide_password=True).replace("+psycopg", "").replace("%2A", "*")


def _full_url(place: URL) -> str:
    return place.render_as_string(hide_password=False)


@contextmanager
def _explain_errors(place: URL) -> Iterator[None]:
    """Turn a driver's error into one line that names the place and what to check."""
    name = short(_without_password(place))
    if is_sqlite(place):
        check = "is the folder there, writable, on a local disk with space?"
    else:
        check = "is the server running, the database created, the user allowed?"
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error, OSError) as error:
        cause = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        if len(str(place.password or "")) > 3:
            cause = cause.replace(str(place.password), "***")
        raise DatabaseUnreachable(f"cannot open {name} ({short(cause)}); {check}") from error
