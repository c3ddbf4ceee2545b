"""The files that a table of trials is written to: CSV=path, where no text is a formula, and
PARQUET=path.

    check_targets(variables, first="number")  # before the trials are read
    write_frame(console, frame, variables)
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from search.console import print_line
from search.errors import BadVariable
from search.variables import Variables
from search.words import format_count
from storage.database.address import parse_url
from storage.database.schema import is_sqlite
from storage.errors import short
from storage.files.atomic import atomic_file

if TYPE_CHECKING:
    import pandas as pd

LONGEST = 4096  # bytes of a line that are read to tell what a file is


def check_targets(variables: Variables, *, first: str) -> None:
    """Raise `BadVariable` for files that cannot be written, or must not be overwritten.

    first: the name of the table's first column, by which an older one is known
    """
    place = parse_url(variables.storage_url)
    readers = ((variables.csv, _first_of_csv), (variables.parquet, _first_of_parquet))
    for target, read_first in readers:
        if target is None:
            continue
        shown = short(str(target))
        if target.is_dir() or not target.parent.is_dir():
            raise BadVariable(f"cannot write {shown}: name a file in an existing folder")
        if is_sqlite(place) and target.resolve() == Path(place.database or "").resolve():
            raise BadVariable(f"cannot write {shown}: it is the trial database; name another file")
        if target.is_file() and target.stat().st_size and read_first(target) != first:
            raise BadVariable(
                f"cannot write {shown}: it is a file of something else than such a table; name "
                "another one, or remove it"
            )
    if variables.csv is not None and variables.csv == variables.parquet:
        raise BadVariable(f"CSV and PARQUET both name {variables.csv}; name two files")


def write_frame(
    console: Console, frame: pd.DataFrame, variables: Variables, what: str = "trial"
) -> None:
    """Write the table to the files that were asked for, and say so.

    what: each of its rows is
    """
    from storage.files.spreadsheets import plain_frame

    writers: list[tuple[Path | None, Callable[[Path], object]]] = [
        (variables.csv, lambda path: plain_frame(frame).to_csv(path, index=False)),
        (variables.parquet, lambda path: _unmix(frame).to_parquet(path, index=False)),
    ]
    for target, write in writers:
        if target is not None:
            with atomic_file(target) as beside:
                write(beside)
            print_line(console, f"{format_count(len(frame), what)} -> {target}")


def _first_of_csv(target: Path) -> str:
    """Return the name of the first column, if a file is a CSV table."""
    with target.open("rb") as file:
        return file.readline(LONGEST).decode(errors="replace").partition(",")[0].strip()


def _first_of_parquet(target: Path) -> str | None:
    """Return the name of the first column of a Parquet file; None: it is none."""
    from pyarrow import ArrowException
    from pyarrow.parquet import read_schema

    try:
        return next(iter(read_schema(target).names), None)
    except ArrowException:
        return None


def _unmix(frame: pd.DataFrame) -> pd.DataFrame:
    """Turn columns of mixed types into text: Parquet wants one type a column."""
    mixed = [
        name
        for name in frame.columns
        if frame[name].dtype == object and frame[name].dropna().map(type).nunique() > 1
    ]
    texts = {name: frame[name].map(str, na_action="ignore") for name in mixed}
    return frame.assign(**texts)
