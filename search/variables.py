"""The variables of every target: ``make study NAME=cae TRIALS=10``.

They reach Python through the environment. Unset means the study's own value.
Each is checked here, so that a typing mistake is one line and not a lost night.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from search.errors import BadVariable, unknown_name
from storage.database.connection import absolute_url
from storage.errors import short
from storage.paths import RunPaths

MOST = 1_000_000  # minutes: two years; or GiB

# name -> what it means, for `make help` and for messages
VARIABLES = {
    "NAME": "a study's name, or the path of a study file",
    "TRIALS": "trials of the study in all",
    "EPOCHS": "most epochs of a trial",
    "RETRAIN_EPOCHS": "most epochs of a retraining",
    "MINUTES": "at most so long a search; what runs then goes on next time",
    "TRIAL_MINUTES": "at most so long a trial; then it ends as interrupted",
    "MEMORY": "GiB that each worker may take; a trial that needs more is infeasible",
    "WORKERS": "processes that train at once",
    "GPUS": "0,1: these GPUs; none: CPU only; unset: all GPUs, else the CPU",
    "DATA": "fashion_mnist, mnist, stacked_mnist, digits or folder:PATH",
    "DATA_ROOT": "where torchvision's sets lie or are downloaded to (default data)",
    "STORAGE": "postgresql://USER:PASSWORD@HOST/DATABASE (default SQLite under RUNS)",
    "SEED": "all random choices follow from it",
    "RUNS": "folder of everything that is written (default runs)",
    "TOP": "how many of the best are retrained and exported (default 3; 0: search only)",
    "SAMPLER": "random, tpe, gp, cmaes, qmc, grid, preference (by eye); 'tpe(n_startup_trials=5)'",
    "PRUNER": "median, hyperband, successive_halving, percentile, none; with arguments",
    "FIRST": "1: a study that starts from another's export runs that one first if it has none",
    "FROM": "folder of the export to start from (default: the best of the study it needs)",
    "CSV": "file that `make trials` writes the table to",
    "PARQUET": "file that `make trials` writes the table to",
    "HOST": "address of the dashboard (default 127.0.0.1: this machine only)",
    "PORT": "port of the dashboard (default 8080)",
}


@dataclass(frozen=True, kw_only=True)
class Variables:
    """All variables, read and checked; None where unset."""

    name: str | None = None
    trials: int | None = None
    epochs: int | None = None
    retrain_epochs: int | None = None
    minutes: float | None = None
    trial_minutes: float | None = None
    memory: float | None = None  # GiB
    workers: int | None = None
    gpus: tuple[int, ...] | None = None  # (): CPU only
    data: str | None = None
    data_root: Path = Path("data")
    storage: str | None = None
    seed: int | None = None
    runs: Path = Path("runs")
    top: int = 3
    sampler: str | None = None
    pruner: str | None = None
    first: bool = False
    start: Path | None = None  # FROM
    csv: Path | None = None
    parquet: Path | None = None
    host: str = "127.0.0.1"
    port: int = 8080

    @property
    def paths(self) -> RunPaths:
        return RunPaths(self.runs)

    @property
    def storage_url(self) -> str:
        return self.storage or self.paths.database_url

    @property
    def needed_name(self) -> str:
        if self.name is None:
            raise BadVariable("NAME is not set; say which study: make study NAME=cae")
        return self.name


def read_variables(given: Mapping[str, str] = os.environ) -> Variables:
    """Variables from the environment; raises `BadVariable` for the first that is wrong.

    GENSTUDY_GIVEN, set by the Makefile, names what stood on make's command line, so
    that ``TRAILS=5`` is refused rather than ignored.
    """
    for name in given.get("GENSTUDY_GIVEN", "").split():
        if name not in VARIABLES:
            raise BadVariable(unknown_name("variable", name, VARIABLES))
    values = {name: given[name].strip() for name in VARIABLES if given.get(name, "").strip()}
    for name, written in values.items():
        if "\0" in written or any("\ud800" <= letter <= "\udfff" for letter in written):
            raise BadVariable(f"{name} is not UTF-8 text; write it with other characters")
    gpus = values.get("GPUS")
    storage = values.get("STORAGE")
    if storage is not None:
        storage = absolute_url(storage)
    return Variables(
        name=values.get("NAME"),
        trials=_whole(values, "TRIALS", 1),
        epochs=_whole(values, "EPOCHS", 1),
        retrain_epochs=_whole(values, "RETRAIN_EPOCHS", 1),
        minutes=_amount(values, "MINUTES", "minutes"),
        trial_minutes=_amount(values, "TRIAL_MINUTES", "minutes"),
        memory=_amount(values, "MEMORY", "GiB"),
        workers=_whole(values, "WORKERS", 1, 512),
        gpus=None if gpus is None else _gpus(gpus),
        data=_data(values.get("DATA")),
        data_root=_path(values, "DATA_ROOT", "data"),
        storage=storage,
        seed=_whole(values, "SEED", 0),
        runs=_runs(values),
        top=_whole({"TOP": "3", **values}, "TOP", 0, 1000) or 0,
        sampler=values.get("SAMPLER"),
        pruner=values.get("PRUNER"),
        first=_whole(values, "FIRST", 0, 1) == 1,
        start=_path(values, "FROM", "") if "FROM" in values else None,
        csv=_path(values, "CSV", "") if "CSV" in values else None,
        parquet=_path(values, "PARQUET", "") if "PARQUET" in values else None,
        host=values.get("HOST", "127.0.0.1"),
        port=_whole(values, "PORT", 1, 65535) or 8080,
    )


def _whole(values: Mapping[str, str], name: str, low: int, high: int = 1_000_000_000) -> int | None:
    written = values.get(name)
    if written is None:
        return None
    if not (written.isascii() and written.isdigit() and low <= int(written[:20]) <= high):
        raise BadVariable(f"{name}={_shown(written)} is not a whole number from {low} to {high}")
    return int(written)


def _amount(values: Mapping[str, str], name: str, unit: str) -> float | None:
    written = values.get(name)
    if written is None:
        return None
    plain = written.isascii() and written.replace(".", "", 1).isdigit() and len(written) < 12
    if not (plain and 0 < float(written) <= MOST):
        raise BadVariable(
            f"{name}={_shown(written)} is not a number of {unit} above 0, up to {MOST}"
        )
    return float(written)


def _gpus(written: str) -> tuple[int, ...]:
    if written.lower() == "none":
        return ()
    parts = [part.strip() for part in written.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) < 5 for part in parts):
        raise BadVariable(f"GPUS={_shown(written)} is neither 'none' nor numbers such as 0,1")
    numbers = tuple(int(part) for part in parts)
    if len(set(numbers)) < len(numbers):
        raise BadVariable(
            f"GPUS={_shown(written)} names a GPU twice; WORKERS=N puts several on one"
        )
    return numbers


def _data(written: str | None) -> str | None:
    """Folders become absolute, so that a name means the same place from everywhere."""
    kind, colon, place = (written or "").partition(":")
    if written and kind == "folder" and colon and place:
        return f"folder:{_absolute('DATA', place)}"
    return written


def _runs(values: Mapping[str, str]) -> Path:
    runs = _path(values, "RUNS", "runs")
    if "?" in str(runs):
        raise BadVariable(f"RUNS={_shown(str(runs))} holds a '?', which ends the database's path")
    return runs


def _path(values: Mapping[str, str], name: str, default: str) -> Path:
    return _absolute(name, values.get(name, default))


def _absolute(name: str, written: str) -> Path:
    try:
        return Path(written).expanduser().absolute()
    except RuntimeError as error:  # ~nobody
        raise BadVariable(f"{name}={_shown(written)}: no such user; write the path out") from error


def _shown(written: str) -> str:
    return short(repr(written))
