"""DCGAN on 512x512 colour images: reference system B1, row `512`, 202 million weights.

Its samples are judged as those of `gan_faces`. The study is made for a large GPU: at full width the
weights of G with Adam's moments alone take 2.4 GB.

    make study NAME=gan_wide DATA=folder:PATH FIRST=1
"""

from __future__ import annotations

from optuna.pruners import MedianPruner
from optuna.trial import BaseTrial

from models.gan import GAN, GANConfig
from search.studies.gan import UNPACKED, suggest_balance
from search.study import StudySpec


def suggest(trial: BaseTrial) -> GANConfig:
    return GANConfig(
        architecture="512",
        width=trial.suggest_categorical("width", [0.125, 0.25, 0.5, 1.0]),
        batch_size=trial.suggest_categorical("batch_size", [8, 16, 32]),
        **suggest_balance(trial),
    )


STUDY = StudySpec(
    model=GAN,
    suggest=suggest,
    data="folder:data/faces",
    shape=(3, 512, 512),
    adapts=True,
    metric="frechet",
    direction="minimize",
    sampler="tpe",
    pruner=MedianPruner(n_startup_trials=5, n_warmup_steps=3),
    references={
        "reported": {
            **UNPACKED,
            "lr_g": 4e-4,
            "lr_d": 2e-4,
            "width": 1.0,
            "batch_size": 16,
        }
    },
    trials=20,
    epochs=20,
    retrain_epochs=60,
    seeds=1,  # at 512x512 each costs as much as three trials
    patience=10,
    pictures_every=5,
    judged_by="vae_faces",
)
