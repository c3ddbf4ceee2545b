"""How a GAN's two networks are balanced, on MNIST, in a width that a CPU trains: nothing else.

Reference system B1, configuration `32` with an eighth of its channels. Judged by the Fréchet
distance of 5,000 samples after every epoch; loss says nothing here. The balances of the reports
are tried first. Trials cost about the same: an epoch is one pass of D over the images, whatever
the number of its steps.

    make study NAME=gan_balance
    make report NAME=gan_balance
"""

from __future__ import annotations

from optuna.pruners import MedianPruner
from optuna.trial import BaseTrial

from models.gan import GAN, GANConfig
from search.study import StudySpec

REPORTED = {
    "d_steps": 1, "g_steps": 1, "extra_g_steps": 0, "beta1": 0.5, "smoothing": 0.0,
    "instance_noise": 0.0, "normalization": "batch", "r1": 0.0, "ema": 0.0, "pack": 1,
}  # fmt: skip


def suggest(trial: BaseTrial) -> GANConfig:
    return GANConfig(
        architecture="32",
        width=0.125,
        batch_size=64,
        lr_g=trial.suggest_float("lr_g", 1e-4, 1e-2, log=True),
        lr_d=trial.suggest_float("lr_d", 1e-4, 1e-2, log=True),
        d_steps=trial.suggest_categorical("d_steps", [1, 2, 4]),
        g_steps=trial.suggest_categorical("g_steps", [1, 2]),
        extra_g_steps=trial.suggest_categorical("extra_g_steps", [0, 1]),
        beta1=trial.suggest_categorical("beta1", [0.0, 0.5]),
        smoothing=trial.suggest_categorical("smoothing", [0.0, 0.1]),
        instance_noise=trial.suggest_float("instance_noise", 0.0, 0.3, step=0.1),
        normalization=trial.suggest_categorical("normalization", ["batch", "spectral"]),
        r1=trial.suggest_categorical("r1", [0.0, 0.1, 1.0]),
        ema=trial.suggest_categorical("ema", [0.0, 0.99, 0.999]),
        pack=trial.suggest_categorical("pack", [1, 2]),
    )


STUDY = StudySpec(
    model=GAN,
    suggest=suggest,
    data="mnist",
    shape=(1, 32, 32),
    metric="frechet",
    direction="minimize",
    sampler="tpe(n_startup_trials=8)",
    pruner=MedianPruner(n_startup_trials=5, n_warmup_steps=2),
    references={
        "equal rates": {**REPORTED, "lr_g": 2e-4, "lr_d": 2e-4},
        "G twice D": {**REPORTED, "lr_g": 4e-4, "lr_d": 2e-4},
        "one G per 4 D": {**REPORTED, "lr_g": 2e-4, "lr_d": 2e-4, "d_steps": 4},
    },
    trials=20,
    epochs=5,
    retrain_epochs=10,
    patience=10,
    pictures_every=1,
    second_judge=True,
)
