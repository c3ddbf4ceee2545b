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

import pandas as pd

from tests.benchmarks import processes
from tests.benchmarks.processes import PYTHON, Team
from tests.gpu.clock import contain
from tests.gpu.commands import Done, Person, data_of, measured_environment, prepare
from tests.gpu.part import Row, Settings

PACE = "pace.json"
TRIALS = 50  # of the search that is set beside Optuna's example
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
    found: list[Searched] = []
    yield from contain("cae: the service", measure_service(settings, "cae", found, TRIALS=TRIALS))
    if found and found[0].pace is not None:
        found[0].pace.write(settings)
    yield from contain("Optuna's example", measure_peer(settings, found))
    fused = measure_service(settings, "cae_27", [], FUSE="auto", MINUTES=0.6)
    yield from contain("cae_27, fused: the service", fused)


# ---- the whole service ----


@dataclass(frozen=True, kw_only=True)
class Searched:
    """A search that has ended.

    began: seconds since 1970; looks: at its database; joined: workers that were added
    trials: that have a value
    """

    study: str
    began: float
    looks: list[Look]
    joined: int
    trials: pd.DataFrame

    @property
    def growing(self) -> list[Look]:
        """The looks from the first epoch to the last one."""
        training = [each for each in self.looks if each.epochs]
        last = next(each for each in training if each.epochs == training[-1].epochs)
        return [each for each in training if each.at <= last.at]

    @property
    def pace(self) -> Pace | None:
        """What the service did; None if no trial has ended."""
        if self.trials.empty:
            return None
        last = self.growing[-1]
        late = next(each for each in self.growing if each.at >= last.at - TAIL)
        mean = float(self.trials["epochs"].mean())
        epochs = (last.epochs - late.epochs) / max(last.at - late.at, 1e-9)
        return Pace(
            workers=1 + self.joined,
            epochs=epochs,
            trials=3600 * epochs / mean,
            trial_epochs=mean,
            pruned=float((self.trials["state"] == "PRUNED").mean()),
        )

    def until_best(self, rate: float) -> tuple[float, float]:
        """Return the seconds until the best of all trials had ended: here, and of one process.

        rate: epochs a second of a process that trains the same trials, one after the other
        """
        best = self.trials.sort_values("value").iloc[0]
        before = self.trials[self.trials["number"] <= best["number"]]
        ours = best["ended"].replace(tzinfo=None).timestamp() - self.began
        return float(ours), float(before["epochs"].sum()) / rate


def measure_service(
    settings: Settings, study: str, found: list[Searched], **variables: object
) -> Iterator[Row]:
    """Search with the workers that the supervisor chooses; the search is added to ``found``."""
    person = Person(settings, f"service-{study}")
    given: dict[str, object] = {"NAME": study, "TRIALS": 2000, "MINUTES": 1.5, **variables}
    if settings.tiny:
        given |= {"DATA": data_of(settings), "MINUTES": 0.1, "EPOCHS": 2}
    if not settings.on_gpu:
        given["WORKERS"] = 1
    done, searched = search(person, study, given)
    yield Row(
        name=f"{study}: exit code 0",
        found=done.brief,
        ok=done.code == 0 and not person.traceback(),
        about=person.traceback(),
    )
    pace = searched.pace
    if pace is None:
        yield Row(name=f"{study}: trials an hour", found="no trial has ended", ok=False)
        return
    found.append(searched)
    first, last = searched.growing[0], searched.growing[-1]
    yield Row(
        name=f"{study}: trials an hour, steady",
        found=pace.trials,
        unit="trials/h",
        about=f"{pace.epochs:.2f} trial-epochs/s in the last {TAIL:.0f} s of the search, "
        f"{pace.trial_epochs:.1f} epochs a trial, {pace.pruned:.0%} pruned, {pace.workers} workers",
    )
    yield Row(
        name=f"{study}: trials an hour, from the first epoch on",
        found=3600 * (last.ended - first.ended) / max(last.at - first.at, 1e-9),
        unit="trials/h",
        about=f"{last.ended} trials and {last.epochs} epochs in {last.at - first.at:.0f} s, while "
        "workers are added",
    )
    yield Row(
        name=f"{study}: best value",
        found=float(searched.trials["value"].min()),
        about=f"mse, of {len(searched.trials)} trials",
    )


def search(person: Person, study: str, given: dict[str, object]) -> tuple[Done, Searched]:
    """Give the command, and look at its database until it ends."""
    said, clock, began = person.said(), time.monotonic(), time.time()
    process = person.start(**given)
    looks: list[Look] = []
    try:
        while process.poll() is None and time.monotonic() - clock < 600:
            looks += look(person.runs / "studies.db")
            time.sleep(0.5)
        done = person.wait(process, said, clock)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    (stored,) = {path.name for path in (person.runs / "logs").iterdir()}
    frame = person.trials(stored)
    return done, Searched(
        study=study,
        began=began,
        looks=looks,
        joined=sum("joins" in line for line in done.out.splitlines()),
        trials=frame[frame["state"].isin(["COMPLETE", "PRUNED"])],
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


def measure_peer(settings: Settings, searched: list[Searched]) -> Iterator[Row]:
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
    for each in searched:
        yield from compare_with_peer(each, rate)


def compare_with_peer(searched: Searched, rate: float) -> Iterator[Row]:
    """Set a search beside the example, which trains the same trials: pruned after as many epochs.

    rate: the example's epochs a second
    """
    pace = searched.pace
    assert pace is not None
    trials = 3600 * rate / pace.trial_epochs
    yield Row(
        name="Optuna's example: trials an hour",
        found=trials,
        unit="trials/h",
        about=f"of its epochs, with {pace.trial_epochs:.1f} epochs a trial",
    )
    yield Row(
        name=f"{searched.study}: times the trials an hour of Optuna's example",
        found=pace.trials / trials,
        unit="x",
        about=f"one GPU, {pace.workers} workers of ours, one process of the example",
    )
    ours, peers = searched.until_best(rate)
    yield Row(
        name=f"{searched.study}: until the best of {len(searched.trials)} trials",
        found=peers / ours,
        unit="x as soon",
        about=f"{ours:.0f} s after the command, with all that starts, beside {peers:.0f} s of the "
        "example's epochs alone, for the same trials in their order",
    )
