"""Variational autoencoders on MNIST, judged by the negative evidence lower bound.

Configuration `latent-2` of reference system A6 is tried first; TRIALS=1 trains it alone. The metric
is the negative bound with beta 1, in nats per image, whatever a trial's own beta is.

    make study NAME=vae
"""

from __future__ import annotations

from typing import Any

from optuna.pruners import MedianPruner
from optuna.trial import BaseTrial

from models.vae import VAE, VAEConfig
from search.study import StudySpec


def suggest_loss(trial: BaseTrial, *, beta: float, warm_up: int) -> dict[str, Any]:
    """Return the parameters of a VAE's loss, for the study of any VAE.

    beta, warm_up: their largest values
    """
    return {
        "beta": trial.suggest_float("beta", 0.1, beta, log=True),
        "warm_up": trial.suggest_int("warm_up", 0, warm_up),
        "reconstruction": trial.suggest_categorical("reconstruction", ["bce", "mse"]),
    }


def suggest(trial: BaseTrial) -> VAEConfig:
    return VAEConfig(
        architecture="latent-2",
        latent=trial.suggest_int("latent", 2, 32, log=True),
        width=trial.suggest_categorical("width", [0.25, 0.5, 1.0]),
        **suggest_loss(trial, beta=10.0, warm_up=8),
        optimizer=trial.suggest_categorical("optimizer", ["adam", "adamax", "sgd"]),
        lr=trial.suggest_float("lr", 1e-4, 1e-2, log=True),
    )


STUDY = StudySpec(
    model=VAE,
    suggest=suggest,
    data="mnist",
    shape=(1, 28, 28),
    adapts=True,
    metric="nelbo",
    direction="minimize",
    sampler="tpe",
    pruner=MedianPruner(n_startup_trials=5, n_warmup_steps=3),
    references={
        "latent-2": {
            "latent": 2,
            "width": 1.0,
            "beta": 1.0,
            "warm_up": 0,
            "reconstruction": "bce",
            "optimizer": "adam",
            "lr": 1e-3,
        }
    },
    trials=50,
    epochs=20,
)
