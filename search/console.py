"""The console to which commands print, and the tables that they print there.

console = open_console()
console.print(make_table(["trial", "mse"], [[7, 0.1]], right=[1]))
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
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


def format_parameters(parameters: Mapping[str, Any]) -> str:
    """Return ``channels 9, lr 0.00312``."""
    return ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in parameters.items()
    )


def format_count(number: int, thing: str) -> str:
    """Return ``1 trial``, ``2 trials``."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def format_duration(seconds: float) -> str:
    """Return ``8 s``, ``3 min``, ``2 h 05 min``."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"
