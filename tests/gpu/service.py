"""Trials an hour of the whole service on one GPU, beside Optuna's PyTorch example; and packing.

    python -m tests.gpu --only service ...

The service is `make study NAME=cae` as it stands: Fashion-MNIST, 20 epochs, random search, median
pruner, trial database, pictures. Packing is the same training without all that, in k processes
that start at the same time, with and without NVIDIA's MPS.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from search.supervisor.process import KEEP_MEMORY
from tests.benchmarks import processes
from tests.benchmarks.processes import PYTHON, Team, environment
from tests.gpu.commands import Person, data_of, prepare, python_path
from tests.gpu.part import Row, Settings

WIDTH = {"channels": 7, "latent": 36}  # in the middle of the study's space
TAIL = 15.0  # seconds at the end of a search that are its steady pace
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


def measure(settings: Settings) -> Iterator[Row]:
    if settings.on_gpu:
        processes.PATIENCE = 45.0  # a process that hangs costs no more
    images = prepare(settings)
    pace: list[Pace] = []
    rates: dict[str, dict[int, float]] = {}

    def serve() -> Iterator[Row]:
        yield from measure_service(settings, pace)

    def compare() -> Iterator[Row]:
        yield from measure_peer(settings, pace)

    def pack() -> Iterator[Row]:
        rates["packed"] = measure_packing(settings, images, pace, "log")
        yield from packing_rows("k processes", rates["packed"])
        yield from choice_rows(settings, rates["packed"], pace)

    def pack_with_mps() -> Iterator[Row]:
        yield from measure_mps(settings, images, pace, rates)

    for name, part in (
        ("trials an hour", serve),
        ("Optuna's example", compare),
        ("packing", pack),
        ("packing with MPS", pack_with_mps),
    ):
        yield from contained(name, part)


def contained(name: str, part: Callable[[], Iterable[Row]]) -> Iterator[Row]:
    """Yield a part's rows; one that fails costs what it still has."""
    try:
        yield from part()
    except Exception as error:
        print(f"{name} failed:", *traceback.format_exception(error))
        yield Row(name=name, found=f"{type(error).__name__}: {error}"[:240], ok=False)


# ---- the whole service ----


def measure_service(settings: Settings, pace: list[Pace]) -> Iterator[Row]:
    """Search for a fixed time with the workers that the supervisor chooses."""
    person = Person(settings, "service")
    given: dict[str, object] = {"NAME": "cae", "TRIALS": 2000, "MINUTES": 0.75}
    if settings.tiny:
        given |= {"DATA": data_of(settings), "MINUTES": 0.4, "EPOCHS": 3}
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
        name="service: exit code 0",
        found=done.brief,
        ok=done.code == 0 and not person.traceback(),
        about=person.traceback(),
    )
    training = [each for each in looks if each.epochs]
    last = next(each for each in training if each.epochs == training[-1].epochs)
    growing = [each for each in training if each.at <= last.at]
    first, late = growing[0], next(each for each in growing if each.at >= last.at - TAIL)
    (study,) = {path.name for path in (person.runs / "logs").iterdir()}
    frame = person.trials(study)
    over = frame[frame["state"].isin(["COMPLETE", "PRUNED"])]
    if over.empty:
        yield Row(name="service: trials an hour", found="no trial has ended", ok=False)
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
        name="service: trials an hour, steady",
        found=pace[0].trials,
        unit="trials/h",
        about=f"{steady:.2f} trial-epochs/s in the last {last.at - late.at:.0f} s of the search, "
        f"{mean:.1f} epochs a trial, {pace[0].pruned:.0%} pruned, {pace[0].workers} workers",
    )
    yield Row(
        name="service: trials an hour, from the first epoch on",
        found=3600 * (last.ended - first.ended) / max(whole, 1e-9),
        unit="trials/h",
        about=f"{last.ended} trials and {last.epochs} epochs in {whole:.0f} s, while workers are "
        f"added; the first epoch ended {first.at - began:.1f} s after the command",
    )
    yield Row(
        name="service: best value",
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
            name="service: times the trials an hour of Optuna's example",
            found=pace[0].trials / trials,
            unit="x",
            about=f"one GPU, {pace[0].workers} workers of ours, one process of the example",
        )


# ---- packing ----


