"""Variational autoencoders with few, wide layers on 64x64 colour images.

Configuration `wide-64` of reference system A6 is tried first: cross-entropy + KL, Adam at a rate of
1e-6, 20 latent numbers, 7 epochs. It has 538,821,035 parameters. With their gradients and Adam's
moments they take 9 GB before any image; a trial that does not fit a GPU ends as infeasible. Put
images into data/faces (see models/data/folders.py for the layouts) or say where they are.

    make study NAME=vae_wide
    make study NAME=vae_wide DATA=folder:PATH
"""

from __future__ import annotations

from optuna.pruners import MedianPruner
from optuna.trial import BaseTrial

from models.vae import VAE, VAEConfig
from search.studies.vae import suggest_loss
from search.study import StudySpec


def suggest(trial: BaseTrial) -> VAEConfig:
    return VAEConfig(
        architecture="wide-64",
        latent=trial.suggest_int("latent", 8, 128, log=True),
        width=trial.suggest_categorical("width", [0.125, 0.25, 0.5, 1.0]),
        **suggest_loss(trial, beta=100.0, warm_up=3),
        lr=trial.suggest_float("lr", 1e-6, 1e-3, log=True),
        batch_size=128,
    )


STUDY = StudySpec(
    model=VAE,
    suggest=suggest,
    data="folder:data/faces",
    shape=(3, 64, 64),
    adapts=True,
    metric="nelbo",
    direction="minimize",
    sampler="tpe",
    pruner=MedianPruner(n_startup_trials=5, n_warmup_steps=2),
    references={
        "wide-64": {
            "latent": 20,
            "width": 1.0,
            "beta": 1.0,
            "warm_up": 0,
            "reconstruction": "bce",
            "lr": 1e-6,
        }
    },
    trials=20,
    epochs=7,
)
