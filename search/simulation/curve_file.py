"""The curves of a study in one small Parquet file, apart from its trial database.

    write_curve_file(path, stored)
    stored = read_curve_file(path)        # raises `NoCurves` for another file

A row a trial and epoch: number, epoch (from 1), value, seconds, outcome of the trial. What the
study was made with stands in the file's metadata.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from search.simulation.stored_curves import AboutStudy, Curve, NoCurves, StoredCurves
from storage.errors import short
from storage.files.atomic import atomic_file

ABOUT = "genstudy"  # key of the metadata
COLUMNS = ("number", "epoch", "value", "seconds", "outcome")


def write_curve_file(path: Path, stored: StoredCurves) -> None:
    """Write the curves as Parquet: number, epoch (from 1), value, seconds, outcome."""
    import pandas as pd

    rows = [
        (curve.number, epoch, value, seconds, curve.outcome)
        for curve in stored.curves
        for epoch, (value, seconds) in enumerate(
            zip(curve.values, curve.seconds, strict=True), start=1
        )
    ]
    frame = pd.DataFrame(rows, columns=list(COLUMNS)).astype(
        {"number": "int32", "epoch": "int32", "seconds": "float32", "outcome": "category"}
    )
    frame.attrs[ABOUT] = asdict(stored.about)
    with atomic_file(path) as beside:
        frame.to_parquet(beside, index=False, compression="zstd")


def read_curve_file(path: Path) -> StoredCurves:
    """Return the curves of a file that `write_curve_file` wrote. Raises `NoCurves` for another."""
    import pandas as pd

    try:
        frame = pd.read_parquet(path)
        about = _about_of(frame.attrs[ABOUT])
        rows = {
            its["number"].iloc[0].item(): (str(its["outcome"].iloc[0]), its.sort_values("epoch"))
            for _, its in frame[list(COLUMNS)].groupby("number")
        }
    except FileNotFoundError as error:
        raise NoCurves(f"there is no file {short(str(path))}; name a study or a file") from error
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise NoCurves(
            f"{short(str(path))} holds no curves of a study ({type(error).__name__}); name the "
            "study itself, or a file that was made of it"
        ) from error
    found = tuple(
        Curve(
            number=number,
            outcome=outcome,
            values=tuple(map(float, its["value"])),
            seconds=tuple(map(float, its["seconds"])),
        )
        for number, (outcome, its) in rows.items()
    )
    return StoredCurves(about=about, curves=found)


def _about_of(plain: Mapping[str, Any]) -> AboutStudy:
    """Return what the metadata hold; raises `TypeError` for another thing."""
    found = AboutStudy(**{**plain, "goals": ()})
    if not (isinstance(found.study, str) and isinstance(found.epochs, int)):
        raise TypeError("it is not what `write_curve_file` writes")
    return found
