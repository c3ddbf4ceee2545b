"""DCGAN on 64x64 faces, or any other folder of colour images: reference system B1, row `64`.

Put images into data/faces (see models/data/folders.py for the layouts) or say where they are.
Without classes the samples are judged in the codes of the best `vae_faces` on the same images,
which FIRST=1 searches before. The study is made for a GPU.

    make study NAME=gan_faces FIRST=1
    make study NAME=gan_faces DATA=folder:PATH FIRST=1
"""

from __future__ import annotations

from optuna.pruners import MedianPruner
from optuna.trial import BaseTrial

from models.gan import GAN, GANConfig
from search.studies.gan import BALANCES, suggest_gan
from search.study import StudySpec


def suggest(trial: BaseTrial) -> GANConfig:
    return suggest_gan(trial, "64", latent=32, widths=[0.25, 0.5, 1.0])


STUDY = StudySpec(
    model=GAN,
    suggest=suggest,
    data="folder:data/faces",
    shape=(3, 64, 64),
    adapts=True,
    metric="frechet",
    direction="minimize",
    sampler="tpe",
    pruner=MedianPruner(n_startup_trials=5, n_warmup_steps=3),
    references={
        name: {**balance, "latent": 128, "width": 1.0} for name, balance in BALANCES.items()
    },
    trials=30,
    epochs=20,
    retrain_epochs=60,
    patience=10,
    pictures_every=5,
    judged_by="vae_faces",
)
