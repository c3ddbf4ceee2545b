"""Peer: the same study with Lightning and Optuna's pruning callback.

A `LightningModule` that logs its validation error, a `LightningDataModule`, a `Trainer` a trial
with `PyTorchLightningPruningCallback`. Logging to files and checkpoints are off: they would
only cost it time.

    python -m tests.benchmarks.peers.lightning_example --storage sqlite:////tmp/l.db --trials 4 ...
"""

from __future__ import annotations

import argparse
import logging
import warnings
from typing import Any

import lightning.pytorch as pl
import optuna
import torch
from optuna_integration import PyTorchLightningPruningCallback
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from models.cae import CAEConfig
from tests.benchmarks.peers.fashion_mnist import loaders
from tests.benchmarks.peers.optuna_example import SPACES, main, network


class Autoencoder(pl.LightningModule):
    def __init__(self, config: CAEConfig) -> None:
        super().__init__()
        self.model, self.optimizer = network(config)

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        images = batch[0]
        return F.mse_loss(self.model(images), images)

    def validation_step(self, batch: list[Tensor], _: int) -> None:
        images = batch[0]
        error = F.mse_loss(self.model(images), images)
        self.log("val_mse", error, on_epoch=True, batch_size=len(images))

    def configure_optimizers(self) -> Optimizer:
        return self.optimizer


class Images(pl.LightningDataModule):
    def __init__(self, given: argparse.Namespace) -> None:
        super().__init__()
        self.given = given

    def setup(self, stage: str | None = None) -> None:
        self.batches, self.held_out = loaders(self.given.data_root, images=self.given.images)

    def train_dataloader(self) -> DataLoader[Any]:
        return self.batches

    def val_dataloader(self) -> DataLoader[Any]:
        return self.held_out


def objective(trial: optuna.Trial, given: argparse.Namespace) -> float:
    torch.manual_seed(trial.number)
    model = Autoencoder(SPACES[given.space](trial))
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=given.epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[PyTorchLightningPruningCallback(trial, monitor="val_mse")],
    )
    trainer.fit(model, datamodule=Images(given))
    return min(trial.study.trials[trial.number].intermediate_values.values())


if __name__ == "__main__":
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    main(objective)
