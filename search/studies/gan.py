"""DCGAN on Fashion-MNIST: widths, code, and above all how its two networks are balanced.

This is configuration `32` of reference system B1. The first trials have the reported balances:
equal rates, where D won; a rate of G twice that of D, which worked; ten times that of D, where G
won; one step of G per four of D.
Trials are judged by the Fréchet distance of samples after every epoch. At full width an epoch takes
minutes on a CPU, for which `gan_balance` is the better study.

    make study NAME=gan
    make study NAME=gan SAMPLER=preference
"""

from __future__ import annotations

from typing import Any

from optuna.pruners import MedianPruner
from optuna.trial import BaseTrial

from models.gan import GAN, GANConfig
from search.study import StudySpec

AS_REPORTED = {
    "d_steps": 1, "g_steps": 1, "extra_g_steps": 0, "beta1": 0.5, "smoothing": 0.0,
    "instance_noise": 0.0, "normalization": "batch", "r1": 0.0, "ema": 0.0, "pack": 1,
}  # fmt: skip
BALANCES: dict[str, dict[str, Any]] = {
    "equal rates": {**AS_REPORTED, "lr_g": 2e-4, "lr_d": 2e-4},
    "G twice D": {**AS_REPORTED, "lr_g": 4e-4, "lr_d": 2e-4},
    "one G per 4 D": {**AS_REPORTED, "lr_g": 2e-4, "lr_d": 2e-4, "d_steps": 4},
    "G ten times D": {**AS_REPORTED, "lr_g": 2e-3, "lr_d": 2e-4},
    "equal rates 5e-4": {**AS_REPORTED, "lr_g": 5e-4, "lr_d": 5e-4},
}


# For models whose discriminator sees one image at a time.
UNPACKED = {name: value for name, value in AS_REPORTED.items() if name != "pack"}


def suggest_adaptive_rule(trial: BaseTrial) -> dict[str, Any]:
    """Return whether G learns more while it is behind, and from which difference of losses on.

    At equilibrium G's loss is about 0.7 less than D's, which has two parts: the rule acts from a
    threshold of -0.7 on.
    """
    extra = trial.suggest_categorical("extra_g_steps", [0, 1])
    rule = {"threshold": trial.suggest_float("threshold", -0.7, 2.0)} if extra else {}
    return {"extra_g_steps": extra, **rule}


def suggest_balance(trial: BaseTrial) -> dict[str, Any]:
    """Return what decides how fast G and D learn (`models.training.gan_balance`), for the study of
    any GAN.
    """
    return {
        **suggest_adaptive_rule(trial),
        "lr_g": trial.suggest_float("lr_g", 1e-4, 1e-2, log=True),
        "lr_d": trial.suggest_float("lr_d", 1e-4, 1e-2, log=True),
        "d_steps": trial.suggest_categorical("d_steps", [1, 2, 4]),
        "g_steps": trial.suggest_categorical("g_steps", [1, 2]),
        "beta1": trial.suggest_categorical("beta1", [0.0, 0.5]),
        "smoothing": trial.suggest_categorical("smoothing", [0.0, 0.1]),
        "instance_noise": trial.suggest_float("instance_noise", 0.0, 0.3, step=0.1),
        "normalization": trial.suggest_categorical("normalization", ["batch", "spectral"]),
        "r1": trial.suggest_categorical("r1", [0.0, 0.1, 1.0]),
        "ema": trial.suggest_categorical("ema", [0.0, 0.99, 0.999]),
    }


def suggest_gan(
    trial: BaseTrial, architecture: str, *, latent: int, widths: list[float]
) -> GANConfig:
    """Return a plain GAN: its code and width, its balance, and how many images D sees at once.

    latent: the least width of the code; the largest is 256
    """
    return GANConfig(
        architecture=architecture,
        latent=trial.suggest_int("latent", latent, 256, log=True),
        width=trial.suggest_categorical("width", widths),
        **suggest_balance(trial),
        pack=trial.suggest_categorical("pack", [1, 2]),
    )


def suggest(trial: BaseTrial) -> GANConfig:
    return suggest_gan(trial, "32", latent=16, widths=[0.25, 0.5, 1.0])


STUDY = StudySpec(
    model=GAN,
    suggest=suggest,
    data="fashion_mnist",
    shape=(1, 32, 32),
    adapts=True,
    metric="frechet",
    direction="minimize",
    sampler="tpe",
    pruner=MedianPruner(n_startup_trials=5, n_warmup_steps=3),
    references={
        name: {**balance, "latent": 90, "width": 1.0} for name, balance in BALANCES.items()
    },
    trials=40,
    epochs=20,
    retrain_epochs=60,
    patience=10,
    pictures_every=5,
)
