"""The rows of one GPU, as a script for a machine without a network; its table comes last.

    python -m tests.benchmarks.gpu --data-root data

Bring the wheels of the product's dependencies and torchvision's Fashion-MNIST files along.
Trial-epochs a second of one GPU, with 1, 2, 4, ... processes on it, each a trial: ours as it is
(the step captured as a CUDA graph), ours step by step, and Optuna's PyTorch example. What the
capture saves is the launch-bound share of a step; the multiplications an epoch needs, over what
a matrix product does on the same GPU, is the share of the arithmetic limit.

Not a part of `make bench`, which measures what every machine has.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from models.data.loading import prepare_images
from search.supervisor.process import KEEP_MEMORY
from tests.benchmarks.processes import PYTHON, Team, environment
from tests.benchmarks.sizes import WIDTHS
from tests.benchmarks.work import SHAPE, epoch_gigaflops

EPOCHS = 5  # of each measurement
TRAIN, VALID = 187 * 256, 12_000
TARGET = 30.0


@dataclass(frozen=True, kw_only=True)
class Side:
    """What is measured, and with how many processes at most."""

    name: str
    arguments: tuple[str, ...]
    most: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--most", type=int, default=16, help="processes on the GPU at once")
    given = parser.parse_args()
    cores = os.cpu_count() or 1
    most = min(given.most, cores)
    with tempfile.TemporaryDirectory() as folder:
        cached = prepare_images(
            "fashion_mnist", root=given.data_root, cache=Path(folder), shape=SHAPE
        )
        device = ("--device", given.device)
        captured = Side(name="ours", arguments=("ours", str(cached), *device), most=most)
        eager = Side(
            name="ours, step by step", arguments=("ours", str(cached), *device, "--eager"), most=1
        )
        peer = Side(
            name="Optuna's example",
            arguments=("peer", str(given.data_root), *device, "--workers", str(min(cores, 8))),
            most=1,
        )
        rates = {side.name: measure(side, Path(folder)) for side in (captured, eager, peer)}
    Console(width=120).print(table(rates, gigaflops(given.device)))


def measure(side: Side, folder: Path) -> dict[tuple[int, int], dict[int, float]]:
    """width -> processes -> trial-epochs a second."""
    rates: dict[tuple[int, int], dict[int, float]] = {width: {} for width in WIDTHS}
    count = 1
    while count <= side.most:
        command = [PYTHON, "-m", "tests.benchmarks.trainee", *side.arguments]
        env = environment(KEEP_MEMORY if side.name.startswith("ours") else None, threads=1)
        with Team(command, count=count, log=folder / "log", env=env) as team:
            for channels, latent in WIDTHS:
                job = {"channels": channels, "latent": latent}
                team.ask({"job": "warm", **job})
                _, seconds = team.ask({"job": "train", "epochs": EPOCHS, **job})
                rates[channels, latent][count] = count * EPOCHS / seconds
                print(f"{side.name}, {job}, {count} at once: {count * EPOCHS / seconds:.2f} /s")
        count *= 2
    return rates


def gigaflops(device: str, size: int = 8192) -> float:
    """Of single-precision matrix products."""
    if not device.startswith("cuda"):
        size = 1024
    a = torch.rand(size, size, device=device)
    for _ in range(3):
        (a @ a).sum().item()
    began = time.perf_counter()
    for _ in range(10):
        product = a @ a
    product.sum().item()
    return 10 * 2 * size**3 / (time.perf_counter() - began) / 1e9


def table(rates: dict[str, dict[tuple[int, int], dict[int, float]]], ceiling: float) -> Table:
    shown = Table(title=f"one GPU, trial-epochs a second (target: {TARGET:g}x Optuna's example)")
    columns = ("n, Z", "Optuna's", "ours", "at once", "ratio", "one process", "launch-bound")
    for column in (*columns, "arithmetic limit"):
        shown.add_column(column, justify="right")
    for width in WIDTHS:
        ours, eager = rates["ours"][width], rates["ours, step by step"][width][1]
        peer = rates["Optuna's example"][width][1]
        count, best = max(ours.items(), key=lambda item: item[1])
        limit = best * epoch_gigaflops(*width, TRAIN, VALID) / ceiling
        shown.add_row(
            f"{width[0]}, {width[1]}",
            f"{peer:.2f}",
            f"{best:.2f}",
            str(count),
            f"{best / peer:.0f}x",
            f"{ours[1]:.2f}",
            f"{1 - eager / ours[1]:.0%}",
            f"{limit:.1%}",
        )
    return shown


if __name__ == "__main__":
    main()
