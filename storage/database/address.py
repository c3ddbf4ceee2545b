"""Addresses of trial databases: what STORAGE may say, and how an address is shown to people.

parse_url("postgresql://me:secret@host/studies")         # a URL with the driver that we use
parse_url("file:~/.genstudy")                            # the one that a file of one's own holds
redact_url("postgresql://me:secret@host/studies")        # postgresql://me:***@host/studies
absolute_url("sqlite:///runs/studies.db")                # for processes that start elsewhere
hide_secrets("user me:secret is wrong", parse_url(...))  # user me:*** is wrong
"""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import make_url
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError

from storage.database.schema import is_sqlite
from storage.errors import DatabaseUnreachable, short
from storage.paths import sqlite_url

EITHER = "sqlite:///PATH or postgresql://USER:PASSWORD@HOST/DATABASE"
HINT = f"use {EITHER}"
FILE = "file:"
OTHERS = stat.S_IRWXG | stat.S_IRWXO  # what others than its owner may do with a file

# Arguments of the driver's own that stand in some URLs. We set the first ourselves, always to what
# a pooler needs; the others would change how our statements run.
IGNORED = ("prepare_threshold",)
REFUSED = ("autocommit", "context", "cursor_factory", "row_factory")
SHOWN = {
    "application_name", "channel_binding", "client_encoding", "connect_timeout", "dbname",
    "gssencmode", "host", "hostaddr", "keepalives", "keepalives_count", "keepalives_idle",
    "keepalives_interval", "load_balance_hosts", "options", "passfile", "port", "sslcert", "sslkey",
    "sslmode", "sslrootcert", "target_session_attrs", "tcp_user_timeout", "user",
}  # fmt: skip
# What people write behind the path of a file; we set all of it ourselves.
FILE_OPTIONS = {"timeout", "check_same_thread", "mode", "cache", "uri", "isolation_level"}


def names_file(url: str) -> bool:
    """Whether STORAGE says which file holds the address."""
    return url.startswith(FILE)


def read_address(url: str) -> str:
    """Return ``url``, or what the file that it names holds. Raises `DatabaseUnreachable`."""
    if not names_file(url):
        return url
    try:
        path = Path(url.removeprefix(FILE)).expanduser()
        mode = path.stat().st_mode
        held = path.read_text(encoding="utf-8").strip() if stat.S_ISREG(mode) else ""
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no text of UTF-8"
        raise DatabaseUnreachable(
            f"cannot read STORAGE={short(url)} ({reason}); name a file that holds {EITHER}"
        ) from error
    if mode & OTHERS and "@" in held:  # an address without a user holds no password
        raise DatabaseUnreachable(
            f"STORAGE={short(url)} may be read by others; keep it to yourself: "
            f"chmod 600 {short(str(path))}"
        )
    if not held or len(held.split()) > 1 or names_file(held):
        raise DatabaseUnreachable(
            f"STORAGE={short(url)} is no file of one line, the address; write {EITHER} into it"
        )
    return held


def parse_url(url: str) -> URL:
    """Check ``url`` and return it with the driver that we use. Raises `DatabaseUnreachable`."""
    url = read_address(url)
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
        if place.host or place.username:  # else a file of the current folder would be made
            raise DatabaseUnreachable(
                "STORAGE=sqlite:// names a host, which a file has not; use sqlite:///PATH with "
                "three slashes, and a fourth where the path begins with one"
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
    url = read_address(url)
    place = parse_url(url)
    if not is_sqlite(place):
        return url
    return sqlite_url(Path(place.database or "").expanduser().absolute())


def address_digest(url: str) -> str:
    """Return a word for the place that ``url`` names, in which no secret goes."""
    place = parse_url(url)
    query = {name: place.query[name] for name in {*SHOWN, "service"} & place.query.keys()}
    plain = str(place.set(password=None, query=dict(sorted(query.items()))))
    return hashlib.sha256(plain.encode()).hexdigest()[:16]


def redact_url(url: str) -> str:
    """Return ``url`` without its password, to show it to people."""
    return without_password(parse_url(url))


def without_password(place: URL) -> str:
    """Return the address as people read it.

    Of its options, those that can hold no secret are shown: names of secret ones are many, and
    people misspell them.
    """
    if is_sqlite(place):
        return sqlite_url(place.database or "")
    user, colon, _ = (place.username or "").partition(":")
    if colon:  # written as %3A
        place = place.set(username=user, password="***")
    if hidden := {name: "***" for name in place.query if name not in SHOWN}:
        place = place.update_query_dict(hidden)
    return place.render_as_string(hide_password=True).replace("+psycopg", "").replace("%2A", "*")


def hide_secrets(words: str, place: URL) -> str:
    """Return what a driver says without what is secret in the address."""
    secrets = [place.password, (place.username or "").partition(":")[2]]
    secrets += [str(text) for name, text in place.query.items() if name not in SHOWN]
    for secret in filter(None, map(str, filter(None, secrets))):
        for written in (secret, quote(secret, safe="")):
            if len(written) > 3:  # shorter ones stand in other words, too
                words = words.replace(written, "***")
    return words


def full_url(place: URL) -> str:
    """Return the address as a driver reads it."""
    return place.render_as_string(hide_password=False)
