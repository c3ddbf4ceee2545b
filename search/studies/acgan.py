"""Faces with attributes that can be chosen: an auxiliary-classifier GAN, reference system B2.

The study takes a folder of colour images with an attributes.csv beside them, or with one folder a
class (see models/data/folders.py). Samples are judged label by label, beside real images that have
the label, by a classifier of real images. The picture of a trial has the same noise in each column
and one attribute changed in each row.

    make study NAME=acgan DATA=folder:PATH
"""

from __future__ import annotations

from optuna.pruners import MedianPruner
from optuna.trial import BaseTrial

from models.acgan import ACGAN, ACGANConfig
from search.studies.gan import UNPACKED, suggest_balance
from search.study import StudySpec


def suggest(trial: BaseTrial) -> ACGANConfig:
    return ACGANConfig(
        latent=trial.suggest_int("latent", 32, 256, log=True),
        width=trial.suggest_categorical("width", [0.25, 0.5, 1.0]),
        label_weight=trial.suggest_float("label_weight", 0.1, 10.0, log=True),
        augment=trial.suggest_categorical("augment", ["none", "translation", "translation,cutout"]),
        projection=trial.suggest_categorical("projection", [0.0, 1.0]),
        label_fakes=trial.suggest_categorical("label_fakes", [True, False]),
        **suggest_balance(trial),
    )


STUDY = StudySpec(
    model=ACGAN,
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
            "label_fakes": True,
            "extra_g_steps": 1,  # as reported: G learns more while its loss exceeds that of D
            "threshold": 0.0,
            "lr_g": 2e-4,
            "lr_d": 2e-4,
            "latent": 128,
            "width": 1.0,
            "label_weight": 1.0,
        }
    },
    trials=30,
    epochs=20,
    retrain_epochs=60,
    patience=10,
    pictures_every=5,
)
