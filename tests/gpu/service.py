"""Trials an hour of the whole service on one GPU, beside Optuna's PyTorch example.

    python -m tests.gpu --only service ...

The service is `make study NAME=cae` as it stands: Fashion-MNIST, 20 epochs, random search, median
pruner, trial database, pictures. A second search is `make study NAME=cae_27 FUSE=auto`, whose
trials agree in their shapes.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.benchmarks import processes
from tests.benchmarks.processes import PYTHON, Team
from tests.gpu.clock import contain
from tests.gpu.commands import Person, data_of, measured_environment, prepare
from tests.gpu.part import Row, Settings

PACE = "pace.json"
WIDTH = {"channels": 7, "latent": 36}  # in the middle of the study's space
TAIL = 12.0  # seconds at the end of a search that are its steady pace
EPOCHS = "SELECT count(*) FROM trial_intermediate_values"
ENDED = "SELECT count(*) FROM trials WHERE state IN ('COMPLETE', 'PRUNED', 'FAIL')"


@dataclass(frozen=True, kw_only=True)
class Look:
    """What the trial database had, and when: on the monotonic clock."""

    at: float
    epochs: int
    ended: int


@dataclass(frozen=True, kw_only=True)
class Pace:
    """What the service did.

    workers: on the GPU at the end; epochs: a second, and trials an hour, in its last seconds
    trial_epochs: that an ended trial took in the mean; pruned: share of the ended trials
    """

    workers: int
    epochs: float
    trials: float
    trial_epochs: float
    pruned: float

    def write(self, settings: Settings) -> None:
        """Keep it for the part that measures packing."""
        (settings.out / PACE).write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, settings: Settings) -> Pace | None:
        """Return what the service did; None if it was not measured."""
        file = settings.out / PACE
        return cls(**json.loads(file.read_text(encoding="utf-8"))) if file.exists() else None


def measure(settings: Settings) -> Iterator[Row]:
    if settings.on_gpu:
        processes.PATIENCE = 45.0  # a process that hangs costs no more
    prepare(settings)
    pace: list[Pace] = []
    yield from contain("cae: the service", measure_service(settings, "cae", pace))
    if pace:
        pace[0].write(settings)
    yield from contain("Optuna's example", measure_peer(settings, pace))
    fused = measure_service(settings, "cae_27", [], FUSE="auto")
    yield from contain("cae_27, fused: the service", fused)


# ---- the whole service ----


def measure_service(
    settings: Settings, study: str, pace: list[Pace], **variables: object
) -> Iterator[Row]:
    """Search for a fixed time with the workers that the supervisor chooses; adds what it did."""
    person = Person(settings, f"service-{study}")
    given: dict[str, object] = {"NAME": study, "TRIALS": 2000, "MINUTES": 0.6, **variables}
    if settings.tiny:
        given |= {"DATA": data_of(settings), "MINUTES": 0.1, "EPOCHS": 2}
    if not settings.on_gpu:
        given["WORKERS"] = 1
    before, began = person.said(), time.monotonic()
    process = person.start(**given)
    looks: list[Look] = []
    try:
        while process.poll() is None and time.monotonic() - began < 600:
            looks += look(person.runs / "studies.db")
            time.sleep(0.5)
        done = person.wait(process, before, began)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    yield Row(
        name=f"{study}: exit code 0",
        found=done.brief,
        ok=done.code == 0 and not person.traceback(),
        about=person.traceback(),
    )
    training = [each for each in looks if each.epochs]
    last = next(each for each in training if each.epochs == training[-1].epochs)
    growing = [each for each in training if each.at <= last.at]
    first, late = growing[0], next(each for each in growing if each.at >= last.at - TAIL)
    (stored,) = {path.name for path in (person.runs / "logs").iterdir()}
    frame = person.trials(stored)
    over = frame[frame["state"].isin(["COMPLETE", "PRUNED"])]
    if over.empty:
        yield Row(name=f"{study}: trials an hour", found="no trial has ended", ok=False)
        return
    mean = float(over["epochs"].mean())
    joined = sum("joins" in line for line in done.out.splitlines())
    steady = (last.epochs - late.epochs) / max(last.at - late.at, 1e-9)
    pace.append(
        Pace(
            workers=1 + joined,
            epochs=steady,
            trials=3600 * steady / mean,
            trial_epochs=mean,
            pruned=float((over["state"] == "PRUNED").mean()),
        )
    )
    whole = last.at - first.at
    yield Row(
        name=f"{study}: trials an hour, steady",
        found=pace[0].trials,
        unit="trials/h",
        about=f"{steady:.2f} trial-epochs/s in the last {last.at - late.at:.0f} s of the search, "
        f"{mean:.1f} epochs a trial, {pace[0].pruned:.0%} pruned, {pace[0].workers} workers",
    )
    yield Row(
        name=f"{study}: trials an hour, from the first epoch on",
        found=3600 * (last.ended - first.ended) / max(whole, 1e-9),
        unit="trials/h",
        about=f"{last.ended} trials and {last.epochs} epochs in {whole:.0f} s, while workers are "
        f"added; the first epoch ended {first.at - began:.1f} s after the command",
    )
    yield Row(
        name=f"{study}: best value",
        found=float(over["value"].min()),
        about=f"mse, of {len(over)} trials",
    )


def look(database: Path) -> list[Look]:
    """Return what the database has now; nothing while it is made."""
    if not database.exists():
        return []
    with suppress(sqlite3.OperationalError):
        opened = sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=2)
        with closing(opened) as connection:
            (epochs,) = connection.execute(EPOCHS).fetchone()
            (ended,) = connection.execute(ENDED).fetchone()
        return [Look(at=time.monotonic(), epochs=epochs, ended=ended)]
    return []


# ---- Optuna's example ----


def measure_peer(settings: Settings, pace: list[Pace]) -> Iterator[Row]:
    """Epochs a second of the example, in one process with a DataLoader of up to 8 workers."""
    cores = os.cpu_count() or 1
    loading = 0 if settings.tiny else min(cores, 8)
    command = [
        PYTHON, "-m", "tests.benchmarks.trainee", "peer", str(settings.data),
        "--device", settings.device, "--workers", str(loading),
        *(["--images", "2560"] if settings.tiny else []),
    ]  # fmt: skip
    epochs = 1 if settings.tiny else 2
    with Team(command, count=1, log=settings.work / "peer", env=measured_environment()) as team:
        team.ask({"job": "warm", **WIDTH})
        _, first = team.ask({"job": "train", "epochs": 1, **WIDTH})  # starts the loaders
        _, seconds = team.ask({"job": "train", "epochs": epochs, **WIDTH})
    rate = epochs / seconds
    about = (
        f"one process, {loading} DataLoader workers, {WIDTH}; {epochs} epochs in {seconds:.1f} s "
        f"(the first, which starts the loaders, in {first:.1f} s), no database, no pruner"
    )
    yield Row(name="Optuna's example: trial-epochs a second", found=rate, about=about)
    if pace:
        trials = 3600 * rate / pace[0].trial_epochs
        yield Row(
            name="Optuna's example: trials an hour",
            found=trials,
            unit="trials/h",
            about=f"of its epochs, with {pace[0].trial_epochs:.1f} epochs a trial: the same share "
            "is pruned as in the service",
        )
        yield Row(
            name="cae: times the trials an hour of Optuna's example",
            found=pace[0].trials / trials,
            unit="x",
            about=f"one GPU, {pace[0].workers} workers of ours, one process of the example",
        )
