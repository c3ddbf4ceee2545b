"""Tables that fit the terminal: numbers are never cut, and words give way first.

    console.print(FittedTable((
        Column("study", names),
        Column("best", values, Kind.NUMBER),
        Column("about", lines, Kind.WORDS),
    )))

A table that is too wide shortens its words, then breaks its names over several lines. If that does
not suffice, columns go on in a further table below, beside the same keys. Of a cell that nobody
would read to its end, the middle is left out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from textwrap import TextWrapper
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from search.words import format_value, show_text

GAP = "  "  # between columns
LEAST_NAME = 20  # columns to which a name is narrowed before the table is split
LEAST_WORDS = 16
LEAST_HEAD = 12  # of numbers, which are often narrower than their name
WIDEST_SPAN = 1000  # of the largest number over the smallest, where points are aligned
WIDEST_NAME = 40  # columns of a name in a table that is split
LONGEST_CELL = 1000  # characters


class Kind(Enum):
    """How the cells of a column read."""

    NUMBER = "number"  # on the right; never cut
    NAME = "name"  # shown whole, over several lines where it is too long
    WORDS = "words"  # cut at the end, or left out


@dataclass(frozen=True)
class Column:
    """A column of a table: its head, its cells as they are shown, and how they read.

    No character of theirs steers the terminal.
    """

    head: str
    cells: Sequence[str]
    kind: Kind = Kind.NAME

    def __post_init__(self) -> None:
        object.__setattr__(self, "head", _leave_out(show_text(self.head)))
        object.__setattr__(self, "cells", [_leave_out(show_text(cell)) for cell in self.cells])

    @cached_property
    def natural(self) -> int:
        """The width that shows all of it in one line."""
        return max(map(cell_len, (self.head, *self.cells)), default=0)

    @cached_property
    def least(self) -> int:
        """The width below which it cannot be read."""
        least = LEAST_WORDS if self.kind is Kind.WORDS else LEAST_NAME
        if self.kind is Kind.NUMBER:
            least = max((min(LEAST_HEAD, cell_len(self.head)), *map(cell_len, self.cells)))
        return min(least, self.natural)


def _leave_out(cell: str) -> str:
    """Return a cell without the middle of what is very long."""
    half = LONGEST_CELL // 2
    return cell if len(cell) <= LONGEST_CELL else f"{cell[:half]} ... {cell[-half:]}"


def format_column(head: str, values: Iterable[Any], *, missing: str = "-") -> Column:
    """Return a column of plain values, whose kind follows from them.

    A NaN means that there is no value; integers beside NaN are floats in a frame.
    """
    found = list(values)
    there = [value for value in found if not (isinstance(value, float) and math.isnan(value))]
    is_number = all(isinstance(v, int | float) and not isinstance(v, bool) for v in there)
    whole = is_number and all(float(value).is_integer() for value in there)
    cells = []
    for value in found:
        if isinstance(value, float) and math.isnan(value):
            cells.append(missing)
        elif isinstance(value, float) and whole and abs(value) < 1e15:
            cells.append(str(int(value)))
        else:
            cells.append(f"{value:.5g}" if isinstance(value, float) else format_value(value))
    if is_number and not whole:
        cells = align_points(cells)
    return Column(show_text(head), cells, Kind.NUMBER if is_number else Kind.NAME)


def align_points(cells: Sequence[str]) -> list[str]:
    """Return numbers with their points one below the other: zeros fill up the shorter ones.

    Those stay as they are that no such column holds: exponents, or numbers of very different sizes.
    """
    plain = [cell for cell in cells if cell.lstrip("-").replace(".", "", 1).isdigit()]
    sizes = [abs(float(cell)) for cell in plain if float(cell)]
    others = [cell for cell in cells if cell not in plain and any(map(str.isdigit, cell))]
    if others or not sizes or max(sizes) > WIDEST_SPAN * min(sizes):
        return list(cells)
    digits = max(len(cell.partition(".")[2]) for cell in plain)
    return [f"{float(cell):.{digits}f}" if cell in plain else cell for cell in cells]


@dataclass(frozen=True)
class FittedTable:
    """A table that is laid out when it is printed, for the width that is there then.

    keys: how many of the first columns stand in every part of a table that is split
    has_heads: whether the heads are shown
    """

    columns: Sequence[Column]
    keys: int = 1
    title: str = ""
    note: str = ""
    has_heads: bool = field(default=True, kw_only=True)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for text, style in self.layout(options.max_width):
            yield Text(text, style=style, no_wrap=True, overflow="ignore")

    def layout(self, width: int) -> list[tuple[str, str]]:
        """Return the lines for ``width`` columns, each with its style."""
        lines = [(line, "italic") for line in wrap_words(self.title, width)]
        for place, part in enumerate(_split(self.columns, self.keys, width)):
            lines += [("", "")] * (place > 0)
            lines += self._layout_part(part)
        return lines + [(line, "dim italic") for line in wrap_words(self.note, width)]

    def _layout_part(self, part: Sequence[tuple[Column, int]]) -> list[tuple[str, str]]:
        rows = zip(*(column.cells for column, _ in part), strict=True)
        lines: list[tuple[str, str]] = []
        if self.has_heads:
            heads = [_fit_cell(c.head, w, Kind.NAME) for c, w in part]
            tallest = max(map(len, heads), default=1)
            heads = [[""] * (tallest - len(head)) + head for head in heads]  # down to the rows
            lines += [(line, "bold") for line in _join(heads, part)]
        for row in rows:
            cells = [_fit_cell(cell, w, c.kind) for cell, (c, w) in zip(row, part, strict=True)]
            lines += [(line, "") for line in _join(cells, part)]
        return lines


def wrap_words(text: str, width: int) -> list[str]:
    """Return ``text`` in lines of at most ``width`` columns, broken between words."""
    return TextWrapper(max(width, 1), break_on_hyphens=False).wrap(show_text(text))


def shorten_words(text: str, width: int) -> str:
    """Return ``text``, cut at its end where it is longer than ``width`` columns."""
    if cell_len(text) <= width:
        return text
    return set_cell_size(text, max(width - 1, 0)).rstrip() + "…"


def fold_name(name: str, width: int) -> list[str]:
    """Return a name in lines of at most ``width`` columns, all of its characters; it is broken
    behind a ``_``, ``-``, ``/`` or space where there is one."""
    lines, line = [], ""
    for piece in re.findall(r"[^_\-/ ,]*[_\-/ ,]|[^_\-/ ,]+", name):
        if line and cell_len(line + piece.rstrip()) > width:
            lines.append(line)
            line = ""
        line += piece
        while cell_len(line.rstrip()) > width:
            head = set_cell_size(line, width).rstrip() or line[:1]
            lines.append(head)
            line = line[len(head) :]
    return [*lines, line] if line or not lines else lines


def _split(columns: Sequence[Column], keys: int, width: int) -> list[list[tuple[Column, int]]]:
    """Return the parts of a table, each as columns with the widths that they get."""
    if fitted := _narrow(columns, width):
        return [fitted]
    columns = [column for column in columns if column.kind is not Kind.WORDS]
    if fitted := _narrow(columns, width):
        return [fitted]
    first, others = list(columns[:keys]), list(columns[keys:])
    taken = sum(min(c.natural, max(c.least, WIDEST_NAME)) + len(GAP) for c in first)
    parts: list[list[Column]] = []
    left = 0
    for column in others:
        needed = min(column.natural, max(column.least, WIDEST_NAME)) + len(GAP)
        if not parts or needed > left:
            parts.append([])
            left = width + len(GAP) - taken
        parts[-1].append(column)
        left -= needed
    found = []
    for part in parts or [[]]:
        both = first + part
        found.append(_narrow(both, width) or [(column, column.least) for column in both])
    return found


def _narrow(columns: Sequence[Column], width: int) -> list[tuple[Column, int]]:
    """Return the columns with widths that fit together; none where they cannot.

    Words are narrowed first, then the widest names.
    """
    widths = [min(column.natural, max(column.least, width)) for column in columns]
    for kinds in ((Kind.WORDS,), (Kind.WORDS, Kind.NAME, Kind.NUMBER)):
        while sum(widths) + len(GAP) * (len(widths) - 1) > width:
            wide = [
                place
                for place, column in enumerate(columns)
                if column.kind in kinds and widths[place] > column.least
            ]
            if not wide:
                break
            widths[max(wide, key=lambda place: widths[place])] -= 1
    fits = sum(widths) + len(GAP) * (len(widths) - 1) <= width
    return list(zip(columns, widths, strict=True)) if fits else []


def _fit_cell(cell: str, width: int, kind: Kind) -> list[str]:
    if kind is Kind.WORDS:
        return [shorten_words(cell, width)]
    return fold_name(cell, width) if cell_len(cell) > width else [cell]


def _join(cells: Sequence[Sequence[str]], part: Sequence[tuple[Column, int]]) -> list[str]:
    """Return the lines of one row, whose cells have a line or several."""
    lines = []
    for number in range(max(map(len, cells), default=0)):
        texts = []
        for cell, (column, width) in zip(cells, part, strict=True):
            text = cell[number].rstrip() if number < len(cell) else ""
            room = " " * max(width - cell_len(text), 0)
            texts.append(room + text if column.kind is Kind.NUMBER else text + room)
        lines.append(GAP.join(texts).rstrip())
    return lines
