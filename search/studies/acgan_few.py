"""Images with attributes that can be chosen, where images are few: ACGAN at a quarter of its width.

A discriminator that learns labels from fakes too agrees with the generator on what shows a label.
`label_fakes=False` has it learn them from real images alone. An epoch of few images has few steps,
and a GAN that makes images out of noise needs thousands of them: trials are long. The first is what
worked on 612 emoji with three attributes.

    make study NAME=acgan_few DATA=folder:PATH
"""

from __future__ import annotations

from optuna.pruners import MedianPruner
from optuna.trial import BaseTrial

from models.acgan import ACGAN, ACGANConfig
from search.study import StudySpec


def suggest(trial: BaseTrial) -> ACGANConfig:
    return ACGANConfig(
        width=0.25,
        latent=trial.suggest_int("latent", 16, 128, log=True),
        label_weight=trial.suggest_float("label_weight", 0.5, 10.0, log=True),
        label_fakes=trial.suggest_categorical("label_fakes", [True, False]),
        projection=trial.suggest_categorical("projection", [0.0, 0.3, 1.0]),
        lr_g=trial.suggest_float("lr_g", 2e-4, 4e-3, log=True),
        lr_d=trial.suggest_float("lr_d", 2e-4, 4e-3, log=True),
        g_steps=trial.suggest_categorical("g_steps", [1, 2]),
        extra_g_steps=0,
        normalization=trial.suggest_categorical("normalization", ["batch", "spectral"]),
        augment=trial.suggest_categorical("augment", ["none", "translation", "translation,cutout"]),
        ema=0.998,
        schedule="cosine_decay",
        batch_size=32,
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
    pruner=MedianPruner(n_startup_trials=4, n_warmup_steps=30),
    references={
        "emoji": {
            "latent": 64,
            "label_weight": 6.0,
            "label_fakes": False,
            "projection": 1.0,
            "lr_g": 1e-3,
            "lr_d": 1e-3,
            "g_steps": 1,
            "normalization": "spectral",
            "augment": "translation",
        }
    },
    trials=12,
    epochs=80,
    retrain_epochs=80,
    pictures_every=10,
)
