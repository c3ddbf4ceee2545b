"""Images given other labels: StarGAN, reference system B3, one step of G per four of D.

The study takes the folders that `acgan` takes, and its samples are judged in the same way. The
picture of a trial shows each image translated to every label.

    make study NAME=stargan DATA=folder:PATH
"""

from __future__ import annotations

from optuna.pruners import MedianPruner
from optuna.trial import BaseTrial

from models.stargan import StarGAN, StarGANConfig
from search.studies.gan import UNPACKED, suggest_balance
from search.study import StudySpec


def suggest(trial: BaseTrial) -> StarGANConfig:
    return StarGANConfig(
        blocks=trial.suggest_int("blocks", 0, 8),
        width=trial.suggest_categorical("width", [0.25, 0.5, 1.0]),
        label_weight=trial.suggest_float("label_weight", 0.1, 10.0, log=True),
        reconstruction_weight=trial.suggest_float("reconstruction_weight", 1.0, 30.0, log=True),
        augment=trial.suggest_categorical("augment", ["none", "translation", "translation,cutout"]),
        projection=trial.suggest_categorical("projection", [0.0, 1.0]),
        **suggest_balance(trial),
    )


STUDY = StudySpec(
    model=StarGAN,
    suggest=suggest,
    data="folder:data/faces",
    shape=(3, 64, 64),
    adapts=True,
    metric="label_frechet",
    direction="minimize",
    sampler="tpe",
    pruner=MedianPruner(n_startup_trials=5, n_warmup_steps=3),
    references={
        "reported": {
            **UNPACKED,
            "augment": "none",
            "projection": 0.0,
            "d_steps": 4,
            "lr_g": 2e-4,
            "lr_d": 2e-4,
            "blocks": 6,
            "width": 1.0,
            "label_weight": 1.0,
            "reconstruction_weight": 10.0,
        }
    },
    trials=30,
    epochs=20,
    retrain_epochs=60,
    patience=10,
    pictures_every=5,
)
