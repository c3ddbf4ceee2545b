"""How far do learning rates alone bring a GAN? The control for what `gan_balance` finds.

A search among many parameters looks good beside a configuration that nobody has searched. So this
study gives two learning rates a search of the same cost: the network, the images, the number of
trials and epochs, the sampler and the pruner are those of `gan_balance`. G's weights are averaged;
all else is as it was reported. `gan_balances` compares the winners of both.

    make study NAME=gan_rates
"""

from __future__ import annotations

from typing import Any

from optuna.trial import BaseTrial

from models.gan import GAN, GANConfig
from search.studies import gan_balance
from search.studies.gan import AS_REPORTED, BALANCES
from search.study import StudySpec

AVERAGED: dict[str, Any] = {**AS_REPORTED, "ema": 0.999}  # as in the balance that was found


def suggest(trial: BaseTrial) -> GANConfig:
    return GANConfig(
        architecture="32",
        width=0.125,
        batch_size=64,
        **AVERAGED,
        lr_g=trial.suggest_float("lr_g", 1e-4, 1e-2, log=True),
        lr_d=trial.suggest_float("lr_d", 1e-4, 1e-2, log=True),
    )


STUDY = StudySpec(
    model=GAN,
    suggest=suggest,
    data="mnist",
    shape=(1, 32, 32),
    adapts=True,
    metric="frechet",
    direction="minimize",
    sampler="tpe(n_startup_trials=8)",
    pruner=gan_balance.STUDY.pruner,
    references={
        **{
            name: {"lr_g": balance["lr_g"], "lr_d": balance["lr_d"]}
            for name, balance in BALANCES.items()
            if balance["d_steps"] == AS_REPORTED["d_steps"]  # others differ in more than rates
        },
        "equal rates 1e-3": {"lr_g": 1e-3, "lr_d": 1e-3},
    },
    trials=20,
    epochs=5,
    retrain_epochs=10,
    patience=10,
    pictures_every=1,
    second_judge=True,
)
