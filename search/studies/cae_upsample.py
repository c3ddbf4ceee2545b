"""An autoencoder that resizes instead of transposing convolutions, on MNIST.

This is reference system A5, with binary cross-entropy and 20 epochs. The architecture is the
reported one of 4,385 weights; how it is trained is searched.

    make study NAME=cae_upsample
"""

from __future__ import annotations

from optuna.pruners import MedianPruner
from optuna.trial import BaseTrial

from models.upsample_ae import UpsampleAE, UpsampleAEConfig
from search.study import StudySpec

REPORTED = {"schedule": "constant", "batch_size": 200, "lr": 1e-3}


def suggest(trial: BaseTrial) -> UpsampleAEConfig:
    return UpsampleAEConfig(
        channels=(16, 8, 8),
        schedule=trial.suggest_categorical("schedule", ["constant", "cosine"]),
        batch_size=trial.suggest_categorical("batch_size", [100, 200, 400]),
        lr=trial.suggest_float("lr", 3e-4, 3e-2, log=True),
    )


STUDY = StudySpec(
    model=UpsampleAE,
    suggest=suggest,
    data="mnist",
    shape=(1, 28, 28),
    adapts=True,
    metric="bce",
    sampler="tpe",
    pruner=MedianPruner(n_startup_trials=3, n_warmup_steps=5),
    trials=12,
    epochs=20,
    retrain_epochs=40,
    patience=40,  # the schedule ends it: rates fall to the last epoch
    references={
        "reported": REPORTED,
        "faster, along a cosine": {"schedule": "cosine", "batch_size": 200, "lr": 6e-3},
    },
)
