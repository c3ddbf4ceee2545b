"""A study's own conclusion, kept where people look: two files and the database.

    RUNS/exports/STUDY/summary.md, summary.csv     write_files(folder, table)
    `make trials`, on any machine                  keep_summary(study, table, ended)
                                                   read_summary("augmentation")

The study's note in the dashboard shows it, too (`search.supervisor.study_note`).

A table is what `models.results.Table.to_plain` gives: name, title, columns, rows, note, and how
many seeds and images stand behind each value, which older versions did not keep.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from storage.database.json_texts import parse_json
from storage.files.atomic import atomic_file
from storage.files.markdown import format_table
from storage.files.spreadsheets import plain_cell
from storage.frames import connected, find_study

if TYPE_CHECKING:
    from optuna import Study

KEY = "genstudy:summary"  # a system attribute of the study, as JSON


def write_files(folder: Path, table: Mapping[str, Any]) -> list[Path]:
    """Write ``summary.md`` and ``summary.csv``, each whole or not at all. Raises `OSError`."""
    document, sheet = folder / "summary.md", folder / "summary.csv"
    with atomic_file(document) as beside:
        beside.write_text(format_table(table) + "\n", encoding="utf-8")
    with atomic_file(sheet) as beside, beside.open("w", encoding="utf-8", newline="") as file:
        rows = [table["columns"], *table["rows"]]
        csv.writer(file).writerows([plain_cell(cell) for cell in row] for row in rows)
    return [document, sheet]


def keep_summary(study: Study, table: Mapping[str, Any], ended: int) -> None:
    """Store the table with the study in the database.

    ended: how many trials the table speaks of
    """
    record = json.dumps({"table": dict(table), "ended": ended})
    study._storage.set_study_system_attr(study._study_id, KEY, record)


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
    return None if found is None else _parse(parse_json(found))


def _parse(stored: Any) -> tuple[dict[str, Any], int] | None:
    """Return the table and its number of trials; None for what no version of ours has written."""
    try:
        record = parse_json(stored)
        table, ended = record["table"], int(record["ended"])
        texts = (table["title"], table["note"], table.get("measured_on", ""), *table["columns"])
        seeds = table.get("seeds")
        fits = all(len(row) == len(table["columns"]) for row in table["rows"])
        cells = [cell for row in table["rows"] for cell in row]
    except (ValueError, TypeError, KeyError):
        return None
    is_plain = all(cell is None or isinstance(cell, str | int | float) for cell in cells)
    is_plain &= seeds is None or isinstance(seeds, str | int)
    return (table, ended) if fits and is_plain and all(isinstance(t, str) for t in texts) else None