def measure_packing(
    settings: Settings,
    images: Path,
    pace: list[Pace],
    log: str,
    pipes: dict[str, str] | None = None,
) -> dict[int, float]:
    """Processes at once -> trial-epochs a second of all together.

    All are started once. Those that have nothing to do wait, with a context on the GPU.
    pipes: the environment of MPS
    """
    cores = os.cpu_count() or 1
    counts = [1, 2] if settings.tiny else [1, 2, 4, 6, 8, 12, 16]
    counts = [count for count in counts if count <= max(cores, 2)]
    if pace and pace[0].workers <= counts[-1]:
        counts = sorted({*counts, pace[0].workers})
    epochs, repeats = (1, 1) if settings.tiny else (5, 2)
    command = [
        PYTHON, "-m", "tests.benchmarks.trainee", "ours", str(images),
        "--device", settings.device,
    ]  # fmt: skip
    env = measured_environment({**KEEP_MEMORY, **(pipes or {})})
    rates: dict[int, float] = {}
    with Team(command, count=counts[-1], log=settings.work / log, env=env) as team:
        everyone = team.processes
        team.ask({"job": "train", "epochs": 1, **WIDTH})  # all kernels, of all batch sizes
        for count in counts:
            team.processes = everyone[:count]
            try:
                times = [
                    team.ask({"job": "train", "epochs": epochs, **WIDTH})[1] for _ in range(repeats)
                ]
            finally:
                team.processes = everyone
            rates[count] = count * epochs / median(times)
            print(f"{log}: {count} at once, {rates[count]:.2f} trial-epochs/s", flush=True)
    return rates


def measured_environment(given: dict[str, str] | None = None) -> dict[str, str]:
    """Return the environment of processes that are measured: one thread each."""
    return {**environment(given, threads=1), "PYTHONPATH": python_path()}


def packing_rows(name: str, rates: dict[int, float]) -> Iterator[Row]:
    best = max(rates, key=lambda count: rates[count])
    yield Row(
        name=f"{name}: best trial-epochs a second",
        found=rates[best],
        unit="/s",
        about=f"{best} at once, {rates[best] / rates[1]:.2f}x one; "
        + ", ".join(f"{count}: {rate:.2f}" for count, rate in rates.items()),
    )


def choice_rows(settings: Settings, rates: dict[int, float], pace: list[Pace]) -> Iterator[Row]:
    """How far the supervisor's own choice is from the best fixed number."""
    if not pace:
        return
    chosen = pace[0].workers
    best = max(rates.values())
    if chosen in rates:
        yield Row(
            name="packing: what the supervisor's number loses of the best fixed one",
            found=1 - rates[chosen] / best,
            limit=0.1 if settings.on_gpu else None,  # on a CPU nothing is chosen
            about=f"it chose {chosen} by the end of the search",
        )
    yield Row(
        name="service: share of what the same processes train without the service",
        found=pace[0].epochs / rates.get(chosen, best),
        about=f"{pace[0].epochs:.2f} of {rates.get(chosen, best):.2f} trial-epochs/s; trials of "
        f"the service draw their widths at random, these are all {WIDTH}",
    )


def measure_mps(
    settings: Settings, images: Path, pace: list[Pace], rates: dict[str, dict[int, float]]
) -> Iterator[Row]:
    """The same processes as clients of one MPS server."""
    control = shutil.which("nvidia-cuda-mps-control")
    if control is None or not settings.on_gpu:
        yield Row(name="packing with MPS", found="not measured: no nvidia-cuda-mps-control here")
        return
    with mps_server(control, settings.work) as pipes:
        found = measure_packing(settings, images, pace, "log-mps", pipes)
    yield from packing_rows("k processes with MPS", found)
    before = rates.get("packed")
    if before:
        yield Row(
            name="MPS: times the best without it",
            found=max(found.values()) / max(before.values()),
            unit="x",
        )


@contextmanager
def mps_server(control: str, work: Path) -> Iterator[dict[str, str]]:
    """Run MPS with folders of its own; yields what its clients' environment says."""
    pipes = {
        "CUDA_MPS_PIPE_DIRECTORY": str(work / "mps-pipe"),
        "CUDA_MPS_LOG_DIRECTORY": str(work / "mps-log"),
    }
    for folder in pipes.values():
        Path(folder).mkdir(parents=True, exist_ok=True)
    env = {**os.environ, **pipes}
    subprocess.run([control, "-d"], env=env, check=True, timeout=15, stdin=subprocess.DEVNULL)
    try:
        yield pipes
    finally:
        with suppress(subprocess.SubprocessError):
            subprocess.run([control], input="quit\n", text=True, env=env, timeout=20, check=False)
        for file in sorted((work / "mps-log").glob("*.log")):
            text = file.read_text(encoding="utf-8", errors="replace")
            print(f"{file.name}:", *text.splitlines()[-5:], sep="\n")
