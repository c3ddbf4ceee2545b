"""The reported best configuration of the convolutional autoencoder, trained to the end.

This is reference system A1. One trial of one epoch names the configuration; the result is its
retraining, which ends when the validation error has not fallen for 4 epochs.

    make study NAME=cae_reported
"""

from __future__ import annotations

from optuna.trial import BaseTrial

from models.cae import CAE, CAEConfig
from search.study import StudySpec


def suggest(trial: BaseTrial) -> CAEConfig:
    return CAEConfig(
        channels=trial.suggest_int("channels", 9, 9),
        latent=trial.suggest_int("latent", 27, 27),
        optimizer=trial.suggest_categorical("optimizer", ["adam"]),
        weight_decay=trial.suggest_float("weight_decay", 3.96e-6, 3.96e-6),
        lr=trial.suggest_float("lr", 0.004295, 0.004295),
    )


STUDY = StudySpec(
    model=CAE,
    suggest=suggest,
    data="fashion_mnist",
    shape=(1, 28, 28),
    adapts=True,
    metric="mse",
    pruner="none",
    trials=1,
    epochs=1,
)
