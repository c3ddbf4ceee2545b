"""A fully connected denoiser of salt and pepper, on MNIST at 64x64.

This is reference system A4, which turns 4096 pixels into 3 numbers and back; 20 % of the pixels are
hit. The widths, the learning rate and the batch size are searched around the reported ones.

    make study NAME=dense_denoise
"""

from __future__ import annotations

from optuna.pruners import MedianPruner
from optuna.trial import BaseTrial

from models.dense_ae import DenseAE, DenseAEConfig
from search.study import StudySpec


def suggest(trial: BaseTrial) -> DenseAEConfig:
    return DenseAEConfig(
        noise="salt_pepper",
        strength=0.2,
        widths=(
            trial.suggest_categorical("first", [128, 256, 512]),
            trial.suggest_int("second", 32, 128, log=True),
            trial.suggest_int("third", 8, 32, log=True),
            trial.suggest_int("latent", 2, 16, log=True),
        ),
        batch_size=trial.suggest_categorical("batch_size", [256, 1024, 4068]),
        lr=trial.suggest_float("lr", 1e-4, 1e-2, log=True),
        weight_decay=trial.suggest_float("weight_decay", 1e-6, 1e-4, log=True),
    )


REPORTED = {
    "first": 256,
    "second": 64,
    "third": 12,
    "latent": 3,
    "batch_size": 4068,
    "lr": 1e-3,
    "weight_decay": 1e-5,
}

STUDY = StudySpec(
    model=DenseAE,
    suggest=suggest,
    data="mnist",
    shape=(1, 64, 64),
    adapts=True,
    metric="mse",
    sampler="tpe",
    pruner=MedianPruner(n_startup_trials=3, n_warmup_steps=10),
    trials=20,
    epochs=100,
    retrain_epochs=100,
    patience=10,  # an epoch of the reported batch is eleven steps
    references={"reported": REPORTED, "narrower first layer": {**REPORTED, "first": 128}},
    pictures_every=10,
)
