"""One part of the check of a GPU: what it is told, and the rows that it writes.

    def check_resume(settings: Settings) -> Iterator[Row]:
        yield Row(name="cae goes on", found=error, limit=1e-4)

A row is written the moment it is known, so that a part that runs out of time keeps what it has.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What each part is told.

    device: ``cuda:0``, or ``cpu`` to see that the scripts run
    tiny: as little as shows that a part runs
    data: torchvision's sets; emoji: folder of pictures
    work: a scratch folder of this part; out: what is written there is brought home
    """

    device: str
    tiny: bool
    data: Path
    emoji: Path
    work: Path
    out: Path

    @property
    def on_gpu(self) -> bool:
        return self.device.startswith("cuda")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One thing that was checked or measured.

    found: a number, or words
    limit: the most that ``found`` may be; None: nothing is asked of it
    ok: whether it is as it should be; None: it is a measurement
    unit: of ``found``; about: what one has to know beside it
    """

    name: str
    found: float | str
    limit: float | None = None
    ok: bool | None = None
    unit: str = ""
    about: str = ""

    @property
    def passed(self) -> bool | None:
        """Whether it is as it should be; None for a measurement."""
        if self.ok is not None or self.limit is None:
            return self.ok
        return isinstance(self.found, float | int) and self.found <= self.limit

    @property
    def text(self) -> str:
        """The row in one line."""
        mark = {True: "ok  ", False: "BAD ", None: "    "}[self.passed]
        value = self.found if isinstance(self.found, str) else format_number(self.found)
        asked = "" if self.limit is None else f" (at most {format_number(self.limit)})"
        about = f"   {self.about}" if self.about else ""
        return f"{mark}{self.name}: {value}{' ' if self.unit else ''}{self.unit}{asked}{about}"


Part = Callable[[Settings], Iterable[Row]]


def format_number(value: float) -> str:
    """Return ``value`` with four digits that say something."""
    return f"{value:.4g}"


def write_rows(part: str, rows: Iterable[Row], file: Path) -> bool:
    """Print and append each row as it comes. Return whether all that was checked is well."""
    well = True
    for row in rows:
        print(row.text, flush=True)
        with file.open("a", encoding="utf-8") as out:
            out.write(json.dumps({"part": part, "passed": row.passed, **asdict(row)}) + "\n")
        well = well and row.passed is not False
    return well


def read_rows(file: Path) -> list[tuple[str, Row]]:
    """Return (part, row) for each line of the file that `write_rows` wrote."""
    return list(_read(file))


def _read(file: Path) -> Iterator[tuple[str, Row]]:
    if not file.exists():
        return
    for line in file.read_text(encoding="utf-8").splitlines():
        values: dict[str, Any] = json.loads(line)
        del values["passed"]
        yield values.pop("part"), Row(**values)


def relative_error(found: Iterable[Any], wanted: Iterable[Any]) -> float:
    """Return ||found - wanted|| / ||wanted|| over all tensors of two equal lists.

    It is infinite where a value is no finite number.
    """
    difference = total = 0.0
    for one, other in zip(found, wanted, strict=True):
        a, b = one.detach().double().cpu(), other.detach().double().cpu()
        difference += float((a - b).square().sum())
        total += float(b.square().sum())
    error = math.sqrt(difference / total) if total else math.sqrt(difference)
    return error if math.isfinite(error) else math.inf
