"""Where commands print, a terminal or a log that nobody wraps, and the tables that they print."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from storage.files.markdown import format_cell

LOG_WIDTH = 300  # columns
LOUD = "bold white on red"


def shorten_path(place: object) -> str:
    """A path or URL as seen from here: ``runs/exports/cae/1`` rather than its whole way."""
    return str(place).replace(f"{Path.cwd()}/", "")


def open_console() -> Console:
    """Standard output, without colouring of numbers; wide where it is no terminal."""
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
