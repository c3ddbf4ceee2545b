"""Peer: a study as Optuna's PyTorch example does it.

torchvision's dataset behind a DataLoader, a plain loop, `trial.report` and `should_prune` once
an epoch, `study.optimize` in every process that is started on the same storage.

    python -m tests.benchmarks.peers.optuna_example --storage sqlite:////tmp/o.db --trials 4 ...
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.pruners import MedianPruner, NopPruner
from optuna.samplers import RandomSampler
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, Optimizer

from models.cae import CAE, CAEConfig
from tests.benchmarks.peers.fashion_mnist import loaders
from tests.benchmarks.work import SHAPE, one_of_four, searched

SPACES: dict[str, Callable[[optuna.Trial], CAEConfig]] = {
    "four": one_of_four,
    "searched": searched,
}
STUDY = "peer"


def network(config: CAEConfig, device: str = "cpu") -> tuple[nn.Module, Optimizer]:
    model = CAE(config, SHAPE).to(device)
    if config.optimizer == "sgd":
        return model, SGD(
            model.parameters(), lr=config.lr, weight_decay=config.weight_decay, momentum=0.9
        )
    return model, Adam(model.parameters(), lr=config.lr, weight_decay=config.weight_decay)


def train(
    model: nn.Module,
    optimizer: Optimizer,
    batches: Iterable[tuple[Tensor, Tensor]],
    device: str = "cpu",
) -> None:
    model.train()
    for images, _ in batches:
        images = images.to(device)
        optimizer.zero_grad()
        loss = F.mse_loss(model(images), images)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def validate(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], device: str = "cpu"
) -> float:
    """Mean squared error over all images of ``batches``."""
    model.eval()
    total, count = 0.0, 0
    with torch.no_grad():
        for images, _ in batches:
            images = images.to(device)
            total += F.mse_loss(model(images), images).item() * len(images)
            count += len(images)
    return total / count


def objective(trial: optuna.Trial, given: argparse.Namespace) -> float:
    torch.manual_seed(trial.number)
    model, optimizer = network(SPACES[given.space](trial))
    batches, held_out = loaders(given.data_root, images=given.images)
    best = float("inf")
    for epoch in range(given.epochs):
        train(model, optimizer, batches)
        value = validate(model, held_out)
        best = min(best, value)
        trial.report(value, epoch)
        if trial.should_prune():
            raise optuna.TrialPruned
    return best


def arguments() -> argparse.ArgumentParser:
    """What every peer's script takes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--storage", default=None, help="of all processes; default: in memory")
    parser.add_argument("--space", choices=SPACES, default="four")
    parser.add_argument("--trials", type=int, required=True, help="of this process")
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--images", type=int, default=None, help="at most so many; default: all")
    parser.add_argument("--threads", type=int, default=None, help="of PyTorch; default: all")
    parser.add_argument("--n-jobs", type=int, default=1, help="threads of study.optimize")
    parser.add_argument("--seed", type=int, default=0, help="of the random sampler")
    parser.add_argument("--prune", action="store_true")
    return parser


def opened(given: argparse.Namespace) -> optuna.Study:
    pruner = MedianPruner(n_startup_trials=3, n_warmup_steps=2) if given.prune else NopPruner()
    return optuna.create_study(
        study_name=STUDY,
        storage=given.storage,
        sampler=RandomSampler(seed=given.seed),
        pruner=pruner,
        direction="minimize",
        load_if_exists=True,
    )


def main(objective: Callable[[optuna.Trial, Any], float] = objective) -> None:
    given = arguments().parse_args()
    if given.threads is not None:
        torch.set_num_threads(given.threads)
    began = time.perf_counter()
    study = opened(given)
    study.optimize(
        lambda trial: objective(trial, given), n_trials=given.trials, n_jobs=given.n_jobs
    )
    print(f"{given.trials} trials in {time.perf_counter() - began:.1f} s")


if __name__ == "__main__":
    main()
