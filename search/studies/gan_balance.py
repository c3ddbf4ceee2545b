"""How a GAN's two networks are balanced, on MNIST, in a width that a CPU trains, and nothing else.

This is configuration `32` of reference system B1 with an eighth of its channels. Trials are judged
by the Fréchet distance of 5,000 samples after every epoch. The balances of the reports are tried
first. All trials see equally many images, since an epoch is one pass of D over them, however many
steps that takes.

    make study NAME=gan_balance
    make report NAME=gan_balance
"""

from __future__ import annotations

from optuna.pruners import MedianPruner
from optuna.trial import BaseTrial

from models.gan import GAN, GANConfig
from search.studies.gan import BALANCES, suggest_balance
from search.study import StudySpec


def suggest(trial: BaseTrial) -> GANConfig:
    return GANConfig(
        architecture="32",
        width=0.125,
        batch_size=64,
        **suggest_balance(trial),
        pack=trial.suggest_categorical("pack", [1, 2]),
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
    pruner=MedianPruner(n_startup_trials=5, n_warmup_steps=2),
    references=BALANCES,
    trials=20,
    epochs=5,
    retrain_epochs=10,
    patience=10,
    pictures_every=1,
    second_judge=True,
)
