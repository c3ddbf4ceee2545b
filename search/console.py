"""Where commands print: a terminal, or a log.

console = open_console()
console.print("trial 7 of [/x]")     # other people's text shows as it is: nothing is markup

Plain texts are printed so that no character of theirs steers the terminal. What is put into a
`rich.text.Text` goes through `search.words.show_text` first.
"""

from __future__ import annotations

import sys
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from search.words import show_text

LOG_WIDTH = 300  # columns of a log, whose lines nobody wraps
LOUD = "bold white on red"


def shorten_path(place: object) -> str:
    """Return a path or URL as seen from the current folder: ``runs/exports/cae/1``."""
    return str(place).replace(f"{Path.cwd()}/", "")


class PlainConsole(Console):
    """A console that shows every character of a text, and obeys none but line feeds."""

    def render_str(self, text: str, **options: Any) -> Text:
        shown = "\n".join(show_text(line) for line in text.split("\n"))
        return super().render_str(shown, **options)


def open_console() -> Console:
    """Open standard output, which shows every character as it is; it is wide where it is no
    terminal. A character that the terminal's encoding lacks is shown escaped."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    width = None if sys.stdout.isatty() else LOG_WIDTH
    return PlainConsole(highlight=False, markup=False, emoji=False, width=width)


def print_line(console: Console, line: str, style: str | None = None) -> None:
    """Print a line of messages: a terminal breaks it between words, and a log keeps it whole."""
    console.print(Text(show_text(line)), style=style, soft_wrap=not console.file.isatty())


def is_live(console: Console) -> bool:
    """Whether what is shown can be drawn anew: on a terminal that moves its cursor, and in no log,
    even if its reader wants colours."""
    return console.is_terminal and console.file.isatty() and not console.is_dumb_terminal
