"""Pictures, tables and baselines: what a model shows beyond its metrics.

    for picture in model.pictures(images, "test"):
        picture.draw(folder / picture.file, "cae trial 7")

They stand in the export folder, its model card and the dashboard.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture that is drawn when it is needed.

    name: becomes the file's name; caption: one line on what it shows
    draw: writes it to a path as PNG, under a title that begins with the given words
    """

    name: str
    caption: str
    draw: Callable[[Path, str], None]

    @property
    def file(self) -> str:
        return f"{file_stem(self.name)}.png"


def file_stem(name: str) -> str:
    """Return a name as part of a file's name: a slash in it leads into no folder."""
    return re.sub(r"[^\w.-]+", "_", name)


@dataclass(frozen=True, kw_only=True)
class Table:
    """Measured numbers with their words.

    columns: headings; the first stands above the rows' names
    rows: each is as long as `columns`; numbers are shown with the digits that matter
    note: one line on how it was measured
    seeds: how many trainings, each with a seed of its own, stand behind each value; a text names
    the column that counts them; None: the table says that nobody recorded it
    measured_on: on what each value was measured: ``10,000 test images``, ``5,000 samples``
    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | int | float, ...], ...]
    note: str = ""
    seeds: int | str | None = None
    measured_on: str = ""

    def __post_init__(self) -> None:
        is_column = isinstance(self.seeds, str) and self.seeds in self.columns
        is_count = type(self.seeds) is int and self.seeds > 0
        if not (self.seeds is None or is_column or is_count):
            raise ValueError(
                f"table {self.name!r}: seeds={self.seeds!r} is no whole number from 1 on and no "
                f"column of {self.columns}; give how many trainings stand behind each value, or "
                "the column that counts them"
            )
        if uneven := [row for row in self.rows if len(row) != len(self.columns)]:
            raise ValueError(f"table {self.name!r}: {uneven[0]} does not fit {self.columns}")

    def to_plain(self) -> dict[str, Any]:
        """Return the table as JSON takes it."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """What a model has to beat: the metrics of a model that ignores its input.

    what: the output of that model: ``the mean training image``; values: metrics by name
    """

    what: str
    values: Mapping[str, float]
