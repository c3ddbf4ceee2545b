r"""Markdown as the product writes it: words, numbers, pictures and tables.

    escape_markup("weight_decay")                        weight\_decay
    escape_markup("see https://e.f")                     see `https://e.f`, which is no link
    escape_paragraph("1. is no list")                    1\. is no list
    format_code("print(1)", "python")                    between fences
    format_count(1, "trial")                             1 trial
    format_rows(["row", "MSE"], [["a", 0.1]], right=[1])
    format_table(table)                                  with title, seeds and note
    format_picture("samples.png", "samples")             with its caption

Names and notes may be a stranger's: of a folder's classes, of a study in a shared database. So no
text becomes HTML, a link, or a picture; pages that make links of bare addresses show them as code.

A table is what `models.results.Table.to_plain` gives: name, title, columns, rows, note, and how
many seeds and images stand behind each value. A ``|`` in a cell is never a border.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

# What GitHub and the dashboard make a link of, without any brackets; two of them side by side are
# one, since the ends of two pieces of code would read as one sign. What stands before "://" or "@"
# is looked for in so many signs: without an end, a text of a million letters would take hours.
ADDRESS = re.compile(
    r"((?:(?:[a-z][a-z0-9+.-]{0,30}://|www\.|mailto:|xmpp:)[^\s\[\]<>()`]*"
    r"|[\w.+-]{1,64}@[\w-]+\.[\w.-]*)+)",
    re.IGNORECASE,
)


def escape_markup(text: str) -> str:
    """Return ``text`` on one line, so that Markdown shows every character of it as it is."""
    parts = ADDRESS.split(" ".join(text.split()))  # other words, address, other words, ...
    return "".join(
        format_code_span(part) if place % 2 else re.sub(r"([\\`*_\[\]<>#$~&])", r"\\\1", part)
        for place, part in enumerate(parts)
    )


def format_code_span(text: str) -> str:
    """Return ``text`` as code between words."""
    ticks = "`" * (1 + _longest_run(text))
    gap = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{ticks}{gap}{text}{gap}{ticks}"


def _longest_run(text: str) -> int:
    """Return how many backticks follow one another at most."""
    return max(map(len, re.findall("`+", text)), default=0)


def escape_paragraph(text: str) -> str:
    """Return a paragraph that shows ``text`` as it is; what looks like the start of a list, or a
    line under a heading, is none."""
    return re.sub(r"^(\d*)([-+.)=])", r"\1\\\2", escape_markup(text))


def format_code(text: str, language: str) -> str:
    """Return lines of code between fences that no line of theirs can close."""
    fence = "`" * max(3, 1 + _longest_run(text))
    return f"{fence}{language}\n{text}\n{fence}"


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


def describe_basis(table: Mapping[str, Any]) -> str:
    """Say how many seeds stand behind each value of a table, and what it was measured on.

    Tables of older versions do not know: then that is said.
    """
    seeds, measured_on = table.get("seeds"), table.get("measured_on")
    if isinstance(seeds, str):
        words = f"as many seeds as “{seeds}” says"
    else:
        words = "seeds not recorded" if seeds is None else format_count(seeds, "seed")
    return f"Behind each value: {words}{f'; {measured_on}' if measured_on else ''}."


def format_table(table: Mapping[str, Any]) -> str:
    """Return a model's or a study's table, under its title and above what stands behind it.

    Its names may be those of a user's classes: every character of them is shown.
    """
    columns = [escape_markup(column) for column in table["columns"]]
    rows = [[escape_markup(c) if isinstance(c, str) else c for c in row] for row in table["rows"]]
    parts = [f"### {escape_markup(table['title'])}", format_rows(columns, rows)]
    said = [describe_basis(table), table["note"]]
    return "\n\n".join([*parts, *(escape_paragraph(words) for words in said if words)])


def format_picture(file: str, caption: str) -> str:
    """Return the picture ``file``, which lies beside the document, above its caption."""
    return f"![{escape_markup(Path(file).stem)}]({quote(file)})\n*{escape_markup(caption)}*"
