r"""Markdown as the product writes it: words, numbers, pictures and tables.

    escape_markup("weight_decay")                        weight\_decay
    format_count(1, "trial")                             1 trial
    format_rows(["row", "MSE"], [["a", 0.1]], right=[1])
    format_table(table)                                  with title and note
    format_picture("samples.png", "samples")             with its caption

A table is what `models.results.Table.to_plain` gives: name, title, columns, rows, note. A ``|`` in
a cell is never a border.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any


def escape_markup(text: str) -> str:
    """Return ``text`` on one line, so that Markdown shows every character of it as it is."""
    return re.sub(r"([\\`*_\[\]<>#$~&])", r"\\\1", " ".join(text.split()))


def format_cell(value: Any) -> str:
    """Return a cell as text: numbers with the digits that matter, a dash where nothing is."""
    if value is None:
        return "-"
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def format_count(number: int, noun: str) -> str:
    """Return a number of things: ``1 trial``, ``2 epochs``, ``1,000 classes``."""
    plural = noun + ("es" if noun.endswith(("s", "x", "sh", "tch")) else "s")
    return f"{number:,} {noun if number == 1 else plural}"


def format_rows(
    columns: Sequence[str], rows: Sequence[Sequence[Any]], *, right: Collection[int] = ()
) -> str:
    """Return a Markdown table; the columns at the places ``right`` are aligned to the right."""
    border = "|".join("---:" if place in right else "---" for place in range(len(columns)))
    return "\n".join([_line(columns), f"|{border}|", *map(_line, rows)])


def _line(cells: Sequence[Any]) -> str:
    return "| " + " | ".join(format_cell(cell).replace("|", "\\|") for cell in cells) + " |"


def format_table(table: Mapping[str, Any]) -> str:
    """Return a model's or a study's table, under its title and above its note.

    Its names may be those of a user's classes: every character of them is shown.
    """
    columns = [escape_markup(column) for column in table["columns"]]
    rows = [[escape_markup(c) if isinstance(c, str) else c for c in row] for row in table["rows"]]
    parts = [f"### {table['title']}", format_rows(columns, rows)]
    return "\n\n".join([*parts, table["note"]] if table["note"] else parts)


def format_picture(file: str, caption: str) -> str:
    """Return the picture ``file``, which lies beside the document, above its caption."""
    return f"![{Path(file).stem}]({file})\n*{escape_markup(caption)}*"
