"""Variational autoencoders on 64x64 faces, or any other folder of colour images.

Configuration `faces-64` of reference system A6 is tried first: mean squared error + 1e-3 KL, which
is beta 12.288 in the units of models/vae.py, with Adamax. Trials are ranked by the mean squared
error of reconstructions, as it was reported (0.00709 on test images). It asks nothing of the codes,
so that a search prefers a small beta: `kl` and the measures of samples stand beside it. Put images
into data/faces (see models/data/folders.py for the layouts) or say where they are. The study is
made for a GPU; on a CPU set EPOCHS low.

    make study NAME=vae_faces
    make study NAME=vae_faces DATA=folder:PATH
"""

from __future__ import annotations

from optuna.pruners import MedianPruner
from optuna.trial import BaseTrial

from models.vae import VAE, VAEConfig
from search.studies.vae import suggest_loss
from search.study import StudySpec

REPORTED_BETA = 1e-3 * 3 * 64 * 64  # their error was a mean over the values of an image


def suggest(trial: BaseTrial) -> VAEConfig:
    return VAEConfig(
        architecture="faces-64",
        latent=trial.suggest_int("latent", 32, 256, log=True),
        width=trial.suggest_categorical("width", [0.25, 0.5, 1.0]),
        **suggest_loss(trial, beta=100.0, warm_up=8),
        optimizer=trial.suggest_categorical("optimizer", ["adam", "adamax"]),
        lr=trial.suggest_float("lr", 1e-4, 3e-3, log=True),
        batch_size=128,
    )


STUDY = StudySpec(
    model=VAE,
    suggest=suggest,
    data="folder:data/faces",
    shape=(3, 64, 64),
    adapts=True,
    metric="mse",
    direction="minimize",
    sampler="tpe",
    pruner=MedianPruner(n_startup_trials=5, n_warmup_steps=3),
    references={
        "faces-64": {
            "latent": 128,
            "width": 1.0,
            "beta": REPORTED_BETA,
            "warm_up": 0,
            "reconstruction": "mse",
            "optimizer": "adamax",
            "lr": 5e-4,
        }
    },
    trials=30,
    epochs=20,
)
