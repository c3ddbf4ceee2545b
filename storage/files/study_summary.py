"""A study's own conclusion, kept where people look: two files, the dashboard, the database.

    RUNS/exports/STUDY/summary.md, summary.csv     write_files(folder, table)
    the study's note in the dashboard              keep(study, table, ended)
    `make trials`, on any machine                  kept("augmentation")

A table is what `models.results.Table.plain` gives: name, title, columns, rows, note.
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
    """``summary.md`` and ``summary.csv``, each whole or as it was. Raises `OSError`."""
    document, rows = folder / "summary.md", folder / "summary.csv"
    with atomic_file(document) as beside:
        beside.write_text(format_table(table) + "\n", encoding="utf-8")
    with atomic_file(rows) as beside, beside.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([table["columns"], *table["rows"]])
    return [document, rows]


def keep_summary(study: Study, table: Mapping[str, Any], ended: int) -> None:
    """With the study in the database, and as its note in the dashboard. A note that somebody has
    written there stays.

    ended: trials that it speaks of
    """
    from optuna_dashboard import get_note, save_note  # a second that only few studies need

    storage, study_id = study._storage, study._study_id
    before = storage.get_study_system_attrs(study_id).get(KEY)
    written = "" if before is None else format_table(json.loads(before)["table"]) + "\n"
    record = json.dumps({"table": dict(table), "ended": ended})
    storage.set_study_system_attr(study_id, KEY, record)
    now = format_table(table) + "\n"
    if get_note(study) in ("", written) and now != get_note(study):
        save_note(study, now)


def kept_with(study: Study) -> tuple[dict[str, Any], int] | None:
    """As `read_summary`, of a study that is open."""
    found = study._storage.get_study_system_attrs(study._study_id).get(KEY)
    return None if found is None else _read(found)


def read_summary(study: str, *, storage: str | None = None) -> tuple[dict[str, Any], int] | None:
    """The table and how many trials it speaks of; None where no summary was made.

    storage: as of `storage.trials`
    """
    with connected(storage) as connection:
        found = connection.execute(
            text(
                "SELECT value_json FROM study_system_attributes "
                "WHERE study_id = :study_id AND key = :key"
            ),
            {"study_id": find_study(connection, study), "key": KEY},
        ).scalar()
    return None if found is None else _read(json.loads(found))


def _read(stored: str) -> tuple[dict[str, Any], int]:
    record = json.loads(stored)
    return record["table"], record["ended"]
