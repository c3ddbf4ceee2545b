"""An export that another machine has made, brought from FILES into this RUNS before it is read.

    fetch_export(variables, "cae", 1, say)      # checks its hash, and says if it was brought
    export_place(variables, "cae")              # where the study keeps its exports, for messages

FILES has what all machines agree on; each RUNS is the copy of one machine. So FILES is asked even
if an export is here, because another machine may have made a later one. If FILES or the trial
database is away, the export that is here is used, and a line says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from search.console import shorten_path
from search.setup.shared_place import PLACE, open_for_reading, show_place
from search.setup.stored_study import token_of
from search.trials.shared_exports import Brought, bring_export
from search.variables import Variables
from search.words import show_text
from storage.database.connection import open_storage
from storage.database.optuna_storage import TrialStorage
from storage.database.retry import is_away
from storage.errors import DatabaseUnreachable, RunsUnwritable, StorageError, short
from storage.files.shared_files import SharedFiles


def fetch_export(variables: Variables, name: str, rank: int, say: Callable[[str], None]) -> None:
    """Bring the export of a rank of the stored study ``name`` here, if FILES has one.

    Raises `StorageError` if there is none here, and FILES or the database is away or refused.
    """
    if variables.files_address is None:
        return
    folder, where = variables.paths.export(name, rank), f"FILES={short(variables.files_address)}"
    title = f"rank {rank} of {show_text(name)}"
    try:
        variables.paths.check_writable()
        with _files_of(variables, name) as files:
            found = Brought.NOT_THERE if files is None else bring_export(files, folder, rank)
    except StorageError as error:
        if not folder.is_dir():
            raise
        if not isinstance(error, RunsUnwritable):
            say(f"{error}: the export in {shorten_path(folder)} is used, as it stands here")
        return
    if found is Brought.FETCHED:
        say(f"{title} is brought from {where} to {shorten_path(folder)}")
    elif found is Brought.DAMAGED:
        say(f"{title}: the export in {where} is damaged")


def export_place(variables: Variables, name: str) -> str | None:
    """Return where the stored study ``name`` keeps its exports, for a run without FILES.

    None: FILES is given, the study has none, or the database does not answer.
    """
    if variables.files_address is not None:
        return None
    try:
        storage = open_storage(variables.storage_url, create=False)
    except StorageError:
        return None
    try:
        known = _attributes_of(storage, name)[1].get(PLACE)
    finally:
        storage.engine.dispose()
    return show_place(known) if isinstance(known, Mapping) else None


@contextmanager
def _files_of(variables: Variables, name: str) -> Iterator[SharedFiles | None]:
    """Open the shared files of the stored study ``name``; None: it keeps none in FILES."""
    try:
        storage = open_storage(variables.storage_url, create=False)
    except DatabaseUnreachable as error:
        if is_away(error):
            raise
        yield None  # there is no database yet
        return
    try:
        own, system = _attributes_of(storage, name)
        token, known = token_of(own), system.get(PLACE)
        if token is None or not isinstance(known, Mapping):
            yield None
            return
        store = open_for_reading(variables.files_address, storage.engine)
        if store is None or store.identify() != known.get("word"):
            yield None
            return
        yield SharedFiles(engine=storage.engine, token=token, store=store)
    finally:
        storage.engine.dispose()


def _attributes_of(
    storage: TrialStorage, name: str
) -> tuple[Mapping[str, object], Mapping[str, object]]:
    """Return the user and the system attributes of a stored study; empty if it is not there."""
    for study in storage.get_all_studies():
        if study.study_name == name:
            return study.user_attrs, study.system_attrs
    return {}, {}
