"""Where commands print: a terminal, or a log.

    console = open_console()
    console.print("trial 7 of [/x]")     # other people's text shows as it is: nothing is markup

No character of a plain text can control the terminal. Text in a `rich.text.Text` has to go through
`search.words.show_text` first.

Output may have no reader: a program such as `head` closes its pipe when it has seen enough
(`OutputClosed`). A log may lie on a full disk. A command whose output is its only result then ends
with `OutputFull`; a study loses lines and goes on.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from search.errors import SearchError
from search.words import show_text
from storage.files.atomic import NO_SPACE

LOG_WIDTH = 300  # columns of a log, whose lines nobody wraps
LOUD = "bold white on red"


def shorten_path(place: object) -> str:
    """Return a path or URL as seen from the current folder: ``runs/exports/cae/1``."""
    return str(place).replace(f"{Path.cwd()}/", "")


class OutputClosed(Exception):
    """Nobody reads standard output any more."""


class OutputFull(SearchError):
    """There is no space for what a command prints."""


class OutputConsole(Console):
    """A console that shows every character of a text; only line feeds act.

    It raises `OutputClosed` where rich would end the process without a message.
    """

    def render_str(self, text: str, **options: Any) -> Text:
        shown = "\n".join(show_text(line) for line in text.split("\n"))
        return super().render_str(shown, **options)

    def on_broken_pipe(self) -> None:
        self.quiet = True
        with suppress(OSError), Path(os.devnull).open("w") as nothing:
            os.dup2(nothing.fileno(), self.file.fileno())  # or the interpreter's exit fails, too
        raise OutputClosed


class OutputFile(io.FileIO):
    """Standard output, which may lie on a full disk.

    loses_lines: what finds no space is left out, and that is said once on standard error
    """

    def __init__(self, number: int, *, loses_lines: bool) -> None:
        super().__init__(number, "w", closefd=False)
        self.loses_lines = loses_lines
        self.has_lost = False

    def write(self, line: Any) -> int:
        try:
            super().write(line)
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            cause = f"cannot write to standard output ({error.strerror})"
            if not self.loses_lines:
                raise OutputFull(f"{cause}; make room where it goes, then run again") from error
            if not self.has_lost:
                self.has_lost = True
                with suppress(OSError):
                    print(f"{cause}: its lines are lost, and the study goes on", file=sys.stderr)
        return len(line)


def open_console(*, loses_lines: bool = False) -> Console:
    """Open standard output; a log has wide lines. A character that its encoding lacks is escaped.

    loses_lines: whether lines that do not fit on the disk are dropped
    """
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    width = None if sys.stdout.isatty() else LOG_WIDTH
    file = _open_output(loses_lines)
    return OutputConsole(highlight=False, markup=False, emoji=False, width=width, file=file)


def _open_output(loses_lines: bool) -> TextIOWrapper | None:
    """Return standard output as `OutputFile`; None where it is no file of the system's."""
    try:
        number = sys.stdout.fileno()
    except (OSError, AttributeError):
        return None
    sys.stdout.flush()
    raw = OutputFile(number, loses_lines=loses_lines)
    encoding = sys.stdout.encoding
    return TextIOWrapper(raw, encoding, "backslashreplace", write_through=True)


def print_line(console: Console, line: str, style: str | None = None) -> None:
    """Print a line of messages: a terminal breaks it between words, and a log keeps it whole."""
    console.print(Text(show_text(line)), style=style, soft_wrap=not console.file.isatty())


def print_lines(console: Console, *lines: str | None) -> None:
    """Print lines of messages; None is no line."""
    for line in lines:
        if line is not None:
            print_line(console, line)


def print_loud(console: Console, lines: Iterable[str]) -> None:
    """Print lines that nobody may miss."""
    for line in lines:
        print_line(console, f" {line} ", LOUD)


def is_live(console: Console) -> bool:
    """Whether a display can be redrawn: on a terminal that moves its cursor, and never in a log."""
    return console.is_terminal and console.file.isatty() and not console.is_dumb_terminal
