"""The trial database: SQLite on a local disk, or Postgres, tuned and checked.

    storage = open_storage("sqlite:///runs/studies.db")     # for Optuna
    engine = open_engine("postgresql://me@host/studies")    # for SQL, nothing is created

SQLite runs in WAL mode with synchronous=NORMAL and waits a minute for a lock:
measured at twice to three times the trials per second of its defaults, and no
worker dies of "database is locked".

What Optuna's schema has no place for stands in tables of our own beside
Optuna's (`metrics`, `leases`, `extractors`), whose names begin with ``genstudy_``.
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
CREATORS = 5  # how often to try again when others create the same tables
FIRST_TABLES = {"studies", "trials", "version_info"}  # one of them is there before all others
CREATION = 0  # instead of a study's id: held by who looks whether a study exists and makes it

# what databases say to the second of two processes that create the same tables
_SAME_MOMENT = re.compile("already exists|UNIQUE constraint|duplicate key")


def open_storage(url: str) -> TrialStorage:
    """Optuna's storage at ``url``, created when missing, with our own tables beside.

    Raises `DatabaseUnreachable` with the place (never the password) and the fix.
    """
    import storage.database.extractors
    import storage.database.leases
    import storage.database.metrics  # noqa: F401  (they register their tables)

    place = parse_url(url)
    if is_sqlite(place):
        _check_file(place)
    with _explained(place):
        if place.database and is_sqlite(place):
            Path(place.database).parent.mkdir(parents=True, exist_ok=True)
        for attempt in range(CREATORS):
            try:
                return _create(place)
            except DBAPIError as error:
                if attempt == CREATORS - 1 or not _SAME_MOMENT.search(str(error.orig)):
                    raise
            time.sleep(random.random())
        raise AssertionError("the last attempt returns or raises")


def _create(place: URL) -> TrialStorage:
    from storage.database.optuna_storage import TrialStorage

    try:
        opened = TrialStorage(_render(place), _engine_arguments(place))
    except RuntimeError as error:  # Optuna's word for tables of another version
        raise DatabaseUnreachable(f"cannot use {_without_password(place)}: {error}") from error
    _quieten(opened.engine)
    own_tables.create_all(opened.engine)
    return opened


def check_database(url: str) -> None:
    """Raise `DatabaseUnreachable` unless a study can be kept at ``url``; nothing is changed there.

    A file must be a database, and of trials: another program's would get tables of ours.
    """
    place = parse_url(url)
    if is_sqlite(place):
        _check_file(place)
        with _explained(place):
            try_writing(Path(place.database or "").parent)
        return
    with _explained(place):
        engine = create_engine(_render(place), **_engine_arguments(place))
        try:
            engine.connect().close()
        finally:
            engine.dispose()


def _check_file(place: URL) -> None:
    """Look into the file without the settings of `_connect_sqlite`, which write to it."""
    path = Path(place.database or "")
    with _explained(place):
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
    """A connection pool for SQL of our own; raises `DatabaseUnreachable` if nothing is there."""
    place = parse_url(url)
    with _explained(place):
        missing = is_sqlite(place) and not Path(place.database or "").is_file()
    if missing:
        raise DatabaseUnreachable(
            f"no trial database at {short(str(place.database))}; run a study first, "
            "or name the right one with RUNS or STORAGE"
        )
    if is_sqlite(place):
        _check_file(place)
    with _explained(place):
        engine = create_engine(_render(place), **_engine_arguments(place))
        _quieten(engine)
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
    return engine


def parse_url(url: str) -> URL:
    """``url`` checked and with the driver we use; raises `DatabaseUnreachable`."""
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
    """``url`` checked; a relative SQLite path is made absolute: workers start elsewhere."""
    place = parse_url(url)
    if not is_sqlite(place):
        return url
    path = Path(place.database or "").expanduser().absolute()
    return place.set(database=str(path)).render_as_string(hide_password=False)


def redact_url(url: str) -> str:
    """``url`` for people: without the password."""
    return _without_password(parse_url(url))


@contextmanager
def study_lock(engine: Engine, study_id: int) -> Iterator[None]:
    """Held by one process at a time, over all machines: who creates or takes over trials.

    A file lock beside an SQLite database, an advisory lock in Postgres; both are
    released by the system when their holder dies.
    """
    if is_sqlite(engine):
        from filelock import FileLock

        with FileLock(f"{engine.url.database}.study-{study_id}.lock", poll_interval=LOCK_POLL):
            yield
    else:
        key = 0x67656E73 * 2**31 + study_id  # "gens": out of the way of other programs' locks
        with engine.begin() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})
            yield


def _engine_arguments(place: URL) -> dict[str, Any]:
    if is_sqlite(place):
        return {"creator": partial(_connect_sqlite, str(place.database))}
    return {
        "pool_pre_ping": True,
        "connect_args": {
            "connect_timeout": CONNECT_PATIENCE,
            "application_name": "genstudy",
        },
    }


def _connect_sqlite(path: str) -> sqlite3.Connection:
    """A connection in WAL mode. As a creator it covers every connection and can be pickled."""
    connection = sqlite3.connect(path, timeout=LOCK_PATIENCE, check_same_thread=False)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    return connection


def _without_password(place: URL) -> str:
    if "password" in place.query:
        place = place.update_query_dict({"password": "***"})
    return place.render_as_string(hide_password=True).replace("+psycopg", "").replace("%2A", "*")


def _render(place: URL) -> str:
    return place.render_as_string(hide_password=False)


def _quieten(engine: Engine) -> None:
    """Keep the values of a failed statement out of messages: they may be a user's secrets."""
    engine.hide_parameters = True


@contextmanager
def _explained(place: URL) -> Iterator[None]:
    """Turn what a driver raises into one line that names the place and what to check."""
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
