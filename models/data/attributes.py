"""``attributes.csv``: numbers for the images of a folder.

    file,smiling,glasses
    cats/0.png,1,0
    cats/1.png,0,1

Files are named as seen from the table. Each has a row, and each cell a number.

Shape legend: N images, A attributes.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from models.data.folder_tree import ATTRIBUTES, Names, printable
from models.errors import DataError, first_line, short

LARGEST = 1e18  # its square still is a number in float32


@dataclass(frozen=True, kw_only=True)
class AttributeTable:
    """A table: the names of its columns, and the numbers of each file.

    folder: names of the folder in which it lies; path: of the table itself
    """

    path: Path
    folder: Names
    names: tuple[str, ...]
    rows: dict[str, list[float]]

    def select(self, files: Sequence[Names]) -> Tensor:
        """Return the numbers of ``files`` (N, A); raises `DataError` for one without a row."""
        wanted = ["/".join(names[len(self.folder) :]) for names in files]
        missing = [file for file in wanted if file not in self.rows]
        if missing:
            raise DataError(
                f"{self.path} lacks {len(missing)} of {len(wanted)} images, "
                f"such as {missing[0]!r}; add their rows"
            )
        return torch.tensor([self.rows[file] for file in wanted])


def find_table(folder: Path, inner: Names) -> tuple[Path, Names] | None:
    """Return the table of a folder and the names of the folder in which it lies: ``folder`` or one
    of those around the images."""
    for depth in range(len(inner) + 1):
        path = folder.joinpath(*inner[:depth], ATTRIBUTES)
        if os.path.lexists(path):
            return path, inner[:depth]
    return None


def read_table(path: Path, folder: Names) -> AttributeTable:
    """Read and check a table. Raises `DataError`."""
    if not path.is_file():  # reading a pipe would wait for ever
        raise DataError(f"{path} is not a file; replace or remove it")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header, *rows = [row for row in csv.reader(file) if row]
        values = [(row[0], [float(cell) for cell in row[1:]]) for row in rows]
    except (ValueError, OSError, csv.Error) as error:
        raise DataError(
            f"cannot read {path} ({first_line(error)}); its first line is "
            "file,NAME,NAME,... and every other a file name and a number for each NAME"
        ) from error
    _check_table(path, header, values)
    names = tuple(printable(name) for name in header[1:])
    return AttributeTable(path=path, folder=folder, names=names, rows=dict(values))


def _check_table(table: Path, header: list[str], rows: list[tuple[str, list[float]]]) -> None:
    """Raise `DataError` for a table whose numbers may not be those that were meant."""
    if len(header) < 2 or "" in header or len(set(header)) < len(header):
        raise DataError(
            f"{table} begins with {short(','.join(header))!r}, not with file,NAME,NAME,...; "
            "give each column a name of its own"
        )
    seen = set()
    for file, values in rows:
        if len(values) != len(header) - 1:
            raise DataError(
                f"{table} has rows that are not as long as its header: {short(file)!r} has "
                f"{len(values)} numbers for {len(header) - 1} names"
            )
        if not all(abs(value) <= LARGEST for value in values):
            raise DataError(
                f"{table} holds values that are not finite or beyond {LARGEST:g}, for "
                f"{short(file)!r}; write a number in each cell"
            )
        if file in seen:
            raise DataError(f"{table} has two rows for {short(file)!r}; keep one")
        seen.add(file)
