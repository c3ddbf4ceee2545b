"""The GAN with dropout and a resized stage, on MNIST: reference system B1, row `dropout-28`.

The study searches what `gan` searches, in another architecture.

    make study NAME=gan_dropout
"""

from __future__ import annotations

from optuna.pruners import MedianPruner
from optuna.trial import BaseTrial

from models.gan import GAN, GANConfig
from search.studies.gan import BALANCES, suggest_gan
from search.study import StudySpec


def suggest(trial: BaseTrial) -> GANConfig:
    return suggest_gan(trial, "dropout-28", latent=16, widths=[0.125, 0.25, 0.5, 1.0])


STUDY = StudySpec(
    model=GAN,
    suggest=suggest,
    data="mnist",
    shape=(1, 28, 28),
    adapts=True,
    metric="frechet",
    direction="minimize",
    sampler="tpe",
    pruner=MedianPruner(n_startup_trials=5, n_warmup_steps=3),
    references={
        name: {**balance, "latent": 100, "width": 1.0} for name, balance in BALANCES.items()
    },
    trials=30,
    epochs=20,
    retrain_epochs=60,
    patience=10,
    pictures_every=5,
)
