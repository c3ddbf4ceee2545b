"""Which stored study is meant by NAME: its own name, or that of its study file.

    find_stored_name(url, "cae")                     # cae-digits, where no other is of that file
    find_stored_name(url, "mine.py", data="digits")
    choose_stored(stored, "cae", data=None)          # None: no study, or several

`make study NAME=cae DATA=digits` stores ``cae-digits``. Whoever began it by the name of its file
may look at it by that name, too. It loads no torch.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from search.trials.study_record import KEY, parse_record
from storage.database.json_texts import parse_json
from storage.database.rows import fetch_rows
from storage.frames import connected

DEFINITION = "definition"  # attribute: what the study was made with
STUDIES = (
    "SELECT study_name, record.value_json, made.value_json FROM studies "
    "LEFT JOIN study_system_attributes AS record "
    "ON record.study_id = studies.study_id AND record.key = :record "
    "LEFT JOIN study_user_attributes AS made "
    "ON made.study_id = studies.study_id AND made.key = :made ORDER BY study_name"
)


@dataclass(frozen=True, kw_only=True)
class StoredName:
    """The name of a stored study.

    begun_as: the name of the file that it was begun with; data: its images, as DATA names them;
        None: genstudy has not begun it
    """

    name: str
    begun_as: str | None
    data: str | None


def find_stored_name(url: str, name: str, data: str | None = None) -> str:
    """Return the name of the stored study that ``name`` means; its stem where there is none.

    data: DATA, where it is given
    """
    with connected(url) as connection:
        return choose_stored(read_stored_names(connection), name, data) or file_stem_of(name)


def read_stored_names(connection: Connection) -> list[StoredName]:
    """Return all studies of the database, by name."""
    return [
        StoredName(name=str(name), begun_as=_begun_as(record), data=_data_of(made))
        for name, record, made in fetch_rows(connection, STUDIES, record=KEY, made=DEFINITION)
    ]


def choose_stored(stored: Collection[StoredName], name: str, data: str | None) -> str | None:
    """Return which study ``name`` means; None: none, or one of several.

    That on the images ``data`` comes first; then the study of that very name; then the only one
    that was begun with a file of that name.
    """
    wanted = file_stem_of(name)
    of_file = [
        each.name
        for each in stored
        if each.begun_as == wanted and (each.name == wanted or each.name.startswith(f"{wanted}-"))
    ]
    on_data = [each.name for each in stored if each.name in of_file and each.data == data]
    if data is not None and len(on_data) == 1:
        return on_data[0]
    if any(each.name == wanted for each in stored):
        return wanted
    return of_file[0] if len(of_file) == 1 else None


def is_path(name: str) -> bool:
    """Whether NAME is the path of a study file."""
    return "/" in name or name.endswith(".py")


def file_stem_of(name: str) -> str:
    """Return a study's name as such, and of a path that of its file."""
    return Path(name).stem if is_path(name) else name


def _begun_as(written: object) -> str | None:
    record = parse_record(_plain(written))
    return None if record is None else file_stem_of(record.command)


def _data_of(written: object) -> str | None:
    made = _plain(_plain(written))
    found = made.get("data") if isinstance(made, dict) else None
    return found if isinstance(found, str) else None


def _plain(written: object) -> Any:
    """Return JSON as plain values; None for another text: anybody may write into a database."""
    if not isinstance(written, str):
        return None
    try:
        return parse_json(written)
    except ValueError:
        return None
