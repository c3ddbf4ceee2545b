"""Variational autoencoders on binarised MNIST, to be set beside published log-likelihoods.

Training images are drawn anew for every batch, validation and test images are drawn once.
The code is wider than the plane of `vae`, the likelihood is Bernoulli's, and beta is 1: the metric
is the negative evidence lower bound in nats. The card of the winner has -log p(x) of the test
images with 5,000 importance samples each, as Burda et al. 2016 report it, who draw training images
in the same way: their VAE with one stochastic layer has 86.8. The reference here has 83.2 after 45
epochs.

    make study NAME=vae_binary
"""

from __future__ import annotations

from optuna.pruners import MedianPruner
from optuna.trial import BaseTrial

from models.vae import VAE, VAEConfig
from search.study import StudySpec

SAMPLES = 5000  # for -log p(x), as in publications


def suggest(trial: BaseTrial) -> VAEConfig:
    return VAEConfig(
        architecture=trial.suggest_categorical("architecture", ["strided", "residual"]),
        latent=trial.suggest_int("latent", 8, 64, log=True),
        width=trial.suggest_categorical("width", [0.5, 1.0, 2.0]),
        warm_up=trial.suggest_int("warm_up", 0, 8),
        optimizer=trial.suggest_categorical("optimizer", ["adam", "adamax"]),
        lr=trial.suggest_float("lr", 3e-4, 1e-2, log=True),
        schedule=trial.suggest_categorical("schedule", ["constant", "cosine", "cosine_decay"]),
        batch_size=trial.suggest_categorical("batch_size", [64, 128]),
        redraw=True,
        importance_samples=SAMPLES,
    )


WIDE_CODE = {
    "architecture": "strided",
    "latent": 32,
    "width": 1.0,
    "warm_up": 0,
    "optimizer": "adam",
    "lr": 2e-3,
    "schedule": "cosine",
    "batch_size": 128,
}

STUDY = StudySpec(
    model=VAE,
    suggest=suggest,
    data="dynamic_mnist",
    shape=(1, 28, 28),
    adapts=True,
    metric="nelbo",
    direction="minimize",
    sampler="tpe(n_startup_trials=8)",
    pruner=MedianPruner(n_startup_trials=5, n_warmup_steps=3),
    references={
        "residual": {
            **WIDE_CODE,
            "architecture": "residual",
            "schedule": "cosine_decay",
        },
        "wide code": WIDE_CODE,
    },
    trials=30,
    epochs=15,
    retrain_epochs=100,
    patience=10,
)
