"""One comparison of two measurements, and the CSV file that keeps all of them.

    row = Row(section="training", what="n 9, Z 27", peer="Optuna example", ours=0.9, theirs=0.2,
              unit="epochs/s", more_is_better=True, target=3.0)
    row.ratio                                   # 4.5: ours is 4.5 times better

A ratio says how many times better ours is, whichever way the unit points, so that every
target reads "at least".
"""

from __future__ import annotations

import csv
import math
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

AGREEMENT = 0.10  # relative: validation errors of two seeds after a few epochs differ by less


@dataclass(frozen=True, kw_only=True)
class Row:
    """ours, theirs: in ``unit``; None where a side did not get there, which ``note`` explains.

    target: the least ratio that is wanted; None where the row is for information
    form: "full", "short" or "tiny"; measured, machine: when and where
    """

    section: str
    what: str
    peer: str
    ours: float | None
    theirs: float | None
    unit: str
    more_is_better: bool
    target: float | None = None
    note: str = ""
    form: str = "full"
    measured: str = ""
    machine: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times better ours is."""
        if not self.ours or not self.theirs:
            return None
        return self.ours / self.theirs if self.more_is_better else self.theirs / self.ours

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None without one."""
        if self.target is None:
            return None
        return self.ratio is not None and self.ratio >= self.target

    @property
    def key(self) -> tuple[str, str, str]:
        """What a later measurement of the same thing replaces."""
        return self.section, self.what, self.peer.partition(",")[0]


def stamped(rows: Iterable[Row], *, form: str) -> list[Row]:
    """The rows with form, time and machine."""
    now = datetime.now(UTC).isoformat(timespec="minutes")
    return [replace(row, form=form, measured=now, machine=machine()) for row in rows]


def machine() -> str:
    """Processor and usable cores, such as a reader of the table needs to place it."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        name = names[0] if names else name
    return f"{name}, {len(os.sched_getaffinity(0))} cores"


def agreement(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Final validation errors side by side, and whether they are the same within noise.

    Equal work must end at equal errors. They differ by seed: medians within `AGREEMENT`, or
    ranges that overlap, count as the same.
    """
    ours = [value for value in ours if math.isfinite(value)]
    theirs = [value for value in theirs if math.isfinite(value)]
    if not ours or not theirs:
        return "no final MSE"
    a, b = median(ours), median(theirs)
    overlap = min(ours) <= max(theirs) and min(theirs) <= max(ours)
    same = overlap or abs(a - b) <= AGREEMENT * max(a, b)
    return f"MSE {a:.4f} / {b:.4f}" + ("" if same else " DIFFERENT")


def paired_agreement(ours: Mapping[int, float], theirs: Mapping[int, float]) -> str:
    """The same for final errors of the same configurations: the median difference counts."""
    pairs = [(ours[line], theirs[line]) for line in ours if line in theirs]
    if not pairs:
        return "no final MSE"
    apart = median(abs(a - b) / max(a, b) for a, b in pairs)
    return f"final MSE {apart:.0%} apart" + ("" if apart <= AGREEMENT else ", DIFFERENT")


def write_csv(path: Path, rows: Sequence[Row]) -> list[Row]:
    """Write ``rows``, keeping those of an earlier run that were not measured now."""
    now = {row.key for row in rows}
    everything = [row for row in read_csv(path) if row.key not in now] + list(rows)
    everything.sort(key=lambda row: _place(row.section))
    columns = [field.name for field in fields(Row)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, [*columns, "ratio", "met"], lineterminator="\n")
        table.writeheader()
        for row in everything:
            ratio = "" if row.ratio is None else f"{row.ratio:.3f}"
            met = "" if row.met is None else str(row.met)
            values = {name: _written(value) for name, value in asdict(row).items()}
            table.writerow({**values, "ratio": ratio, "met": met})
    return everything


def read_csv(path: Path) -> list[Row]:
    """The rows of a file by `write_csv`; none when there is no file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [_row(values) for values in csv.DictReader(file)]


def _row(values: dict[str, str]) -> Row:
    return Row(
        section=values["section"],
        what=values["what"],
        peer=values["peer"],
        ours=_number(values["ours"]),
        theirs=_number(values["theirs"]),
        unit=values["unit"],
        more_is_better=values["more_is_better"] == "True",
        target=_number(values["target"]),
        note=values["note"],
        form=values["form"],
        measured=values["measured"],
        machine=values["machine"],
    )


SECTIONS = ("training", "frameworks", "study", "start-up", "growth", "pandas", "workers", "scale")


def _place(section: str) -> int:
    return SECTIONS.index(section) if section in SECTIONS else len(SECTIONS)


def _number(written: str) -> float | None:
    return float(written) if written else None


def _written(value: object) -> object:
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else value
