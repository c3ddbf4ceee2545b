"""Where commands print: a terminal, or a log that nobody wraps."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

LOG_WIDTH = 300  # columns
LOUD = "bold white on red"


def shorten_path(place: object) -> str:
    """A path or URL as seen from here: ``runs/exports/cae/1`` rather than its whole way."""
    return str(place).replace(f"{Path.cwd()}/", "")


def open_console() -> Console:
    """Standard output, without colouring of numbers; wide where it is no terminal."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=LOG_WIDTH)
