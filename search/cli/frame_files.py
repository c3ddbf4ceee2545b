"""The files that a table of trials is written to: CSV=path, where no text is a formula, and
PARQUET=path.

    check_targets(variables)                  # before the trials are read
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


def check_targets(variables: Variables) -> None:
    """Raise `BadVariable` for files that cannot be written, or must not be overwritten."""
    place = parse_url(variables.storage_url)
    for target in (variables.csv, variables.parquet):
        if target is None:
            continue
        shown = short(str(target))
        if target.is_dir() or not target.parent.is_dir():
            raise BadVariable(f"cannot write {shown}: name a file in an existing folder")
        if is_sqlite(place) and target.resolve() == Path(place.database or "").resolve():
            raise BadVariable(f"cannot write {shown}: it is the trial database; name another file")
    if variables.csv is not None and variables.csv == variables.parquet:
        raise BadVariable(f"CSV and PARQUET both name {variables.csv}; name two files")


def write_frame(
    console: Console, frame: pd.DataFrame, variables: Variables, what: str = "trial"
) -> None:
    """Write the table to the files that were asked for, and say so.

    what: each of its rows is
    """
    from storage.files.spreadsheets import plain_frame

    first = str(frame.columns[0])
    csv_begins = (f"{first},".encode(), f"{first}\n".encode())
    writers: list[tuple[Path | None, tuple[bytes, ...], Callable[[Path], object]]] = [
        (variables.csv, csv_begins, lambda path: plain_frame(frame).to_csv(path, index=False)),
        (variables.parquet, (b"PAR1",), lambda path: _unmix(frame).to_parquet(path, index=False)),
    ]
    for target, begins, write in writers:
        if target is not None:
            if not _begins_with(target, begins):
                raise BadVariable(
                    f"cannot write {short(str(target))}: it is a file of something else than "
                    f"{what}s; name another one, or remove it"
                )
            with atomic_file(target) as beside:
                write(beside)
            print_line(console, f"{format_count(len(frame), what)} -> {target}")


def _begins_with(target: Path, begins: tuple[bytes, ...]) -> bool:
    """Whether a file has one of these beginnings, so that it is an older table; or is none yet."""
    if not target.is_file() or not target.stat().st_size:
        return True
    with target.open("rb") as file:
        return file.read(max(map(len, begins))).startswith(begins)


def _unmix(frame: pd.DataFrame) -> pd.DataFrame:
    """Turn columns of mixed types into text: Parquet wants one type a column."""
    mixed = [
        name
        for name in frame.columns
        if frame[name].dtype == object and frame[name].dropna().map(type).nunique() > 1
    ]
    texts = {name: frame[name].map(str, na_action="ignore") for name in mixed}
    return frame.assign(**texts)
