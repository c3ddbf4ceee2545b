"""FILES of a run: whether it can be used, and whether it is where the study keeps its files.

    check_files(variables)                         # before anything starts
    address = keep_files(study, variables, storage)

A place has a word that no other place has, and a study keeps the word of its place. So a folder of
the same name that another machine does not share is found before it costs a trial. So is a run that
forgot FILES. An address in a database is shown to people, but never opened: a person who may write
there must not be able to send a study's files elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping

import optuna
from sqlalchemy import Engine

from search.errors import StudyChanged
from search.variables import Variables
from search.words import show_text
from storage.database.file_records import create_file_tables
from storage.database.optuna_storage import TrialStorage
from storage.errors import short
from storage.files.object_store import IDENTITY, ObjectStore, open_objects
from storage.files.places import Kind, parse_files

PLACE = "genstudy:files"  # attribute of the stored study: address and word of its place


def check_files(variables: Variables) -> None:
    """Raise `FilesUnusable` unless files can be written to FILES, read and removed."""
    if variables.files_address is None:
        return
    place = parse_files(variables.files_address)
    if place.kind is not Kind.DATABASE:  # that is checked by itself
        open_objects(place, None).check()


def keep_files(study: optuna.Study, variables: Variables, storage: TrialStorage) -> str | None:
    """Return where the shared files of a stored study are, and keep that; None: it has none.

    Raises `StudyChanged` if the study keeps them elsewhere.
    """
    address = variables.files_address
    stored = storage.get_study_system_attrs(study._study_id).get(PLACE)
    known = stored if isinstance(stored, Mapping) else {}
    if address is None:
        if known:
            raise StudyChanged(
                f"study {study.study_name!r} keeps its files in FILES={show_place(known)}: give "
                "FILES, too, as this machine names that place"
            )
        return None
    create_file_tables(storage.engine)
    word = open_objects(parse_files(address), storage.engine).identify()
    if not known:
        about = {"address": address, "word": word}
        storage.set_study_system_attr(study._study_id, PLACE, about)
    elif known.get("word") != word:
        raise StudyChanged(
            f"FILES={short(address)} is not where study {study.study_name!r} keeps its files: that "
            f"is {show_place(known)}. Give that place, as this machine names it, or a copy of it, "
            f"with the file {IDENTITY} in it"
        )
    return address


def open_for_reading(address: str | None, engine: Engine) -> ObjectStore | None:
    """Open FILES for who only reads; None: there is none. Raises `FilesUnusable`."""
    if address is None:
        return None
    found = open_objects(parse_files(address), engine)
    found.check_presence()
    return found


def places_left_out(variables: Variables, storage: TrialStorage) -> list[str]:
    """Return a line for each place of a study's files that FILES does not name."""
    lines = []
    for study in storage.get_all_studies():
        known = study.system_attrs.get(PLACE)
        shown = show_place(known) if isinstance(known, Mapping) else None
        if shown is not None and variables.files_address is None:
            lines.append(
                f"study {show_text(study.study_name)} keeps its pictures in FILES="
                f"{shown}: without FILES only those of this machine are shown"
            )
    return lines


def show_place(known: Mapping[str, object]) -> str:
    """Return the address of a study's place, as the study keeps it, for people."""
    return show_text(short(str(known.get("address"))))
