"""Connections to the trial database: SQLite on a local disk, or Postgres, tuned and checked.

    storage = open_storage("sqlite:///runs/studies.db")     # for Optuna; this creates its tables
    storage = open_storage(url, create=False)               # to look at what is there
    engine = open_engine("postgresql://me@host/studies")    # for SQL; this creates nothing

What Optuna's schema has no place for stands in tables of our own (`storage.database.schema`). A
command that only reads creates none of them: the database may belong to Optuna's own scripts.
"""

from __future__ import annotations

import logging
import random
import re
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError

from storage.database import sqlite_file
from storage.database.address import full_url, parse_url, without_password
from storage.database.explanation import explained
from storage.database.schema import create_own_tables, is_sqlite
from storage.errors import DatabaseUnreachable, short
from storage.paths import try_writing

if TYPE_CHECKING:
    from storage.database.optuna_storage import TrialStorage

CREATORS = 5  # attempts at creating tables that other processes create at the same time
FIRST_TABLES = {"studies", "trials", "version_info"}  # Optuna creates one of these first

# What we ask of Postgres, where the address does not say otherwise. A server whose databases are in
# SQL_ASCII would send bytes without an encoding to convert to.
POSTGRES = {
    "connect_timeout": 10, "application_name": "genstudy", "client_encoding": "utf8",
    "keepalives_idle": 15, "keepalives_interval": 5, "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}  # fmt: skip

# A connection that the server has ended cannot be rolled back when it is given back, which a pool
# reports with a traceback. Whoever needs the database next meets the outage, and says it in a line.
POOL = "genstudy"
logging.getLogger(f"sqlalchemy.pool.impl.QueuePool.{POOL}").setLevel(logging.CRITICAL)

# what a database tells the second of two processes that create the same tables
_SAME_MOMENT = re.compile("already exists|UNIQUE constraint|duplicate key")


def open_storage(
    url: str,
    *,
    create: bool = True,
    read_only: bool = False,
    given_up: Callable[[], bool] = lambda: False,
) -> TrialStorage:
    """Open Optuna's storage at ``url``; create it and our own tables if they are missing.

    create: False creates nothing, neither a database nor a table
    read_only: whether the database refuses all writes: it is another person's
    given_up: returns whether the user wants the run to end: then answers are not waited for long
    Raises `DatabaseUnreachable` with the place (never the password) and the fix.
    """
    place = parse_url(url)
    create = create and not read_only
    if not create:
        _check_presence(place)
    if is_sqlite(place):
        _check_file(place)
    with explained(place):
        if place.database and is_sqlite(place) and create:
            Path(place.database).parent.mkdir(parents=True, exist_ok=True)
        for attempt in range(CREATORS):
            try:
                arguments = _engine_arguments(
                    place, create=create, read_only=read_only, given_up=given_up
                )
                return _make_storage(place, arguments, create=create)
            except DBAPIError as error:
                if attempt == CREATORS - 1 or not _SAME_MOMENT.search(str(error.orig)):
                    raise
            time.sleep(random.random())
        raise AssertionError("the last attempt returns or raises")


def _make_storage(place: URL, arguments: dict[str, Any], *, create: bool) -> TrialStorage:
    from optuna.exceptions import StorageInternalError

    from storage.database.optuna_storage import TrialStorage

    try:
        opened = TrialStorage(full_url(place), arguments, create=create)
    except RuntimeError as error:  # Optuna raises it for tables of another version
        raise DatabaseUnreachable(f"cannot use {without_password(place)}: {error}") from error
    except StorageInternalError as error:
        raise (error.__cause__ or error) from None  # what the database said
    if is_sqlite(place):
        watched = arguments["creator"].__self__
        event.listen(opened.engine, "checkout", lambda *_: watched.check())
    if create:
        try:
            create_own_tables(opened.engine)
        except BaseException:
            opened.engine.dispose()
            raise
    return opened


def check_database(url: str) -> None:
    """Raise `DatabaseUnreachable` unless a study can be kept at ``url``; nothing is changed there.

    A file must be a database of trials. In another program's file, our tables would be created.
    """
    place = parse_url(url)
    if is_sqlite(place):
        _check_file(place)
        _check_writable(Path(place.database or ""), place)
        return
    with explained(place):
        engine = create_engine(full_url(place), **_engine_arguments(place))
        try:
            engine.connect().close()
        finally:
            engine.dispose()


def check_encodable(engine: Engine, names: Collection[str]) -> None:
    """Raise `DatabaseUnreachable` for a name that the database's encoding cannot hold.

    Names stand in its tables as they are; all else is written in plain ASCII.
    """
    with explained(engine.url, what="store all names in"), engine.connect() as connection:
        for name in names:
            connection.scalar(text("SELECT CAST(:name AS VARCHAR)"), {"name": name})


def _check_writable(path: Path, place: URL) -> None:
    """Raise `DatabaseUnreachable` for a file that may only be read."""
    with explained(place):
        try_writing(path.parent)
        if path.exists() and not sqlite_file.is_writable(path):
            raise PermissionError("it may only be read")


def _check_presence(place: URL) -> None:
    """Raise `DatabaseUnreachable` if there is no such file."""
    with explained(place):
        missing = is_sqlite(place) and not Path(place.database or "").is_file()
    if missing:
        raise DatabaseUnreachable(
            f"no trial database at {short(str(place.database))}; run a study first, "
            "or name the right one with RUNS or STORAGE"
        )


def _check_file(place: URL) -> None:
    """Raise `DatabaseUnreachable` if the file exists and is no database of trials.

    The connection has none of the settings that write to the file.
    """
    path = Path(place.database or "")
    with explained(place):
        if not path.exists() or (path.is_file() and path.stat().st_size == 0):
            return
        if not path.is_file():
            raise OSError("it is not a file")
        with closing(sqlite_file.connect_as_it_is(path)) as connection:
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
    _check_presence(place)
    if is_sqlite(place):
        _check_file(place)
    with explained(place):
        engine = create_engine(full_url(place), **_engine_arguments(place, create=False))
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
    return engine


def _engine_arguments(
    place: URL,
    *,
    create: bool = True,
    read_only: bool = False,
    given_up: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Return the arguments of `create_engine`.

    create: whether the database may be tuned; read_only: whether it refuses all writes
    The values of a failed statement stay out of messages: they may be a user's secrets.
    """
    if is_sqlite(place):
        connect = sqlite_file.connect if create else sqlite_file.connect_as_it_is
        if read_only:
            connect = sqlite_file.connect_to_read
        watched = sqlite_file.WatchedFile(Path(place.database or ""), connect)
        return {"hide_parameters": True, "pool_logging_name": POOL, "creator": watched.connect}
    given: dict[str, Any] = {
        "hide_parameters": True,
        "pool_pre_ping": True,
        "pool_logging_name": POOL,
    }
    from storage.database import postgres_connection  # its driver, which a file needs not

    return {
        **given,
        "creator": partial(
            postgres_connection.connect,
            make_url(full_url(place)),
            _postgres_arguments(place.query),
            patience=None if create else postgres_connection.READ,
            read_only=read_only,
            given_up=given_up,
        ),
    }


def _postgres_arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the driver's arguments beside those that the address gives.

    No statement is prepared. A pooler gives each transaction another connection, on which a
    prepared statement is missing, or is another client's.
    """
    own = {name: value for name, value in POSTGRES.items() if name not in given}
    return {**own, "prepare_threshold": None}
