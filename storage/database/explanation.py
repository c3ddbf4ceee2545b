"""What a database's error means for the person who named the database: one line with the fix.

with explained(place):
    engine.connect()          # an error becomes `DatabaseUnreachable`
remedy_of(error.orig)         # for an error that comes later
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from storage.database.address import hide_secrets, without_password
from storage.database.schema import is_sqlite
from storage.errors import DatabaseUnreachable, short

FILE = "is the folder there, writable, on a local disk with space?"
SERVER = "is the server running, the database created, the user allowed?"
NO_TRIALS = "it holds no trials of Optuna; name the right database, or run a study first"

DAMAGED = "disk image is malformed|file is not a database"

# What to do about an error of Postgres or its driver, by a pattern of its first line.
REMEDIES = {
    r"permission denied for schema (\S+)": r"let its owner run: GRANT USAGE, CREATE ON SCHEMA \1 "
    "TO {user}; or let the owner run a study there once",
    r"permission denied for (table|sequence)": "let its owner run: GRANT ALL ON ALL TABLES IN "
    "SCHEMA public TO {user}; GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {user}; to read, "
    "SELECT on the tables is enough",
    "no schema has been selected": "create the schema that search_path names, or leave it out",
    r"(relation|column) \S+ does not exist|no such (table|column)": NO_TRIALS,
    DAMAGED: "the file is damaged: put a copy in its place, or save what can be read with: "
    "sqlite3 FILE .recover | sqlite3 NEW",
    "has no equivalent in encoding": "use other letters, or a database with ENCODING 'UTF8'",
    "invalid connection option|bad value for|invalid .* value": "correct the options behind the "
    "'?' of the address",
    "too many (clients|connections)|remaining connection slots": "the server has no connection "
    "left: use fewer WORKERS, or a larger max_connections",
}


@contextmanager
def explained(place: URL, *, what: str = "open") -> Iterator[None]:
    """Turn a driver's error into one line that names the place and what to do.

    what: was tried: to open or to read it
    """
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error, OSError) as error:
        cause = hide_secrets(first_line(error), place)
        remedy = remedy_of(error, user=place.username) or (FILE if is_sqlite(place) else SERVER)
        name = short(without_password(place))
        raise DatabaseUnreachable(f"cannot {what} {name} ({short(cause)}); {remedy}") from error


def first_line(error: BaseException) -> str:
    """Return the first line of what the driver says."""
    return str(getattr(error, "orig", None) or error).strip().splitlines()[0]


def remedy_of(error: BaseException, *, user: str | None = None) -> str | None:
    """Return what to do about an error; None where its own words have to do.

    user: whom the database knows us as
    """
    for pattern, remedy in REMEDIES.items():
        if found := re.search(pattern, first_line(error)):
            return found.expand(remedy).format(user=user or "you")
    return None
