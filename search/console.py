"""Where commands print: a terminal, or a log that nobody wraps."""

from __future__ import annotations

from rich.console import Console

LOG_WIDTH = 300  # columns
LOUD = "bold white on red"


def open_console() -> Console:
    """Standard output, without colouring of numbers; wide where it is no terminal."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=LOG_WIDTH)
