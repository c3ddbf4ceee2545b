"""Trial-epochs a second of one GPU: Optuna's PyTorch example, and ours with 1 to 16 processes.

All processes are started at once and wait: while one side is measured the others do nothing. What
a process does once (imports, images, kernels) is not measured; what it does once a trial is: the
model, the recording of its step. An epoch trains on 187 batches of 256 images of Fashion-MNIST and
measures the error on 12,000.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from models.data.loading import prepare_images
from search.supervisor.process import KEEP_MEMORY
from tests.benchmarks.processes import PYTHON, Team, environment
from tests.benchmarks.sizes import WIDTHS
from tests.benchmarks.work import SHAPE
from tests.gpu.clock import contain
from tests.gpu.part import Row, Settings

SECONDS = 1.2  # of a measurement
COUNTS = (1, 2, 4, 8, 16)  # processes
FEW = 1280  # images of the tiny form
TARGET = 30.0  # times Optuna's example

Width = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Scale:
    """widths: (n, Z); counts: of processes; workers: of the peer's DataLoader; tiny: few images"""

    widths: tuple[Width, ...]
    counts: tuple[int, ...]
    workers: int
    tiny: bool

    @property
    def images(self) -> tuple[str, ...]:
        return ("--images", str(FEW)) if self.tiny else ()


def measure(settings: Settings) -> Iterator[Row]:
    cores = os.cpu_count() or 1
    scale = Scale(widths=WIDTHS, counts=COUNTS, workers=min(8, cores), tiny=False)
    if settings.tiny:
        scale = Scale(widths=WIDTHS[:1], counts=(1, 2), workers=1, tiny=True)
    cached = prepare_images(
        "fashion_mnist", root=settings.data, cache=settings.work.parent / "cache", shape=SHAPE
    )
    with ExitStack() as stack:
        peer = stack.enter_context(_peer(settings, scale, scale.workers))
        ours = stack.enter_context(_ours(settings, scale, cached))
        ours.ask({"job": "warm", "channels": 9, "latent": 27})
        peers: dict[Width, float] = {}
        yield from contain("Optuna's example", _measure_peer(peer, scale, peers))
        yield from contain("ours", _measure_ours(ours, scale, peers))
        if not settings.tiny:
            single = stack.enter_context(_peer(settings, scale, 0))
            yield from contain("Optuna's example, no workers", _measure_single(single, scale))


def _peer(settings: Settings, scale: Scale, workers: int) -> Team:
    command = (
        *(PYTHON, "-m", "tests.benchmarks.trainee", "peer", str(settings.data)),
        *("--device", settings.device, "--workers", str(workers), *scale.images),
    )
    return Team(
        command,
        count=1,
        log=settings.work / "peer.log",
        env=_environment(threads=1 if settings.tiny else None),
    )


def _ours(settings: Settings, scale: Scale, cached: Path) -> Team:
    command = (
        *(PYTHON, "-m", "tests.benchmarks.trainee", "ours", str(cached)),
        *("--device", settings.device, *scale.images),
    )
    env = _environment(threads=1)
    return Team(command, count=max(scale.counts), log=settings.work / "ours.log", env=env)


def _environment(*, threads: int | None) -> dict[str, str]:
    """Return what a process sees: as a worker's, and with the packages of this process."""
    given = {"PYTHONPATH": os.environ.get("PYTHONPATH", "")} if "PYTHONPATH" in os.environ else {}
    return environment({**(KEEP_MEMORY if threads == 1 else {}), **given}, threads=threads)


def _rate(team: Team, width: Width, *, count: int, epochs: int, eager: bool = False) -> float:
    """Return trial-epochs a second of ``count`` trials at once."""
    job = {"channels": width[0], "latent": width[1], "eager": eager}
    _, seconds = team.ask({"job": "train", "epochs": epochs, **job}, first=count)
    return count * epochs / seconds


def _measure_peer(team: Team, scale: Scale, found: dict[Width, float]) -> Iterator[Row]:
    team.ask({"job": "train", "epochs": 1, "channels": 9, "latent": 27})  # starts the workers
    for width in scale.widths:
        found[width] = _rate(team, width, count=1, epochs=1 if scale.tiny else 2)
        yield Row(
            name=f"Optuna's example, n {width[0]}, Z {width[1]}",
            found=found[width],
            unit="trial-epochs/s",
            about=f"DataLoader with {scale.workers} workers",
        )


def _measure_single(team: Team, scale: Scale) -> Iterator[Row]:
    """The data loader decides, and not the width: one width is enough."""
    width = scale.widths[0]
    team.ask({"job": "warm", "channels": width[0], "latent": width[1]})
    yield Row(
        name=f"Optuna's example, n {width[0]}, Z {width[1]}, no workers",
        found=_rate(team, width, count=1, epochs=1),
        unit="trial-epochs/s",
    )


def _measure_ours(team: Team, scale: Scale, peers: dict[Width, float]) -> Iterator[Row]:
    for width in scale.widths:
        name = f"ours, n {width[0]}, Z {width[1]}"
        for eager in (True, False):
            team.ask(
                {"job": "warm", "channels": width[0], "latent": width[1], "eager": eager},
                first=1 if eager else None,
            )
        guess = _rate(team, width, count=1, epochs=1 if scale.tiny else 5)
        eager_rate = _rate(team, width, count=1, epochs=_epochs(guess / 3, 1, scale), eager=True)
        yield Row(
            name=f"{name}, step by step", found=eager_rate, unit="trial-epochs/s", about="1 process"
        )
        rates: dict[int, float] = {}
        for count in scale.counts:
            guess = rates[count] = _rate(
                team, width, count=count, epochs=_epochs(guess, count, scale)
            )
            yield Row(name=f"{name}, captured, {count} at once", found=guess, unit="trial-epochs/s")
        yield from _compare(name, rates, eager_rate, peers.get(width))


def _epochs(rate: float, count: int, scale: Scale) -> int:
    """Return the epochs of each trial that take about `SECONDS` at ``rate`` trial-epochs/s."""
    return 1 if scale.tiny else min(100, max(3, round(SECONDS * rate / count)))


def _compare(name: str, rates: dict[int, float], eager: float, peer: float | None) -> Iterator[Row]:
    count, best = max(rates.items(), key=lambda item: item[1])
    yield Row(
        name=f"{name}: launch-bound share of an epoch",
        found=1 - eager / rates[1],
        about="what the capture saves of an epoch step by step",
    )
    yield Row(
        name=f"{name}: best packing over one process",
        found=best / rates[1],
        unit="x",
        about=f"{count} processes",
    )
    if peer is not None:
        yield Row(
            name=f"{name}: one process over Optuna's example", found=rates[1] / peer, unit="x"
        )
        yield Row(
            name=f"{name}: best packing over Optuna's example",
            found=best / peer,
            unit="x",
            about=f"{count} processes; the target is {TARGET:g}x",
        )
