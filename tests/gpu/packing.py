"""Trial-epochs a second of k processes on one GPU, with and without NVIDIA's MPS.

    python -m tests.gpu --only service,packing ...

It is the training of `tests.gpu.service` without all else, in processes that start together.
If the service was measured before, its number of workers is held against the best fixed one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from search.supervisor.process import KEEP_MEMORY
from tests.benchmarks import processes
from tests.benchmarks.processes import PYTHON, Team
from tests.gpu.clock import contain
from tests.gpu.commands import measured_environment, prepare
from tests.gpu.part import Row, Settings
from tests.gpu.service import WIDTH, Pace

COUNTS = (16, 8, 4, 1, 2, 12, 6)  # processes at once, the most telling first
EPOCHS = 2
Rates = dict[int, float]
"""Processes at once -> trial-epochs a second of all together."""


def measure(settings: Settings) -> Iterator[Row]:
    if settings.on_gpu:
        processes.PATIENCE = 45.0  # a process that hangs costs no more
    images, pace = prepare(settings), Pace.read(settings)
    alone: Rates = {}
    yield from contain("packing", measure_packing(settings, images, pace, "k processes", alone))
    yield from contain("packing", compare_choice(settings, alone, pace))
    yield from contain("packing with MPS", measure_mps(settings, images, pace, alone))


def measure_packing(
    settings: Settings,
    images: Path,
    pace: Pace | None,
    name: str,
    rates: Rates,
    pipes: dict[str, str] | None = None,
) -> Iterator[Row]:
    """Time so many processes at once; all are started before, and those without work wait.

    pipes: the environment of MPS
    """
    most = max(os.cpu_count() or 1, 2)
    counts = [1, 2] if settings.tiny else [count for count in COUNTS if count <= most]
    if pace is not None and pace.workers <= max(counts) and pace.workers not in counts:
        counts.append(pace.workers)
    epochs = 1 if settings.tiny else EPOCHS
    command = [
        PYTHON, "-m", "tests.benchmarks.trainee", "ours", str(images),
        "--device", settings.device, *(["--images", "1280"] if settings.tiny else []),
    ]  # fmt: skip
    env = measured_environment({**KEEP_MEMORY, **(pipes or {})})
    with Team(command, count=max(counts), log=settings.work / f"{name}.log", env=env) as team:
        team.ask({"job": "train", "epochs": 1, **WIDTH})  # all kernels, of all batch sizes
        for count in counts:
            _, seconds = team.ask({"job": "train", "epochs": epochs, **WIDTH}, first=count)
            rates[count] = count * epochs / seconds
            yield Row(name=f"{name}, {count} at once", found=rates[count], unit="trial-epochs/s")
    best = max(rates, key=lambda count: rates[count])
    yield Row(
        name=f"{name}: the best over one process",
        found=rates[best] / rates[1],
        unit="x",
        about=f"{best} at once",
    )


def compare_choice(settings: Settings, rates: Rates, pace: Pace | None) -> Iterator[Row]:
    """Say how far the supervisor's own choice is from the best fixed number."""
    if pace is None:
        return
    chosen = pace.workers
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
        found=pace.epochs / rates.get(chosen, best),
        about=f"{pace.epochs:.2f} of {rates.get(chosen, best):.2f} trial-epochs/s; trials of "
        f"the service draw their widths at random, these are all {WIDTH}",
    )


def measure_mps(settings: Settings, images: Path, pace: Pace | None, alone: Rates) -> Iterator[Row]:
    """The same processes as clients of one MPS server."""
    control = shutil.which("nvidia-cuda-mps-control")
    if control is None or not settings.on_gpu:
        yield Row(name="packing with MPS", found="not measured: no nvidia-cuda-mps-control here")
        return
    rates: Rates = {}
    with mps_server(control, settings.work) as pipes:
        yield from measure_packing(settings, images, pace, "k processes with MPS", rates, pipes)
    if alone:
        best, without = max(rates.values()), max(alone.values())
        yield Row(name="MPS: times the best without it", found=best / without, unit="x")


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
    # the server outlives this part if that is killed, and must not hold its output open
    nothing = subprocess.DEVNULL
    subprocess.run(
        [control, "-d"], env=env, check=True, timeout=15,
        stdin=nothing, stdout=nothing, stderr=nothing,
    )  # fmt: skip
    try:
        yield pipes
    finally:
        with suppress(subprocess.SubprocessError):
            subprocess.run([control], input="quit\n", text=True, env=env, timeout=20, check=False)
        for file in sorted((work / "mps-log").glob("*.log")):
            text = file.read_text(encoding="utf-8", errors="replace")
            print(f"{file.name}:", *text.splitlines()[-5:], sep="\n")
