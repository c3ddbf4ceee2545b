"""Reconstruction error of the convolutional autoencoder on Fashion-MNIST.

This is reference system A1 (search/studies/README.md): a random search over width, latent size and
optimiser, with 50 trials and median pruning.

    make study NAME=cae
"""

from __future__ import annotations

from optuna.pruners import MedianPruner
from optuna.trial import BaseTrial

from models.cae import CAE, CAEConfig
from search.study import StudySpec


def suggest(trial: BaseTrial) -> CAEConfig:
    return CAEConfig(
        channels=trial.suggest_int("channels", 4, 10),
        latent=trial.suggest_int("latent", 10, 60),
        optimizer=trial.suggest_categorical("optimizer", ["adam", "sgd"]),
        weight_decay=trial.suggest_float("weight_decay", 1e-6, 1e-4, log=True),
        lr=trial.suggest_float("lr", 5e-5, 5e-2, log=True),
    )


STUDY = StudySpec(
    model=CAE,
    suggest=suggest,
    data="fashion_mnist",
    shape=(1, 28, 28),
    adapts=True,
    metric="mse",
    direction="minimize",
    sampler="random",
    pruner=MedianPruner(n_startup_trials=3, n_warmup_steps=2),
    trials=50,
    epochs=20,
)
