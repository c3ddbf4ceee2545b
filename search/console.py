"""The console to which commands print, and the tables that they print there.

console = open_console()
console.print(make_table(["trial", "mse"], [[7, 0.1]], right=[1]))
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from storage.files.markdown import format_cell

LOG_WIDTH = 300  # columns of a log, whose lines nobody wraps
LOUD = "bold white on red"


def shorten_path(place: object) -> str:
    """Return a path or URL as seen from the current folder: ``runs/exports/cae/1``."""
    return str(place).replace(f"{Path.cwd()}/", "")


def open_console() -> Console:
    """Open standard output, without coloured numbers; it is wide where it is no terminal."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=LOG_WIDTH)


def make_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    right: Collection[int] = (),
    fold: bool = False,
    title: str | None = None,
    note: str | None = None,
) -> Table:
    """Return a table for a terminal, under its title and above its note.

    right: places of the columns that are aligned to the right
    fold: whether cells that are too wide go on in the next line, instead of being cut
    """
    table = Table(
        box=None, padding=(0, 2), pad_edge=False, title=title, title_justify="left",
        caption=note or None, caption_justify="left",
    )  # fmt: skip
    for place, column in enumerate(columns):
        table.add_column(
            column,
            justify="right" if place in right else "left",
            no_wrap=not fold,
            overflow="fold" if fold else "ellipsis",
        )
    for cells in rows:
        table.add_row(*map(format_cell, cells))
    return table
