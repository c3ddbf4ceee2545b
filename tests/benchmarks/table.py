"""The rows as a table for a terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tests.benchmarks.rows import Row

MARKS = {True: Text("met", "green"), False: Text("missed", "bold red"), None: Text()}
WIDTH = 150  # of a log, where notes break


def show(rows: Iterable[Row], console: Console) -> None:
    """Print one line a comparison: both figures, how many times better ours is, the target."""
    table = Table(title="genstudy beside its peers", pad_edge=False, show_lines=True)
    table.add_column("row", overflow="fold")
    for name in ("ours", "theirs", "unit", "ratio", "target", ""):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        note = row.note if row.form == "full" else f"{row.form} form; {row.note}".rstrip("; ")
        words = Text.assemble((f"{row.section}: {row.what}", "bold"), f"\nvs {row.peer}")
        if note:
            words.append(f"\n{note}", "dim")
        table.add_row(
            words,
            figure(row.ours),
            figure(row.theirs),
            row.unit,
            "-" if row.ratio is None else f"{row.ratio:.2f}x",
            "" if row.target is None else f">= {row.target:g}x",
            MARKS[row.met],
        )
    console.print(table, width=min(console.width, WIDTH))


def figure(value: float | None) -> str:
    """Three digits that count, without an exponent: 0.00123, 0.742, 12.3, 1230."""
    if value is None:
        return "-"
    if value == 0 or abs(value) >= 100:
        return f"{value:.0f}"
    digits = 2
    size = abs(value)
    while size < 1:
        size *= 10
        digits += 1
    return f"{value:.{digits - (1 if size >= 10 else 0)}f}"
