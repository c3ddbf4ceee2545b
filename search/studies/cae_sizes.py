"""Reconstruction error against code size: the best convolutional autoencoder of each size.

Two goals, so that no trial is the best of all: what it ends with is the front of those that no
other one beats in both. It searches the space of `cae`, with smaller codes in it.

    make study NAME=cae_sizes TOP=5
"""

from __future__ import annotations

from optuna.trial import BaseTrial

from models.cae import CAE, CAEConfig
from search.study import StudySpec


def suggest(trial: BaseTrial) -> CAEConfig:
    return CAEConfig(
        channels=trial.suggest_int("channels", 4, 10),
        latent=trial.suggest_int("latent", 2, 60, log=True),
        optimizer="adam",
        weight_decay=trial.suggest_float("weight_decay", 1e-6, 1e-4, log=True),
        lr=trial.suggest_float("lr", 5e-4, 5e-2, log=True),
    )


STUDY = StudySpec(
    model=CAE,
    suggest=suggest,
    data="fashion_mnist",
    shape=(1, 28, 28),
    adapts=True,
    metric=("mse", "code"),
    direction="minimize",
    sampler="tpe",
    trials=60,
    epochs=20,
)
