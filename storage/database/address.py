"""Addresses of trial databases: what STORAGE may say, and how an address is shown to people.

parse_url("postgresql://me:secret@host/studies")         # a URL with the driver that we use
redact_url("postgresql://me:secret@host/studies")        # postgresql://me:***@host/studies
absolute_url("sqlite:///runs/studies.db")                # for processes that start elsewhere
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import make_url
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError

from storage.database.schema import is_sqlite
from storage.errors import DatabaseUnreachable, short
from storage.paths import sqlite_url

HINT = "use sqlite:///PATH or postgresql://USER:PASSWORD@HOST/DATABASE"

# Arguments of the driver's own that stand in some URLs. We set the first ourselves, always to what
# a pooler needs; the others would change how our statements run.
IGNORED = ("prepare_threshold",)
REFUSED = ("autocommit", "context", "cursor_factory", "row_factory")
# What people write behind the path of a file; we set all of it ourselves.
FILE_OPTIONS = {"timeout", "check_same_thread", "mode", "cache", "uri", "isolation_level"}


def parse_url(url: str) -> URL:
    """Check ``url`` and return it with the driver that we use. Raises `DatabaseUnreachable`."""
    try:
        place = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise DatabaseUnreachable(f"STORAGE is not a database URL; {HINT}") from error
    backend = place.drivername.partition("+")[0]
    if backend in ("postgresql", "postgres"):
        return _check_postgres(place).set(drivername="postgresql+psycopg")
    if backend == "sqlite":
        if not place.database or place.database == ":memory:":
            raise DatabaseUnreachable(
                "STORAGE=sqlite:// names no file, and workers share one; use sqlite:///PATH"
            )
        _check_options(url, place)
        return place.set(drivername="sqlite", query={})
    raise DatabaseUnreachable(f"STORAGE begins with {backend}://, which is not supported; {HINT}")


def _check_postgres(place: URL) -> URL:
    """Return the address without what we ignore; raise `DatabaseUnreachable` for what is wrong."""
    if "@" in (place.host or ""):
        raise DatabaseUnreachable("STORAGE holds two '@'; the one in the password is %40")
    for name, given in place.query.items():
        if name in REFUSED:
            raise DatabaseUnreachable(
                f"STORAGE sets {name}, which genstudy sets itself; leave it out"
            )
        if not isinstance(given, str) and name not in ("host", "port"):
            raise DatabaseUnreachable(f"STORAGE sets {name} {len(given)} times; set it once")
    return place.difference_update_query(IGNORED)


def _check_options(url: str, place: URL) -> None:
    """Raise `DatabaseUnreachable` for a question mark that seems to belong to the file's name."""
    if "?" in url and (not place.query or set(place.query) - FILE_OPTIONS):
        raise DatabaseUnreachable(
            f"STORAGE={short(url)} holds a '?', which ends the path; in a name write it as %3F"
        )


def absolute_url(url: str) -> str:
    """Check ``url``; make a relative SQLite path absolute, because workers start elsewhere."""
    place = parse_url(url)
    if not is_sqlite(place):
        return url
    return sqlite_url(Path(place.database or "").expanduser().absolute())


def redact_url(url: str) -> str:
    """Return ``url`` without its password, to show it to people."""
    return without_password(parse_url(url))


def without_password(place: URL) -> str:
    """Return the address as people read it."""
    if is_sqlite(place):
        return sqlite_url(place.database or "")
    if "password" in place.query:
        place = place.update_query_dict({"password": "***"})
    return place.render_as_string(hide_password=True).replace("+psycopg", "").replace("%2A", "*")


def full_url(place: URL) -> str:
    """Return the address as a driver reads it."""
    return place.render_as_string(hide_password=False)
