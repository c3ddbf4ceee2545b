"""How far the seed alone moves a value: ten good configurations, each trained with many seeds.

    python -m tests.benchmarks.seed_noise       measure anew: about half an hour on one core

A random search on the digits of scikit-learn finds ten good configurations. Each of them is then
trained with eight seeds. A run has two values: its best after as many epochs as a trial has, and
its best after all its epochs, as a retraining has it. `seed_noise.csv` keeps both, and
`tests.benchmarks.winner` plays searches with them.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import optuna
import torch
from optuna.trial import BaseTrial

from models.base import Model, ModelConfig, build
from models.cae import CAE
from models.data.images import ImageSplits
from models.data.loading import load_images
from models.errors import DivergedError
from models.evaluation.feature_cache import make_extractor
from models.evaluation.sample_evaluator import SampleEvaluator
from models.gan import GAN, GANConfig
from models.seeds import derive_seed
from models.training.loop import fit
from search.studies import cae
from search.studies.gan import suggest_balance
from tests.benchmarks.winner import CSV

COLUMNS = ("study", "configuration", "run", "searched", "retrained")
CONFIGURATIONS, RUNS = 10, 8


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What is trained.

    suggest: of a study; searched: configurations of the search that finds ten good ones
    epochs: of a trial, and of a retraining
    """

    study: str
    family: type[Model]
    suggest: Callable[[BaseTrial], ModelConfig]
    metric: str
    side: int
    searched: int
    epochs: tuple[int, int]


def suggest_gan(trial: BaseTrial) -> GANConfig:
    """Draw the balance of a tiny GAN, without noise that fades: the first epochs of a run are then
    a trial."""
    balance = suggest_balance(trial) | {"instance_noise": 0.0}
    return GANConfig(architecture="dropout-28", width=0.03, latent=6, batch_size=64, **balance)


def suggest_cae(trial: BaseTrial) -> ModelConfig:
    """Draw an autoencoder with batches that give the few digits some steps."""
    return replace(cae.suggest(trial), batch_size=64)


MEASURED = (
    Measured(
        study="cae", family=CAE, suggest=suggest_cae, metric="mse", side=28, searched=30,
        epochs=(6, 12),
    ),
    Measured(
        study="gan", family=GAN, suggest=suggest_gan, metric="frechet", side=28, searched=20,
        epochs=(4, 8),
    ),
)  # fmt: skip


class Runs:
    """Trains what is measured, on the digits in a folder."""

    def __init__(self, measured: Measured, cache: Path) -> None:
        self.measured = measured
        side = measured.side
        self.images: ImageSplits = load_images(
            "digits", root=cache, cache=cache, shape=(1, side, side)
        )
        is_judged = measured.family.judged
        self.judge = (
            SampleEvaluator(make_extractor(self.images, cache), self.images) if is_judged else None
        )

    def train(self, config: ModelConfig, seed: int, epochs: int) -> list[float]:
        """Return the value of each epoch, to the last that is finite."""
        model = build(self.measured.family, config, self.images.shape, seed=seed, device="cpu")
        values = []
        try:
            for epoch in fit(model, self.images, epochs=epochs, seed=seed, judge=self.judge):
                values.append(epoch.valid[self.measured.metric])
        except DivergedError:
            return values
        return values

    def find_good(self) -> list[ModelConfig]:
        """Return the ten best configurations of a random search."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        found = []
        for number in range(self.measured.searched):
            config = self.measured.suggest(study.ask())
            values = self.train(config, derive_seed(0, "search", number), self.measured.epochs[0])
            found.append((min(values, default=float("inf")), number, config))
        return [config for _, _, config in sorted(found, key=lambda row: row[:2])[:CONFIGURATIONS]]

    def rows(self) -> Iterator[dict[str, object]]:
        """Train each good configuration with every seed; yield its two values."""
        trial, retraining = self.measured.epochs
        for place, config in enumerate(self.find_good()):
            for run in range(RUNS):
                values = self.train(config, derive_seed(0, "measure", place, run), retraining)
                yield {
                    "study": self.measured.study,
                    "configuration": place,
                    "run": run,
                    "searched": f"{min(values[:trial]):.6g}",
                    "retrained": f"{min(values):.6g}",
                }


def main() -> None:
    torch.set_num_threads(1)
    with TemporaryDirectory(prefix="seeds-") as folder:
        rows = [row for each in MEASURED for row in _shown(Runs(each, Path(folder)).rows())]
    with CSV.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def _shown(rows: Iterator[dict[str, object]]) -> Iterator[dict[str, object]]:
    for row in rows:
        print(*row.values(), flush=True)
        yield row


if __name__ == "__main__":
    main()
