"""Prints lines above a live display, or into a log.

    lines = LinePrinter(console)
    lines.say("trial 7 ends")                         # now
    lines.say_once("spent", "memory had run out")     # not again under this key
    lines.say_at_times("cae  38/50 trials")           # in a log only, now and then
    lines.say(*lines.fit("trial 7", ["lr 0.003"], "*best"))

A status line comes every `PLAIN_EVERY` seconds at first. In a long study it comes more rarely, so
that a log of days stays short.
"""

from __future__ import annotations

import time

from rich.console import Console

from search.console import is_live, print_line
from search.supervisor.progress_lines import fit_items
from search.words import show_text

PLAIN_EVERY = 30.0  # seconds between two status lines in a log, at first
PLAIN_SHARE = 1 / 20  # the pause grows to this share of the time since the start ...
PLAIN_MOST = 600.0  # ... and to so many seconds at most


class LinePrinter:
    """Prints the lines of one command. is_live: whether a live display stands below them."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.is_live = is_live(console)
        self._keys: set[str] = set()  # of the lines that `say_once` has printed
        self._began = self._last_status = time.monotonic()

    def say(self, *lines: str, style: str | None = None) -> None:
        """Print lines above the live display."""
        for line in lines:
            print_line(self.console, line, style)

    def say_once(self, key: str, line: str) -> None:
        """Print a line, unless one with this key was printed before."""
        if key not in self._keys:
            self._keys.add(key)
            self.say(line)

    def say_at_times(self, *lines: str) -> None:
        """Print lines in a log if the last ones are old enough; a live display shows the same."""
        now = time.monotonic()
        rarely = min((now - self._began) * PLAIN_SHARE, PLAIN_MOST)
        if not self.is_live and now - self._last_status >= max(PLAIN_EVERY, rarely):
            self._last_status = now
            self.say(*filter(None, lines))

    def fit(self, start: str, items: list[str], tail: str = "") -> list[str]:
        """Return lines that fit the terminal; a log gets everything in one line."""
        if self.is_live:
            return fit_items(show_text(start), items, width=self.console.width, tail=tail)
        parts = [start, ", ".join(items), tail]
        return ["  ".join(part for part in parts if part)]
