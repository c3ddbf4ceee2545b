"""Studies of Optuna that somebody else keeps: they are read, and nothing of theirs is written.

    address = absolute_address("journal:old.log")
    with opened_to_read(address) as storage:
        optuna.load_study(study_name="old", storage=storage)

An address is that of a database, as STORAGE has it, or ``journal:PATH``: a file of Optuna's
`JournalStorage`. A database refuses whatever Optuna would write, such as the version of its tables.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy import inspect

from storage.database.address import absolute_url, parse_url, redact_url
from storage.database.connection import open_engine, open_storage
from storage.database.schema import is_sqlite
from storage.errors import DatabaseUnreachable, short

JOURNAL = "journal:"


def absolute_address(address: str) -> str:
    """Check ``address``, and return it with an absolute path. Raises `DatabaseUnreachable`."""
    if address.startswith(JOURNAL):
        return f"{JOURNAL}{_journal_path(address)}"
    return absolute_url(address)


def show_address(address: str) -> str:
    """Return ``address`` without its password, to show it to people."""
    return address if address.startswith(JOURNAL) else redact_url(address)


def holds_studies(url: str) -> bool:
    """Whether a database has Optuna's tables. Raises `DatabaseUnreachable`."""
    place = parse_url(url)
    if is_sqlite(place):
        path = Path(place.database or "")
        if not path.exists() or path.stat().st_size == 0:
            return False
    engine = open_engine(url)
    try:
        return "studies" in inspect(engine).get_table_names()
    finally:
        engine.dispose()


@contextmanager
def opened_to_read(address: str) -> Iterator[BaseStorage]:
    """Open the storage at ``address``. Raises `DatabaseUnreachable`."""
    if address.startswith(JOURNAL):
        yield _open_journal(_journal_path(address))
        return
    storage = open_storage(address, read_only=True)
    try:
        yield storage
    finally:
        storage.engine.dispose()


def _journal_path(address: str) -> Path:
    try:
        return Path(address.removeprefix(JOURNAL)).expanduser().absolute()
    except RuntimeError as error:  # ~nobody
        raise DatabaseUnreachable(f"{short(address)}: no such user; write the path out") from error


def _open_journal(path: Path) -> JournalStorage:
    if not path.is_file():  # Optuna would create it
        raise DatabaseUnreachable(
            f"there is no file {short(str(path))}; name one that Optuna wrote"
        )
    try:
        return JournalStorage(JournalFileBackend(str(path)))
    except Exception as error:  # Optuna checks nothing of what it reads
        cause = short(f"{type(error).__name__}: {error}")
        raise DatabaseUnreachable(
            f"cannot read {short(str(path))} as a journal of Optuna ({cause}); name a file that "
            "JournalFileBackend wrote"
        ) from error
