"""How well can 27 numbers describe a piece of clothing? The training is searched.

The architecture is the reported best of reference system A1, with 9 channels, 27 latent numbers and
60,240 parameters. What the report left as it was is searched: the batch size and the schedule of
the learning rate. Augmentation is left out, since at this size training and validation errors are
the same.

    make study NAME=cae_27
"""

from __future__ import annotations

from optuna.trial import BaseTrial

from models.cae import CAE, CAEConfig
from search.study import StudySpec

REPORTED = {"lr": 0.004295, "weight_decay": 3.96e-6}


def suggest(trial: BaseTrial) -> CAEConfig:
    return CAEConfig(
        channels=9,
        latent=27,
        schedule=trial.suggest_categorical("schedule", ["cosine", "constant"]),
        batch_size=trial.suggest_categorical("batch_size", [64, 128, 256]),
        lr=trial.suggest_float("lr", 1e-3, 1e-2, log=True),
        weight_decay=trial.suggest_float("weight_decay", 1e-7, 1e-5, log=True),
    )


STUDY = StudySpec(
    model=CAE,
    suggest=suggest,
    data="fashion_mnist",
    shape=(1, 28, 28),
    adapts=True,
    metric="mse",
    direction="minimize",
    sampler="tpe",
    pruner="median",
    trials=20,
    epochs=20,
    retrain_epochs=60,
    patience=60,  # the schedule ends it: rates fall to the last epoch
    references={
        "reported": {**REPORTED, "schedule": "constant", "batch_size": 256},
        "reported, along a cosine": {**REPORTED, "schedule": "cosine", "batch_size": 128},
    },
)
