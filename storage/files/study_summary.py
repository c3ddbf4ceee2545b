"""A study's own conclusion, kept where people look: two files, the dashboard, the database.

    RUNS/exports/STUDY/summary.md, summary.csv     write_files(folder, table)
    the study's note in the dashboard              keep_summary(study, table, ended)
    `make trials`, on any machine                  read_summary("augmentation")

A table is what `models.results.Table.to_plain` gives: name, title, columns, rows, note.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from storage.files.atomic import atomic_file
from storage.files.markdown import format_table
from storage.frames import connected, find_study

if TYPE_CHECKING:
    from optuna import Study

KEY = "genstudy:summary"  # a system attribute of the study, as JSON


def write_files(folder: Path, table: Mapping[str, Any]) -> list[Path]:
    """Write ``summary.md`` and ``summary.csv``, each whole or not at all. Raises `OSError`."""
    document, rows = folder / "summary.md", folder / "summary.csv"
    with atomic_file(document) as beside:
        beside.write_text(_note(table), encoding="utf-8")
    with atomic_file(rows) as beside, beside.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([table["columns"], *table["rows"]])
    return [document, rows]


def keep_summary(study: Study, table: Mapping[str, Any], ended: int) -> None:
    """Store the table with the study in the database, and as its note in the dashboard.

    A note that somebody has written there stays.
    ended: how many trials the table speaks of
    """
    from optuna_dashboard import get_note, save_note  # takes a second, and few studies need it

    storage, study_id = study._storage, study._study_id
    before = storage.get_study_system_attrs(study_id).get(KEY)
    written = "" if before is None else _note(_parse(before)[0])
    record = json.dumps({"table": dict(table), "ended": ended})
    storage.set_study_system_attr(study_id, KEY, record)
    if get_note(study) in ("", written) and _note(table) != get_note(study):
        save_note(study, _note(table))


def _note(table: Mapping[str, Any]) -> str:
    return format_table(table) + "\n"


def stored_summary(study: Study) -> tuple[dict[str, Any], int] | None:
    """Return what `read_summary` returns, of a study that is open."""
    found = study._storage.get_study_system_attrs(study._study_id).get(KEY)
    return None if found is None else _parse(found)


def read_summary(study: str, *, storage: str | None = None) -> tuple[dict[str, Any], int] | None:
    """Return the table and how many trials it speaks of; None where no summary was made.

    storage: a database URL, as for `storage.trials`
    """
    with connected(storage) as connection:
        found = connection.execute(
            text(
                "SELECT value_json FROM study_system_attributes "
                "WHERE study_id = :study_id AND key = :key"
            ),
            {"study_id": find_study(connection, study), "key": KEY},
        ).scalar()
    return None if found is None else _parse(json.loads(found))


def _parse(stored: str) -> tuple[dict[str, Any], int]:
    record = json.loads(stored)
    return record["table"], record["ended"]
