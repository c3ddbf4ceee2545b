"""One measured process of the training rows: trains what it is told, our way or the peer's.

    python -m tests.benchmarks.trainee ours FILE         (started by training.py)
    in   {"job": "warm", "channels": 9, "latent": 27, "seed": 0}, then the same width again:
         {"job": "train", "channels": 9, "latent": 27, "epochs": 2, "seed": 0} | {"job": "sgemm"}
         "eager": true beside them: without a CUDA graph
    out  {} | {"mse": 0.0123} | {"gigaflops": 85.0}

A warm-up is a short training: what a process does once, imports, images and kernels included,
is not measured. What it does once a trial is.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from models.base import build
from models.cae import CAE
from models.data.images import ImageSplits
from models.data.loading import open_images
from models.training.loop import fit
from search.worker.device import use_device
from tests.benchmarks.work import BATCH, SHAPE, adam

Train = Callable[[int, int, int, int], float]
"""(channels, latent, epochs, seed) -> validation error after the last epoch."""

WARM = 8  # batches of a warm-up: more than a step needs to become a CUDA graph
SGEMM = 1024  # rows and columns of the product that the ceiling is taken from


def ours(file: Path, images: int | None, device: str) -> tuple[Train, Train]:
    """As `search/worker/main.py` sets a process up: one thread, resident images."""
    use_device(device)
    whole = open_images(file).to(device)
    if images is not None:
        whole = first(whole, images - images // 5, images // 5)
    warm = first(whole, min(WARM * BATCH, len(whole.train)), BATCH)

    def train(splits: ImageSplits, channels: int, latent: int, epochs: int, seed: int) -> float:
        model = build(CAE, adam(channels, latent), SHAPE, seed=seed, device=device)
        return [epoch.valid["mse"] for epoch in fit(model, splits, epochs=epochs, seed=seed)][-1]

    return lambda *job: train(whole, *job), lambda *job: train(warm, *job)


def peer(
    root: Path, images: int | None, threads: int | None, workers: int, device: str
) -> tuple[Train, Train]:
    """As Optuna's PyTorch example; the loaders are made once, outside the measurement."""
    from tests.benchmarks.peers.fashion_mnist import loaders
    from tests.benchmarks.peers.optuna_example import network, validate
    from tests.benchmarks.peers.optuna_example import train as train_epoch

    if threads is not None:
        torch.set_num_threads(threads)
    whole = loaders(root, workers=workers, images=images)
    warm = loaders(root, images=5 * BATCH)

    def train(pair: Any, channels: int, latent: int, epochs: int, seed: int) -> float:
        torch.manual_seed(seed)
        model, optimizer = network(adam(channels, latent), device)
        value = float("nan")
        for _ in range(epochs):
            train_epoch(model, optimizer, pair[0], device)
            value = validate(model, pair[1], device)
        return value

    return lambda *job: train(whole, *job), lambda *job: train(warm, *job)


def first(splits: ImageSplits, train: int, valid: int) -> ImageSplits:
    from dataclasses import replace

    return replace(
        splits,
        train=splits.train.take(torch.arange(train)),
        valid=splits.valid.take(torch.arange(valid)),
    )


def sgemm(seconds: float = 2.0) -> float:
    """GFLOP/s of single-precision matrix products on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    a, b = torch.rand(SGEMM, SGEMM), torch.rand(SGEMM, SGEMM)
    torch.mm(a, b)
    count, began = 0, time.perf_counter()
    while (passed := time.perf_counter() - began) < seconds:
        torch.mm(a, b)
        count += 1
    torch.set_num_threads(threads)
    return 2 * SGEMM**3 * count / passed / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", choices=("ours", "peer"))
    parser.add_argument("place", type=Path, help="cached images of ours, DATA_ROOT of the peer")
    parser.add_argument("--images", type=int, default=None)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--workers", type=int, default=0, help="of the DataLoader")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--eager", action="store_true", help="ours without a CUDA graph")
    given = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no answer
    if given.side == "ours":
        train, warm = ours(given.place, given.images, given.device)
    else:
        train, warm = peer(given.place, given.images, given.threads, given.workers, given.device)
    for line in sys.stdin:
        job = json.loads(line)
        CAE.static_step = not (given.eager or job.get("eager"))
        answer: dict[str, float] = {}
        if job["job"] == "warm":
            warm(job["channels"], job["latent"], 1, job["seed"])
        elif job["job"] == "train":
            answer["mse"] = train(job["channels"], job["latent"], job["epochs"], job["seed"])
        elif job["job"] == "sgemm":
            answer["gigaflops"] = sgemm()
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
