"""How many of 1,000 modes does a GAN find? Stacked MNIST, with and without packing.

Three digits as the channels of an image make 1,000 classes (Metz et al. 2017). PacGAN (Lin et al.
2018) reports 99.0 modes for its DCGAN, and all 1,000 at a KL of 0.06 when the discriminator judges
two images at once. The cards of the exports count the modes as the paper does, in 26,000 samples.
The network is configuration `32` of reference system B1 with an eighth of its channels, so that a
CPU trains it. The first trials are the paper's two and the balance that `gan_balance` found on
MNIST.

    make study NAME=gan_stacked
"""

from __future__ import annotations

from optuna.trial import BaseTrial

from models.gan import GAN, GANConfig
from search.studies.gan import AS_REPORTED, suggest_balance
from search.studies.gan_balances import EVERY, FOUND
from search.study import StudySpec


def suggest(trial: BaseTrial) -> GANConfig:
    return GANConfig(
        architecture="32",
        width=trial.suggest_categorical("width", [0.125, 0.25]),
        batch_size=64,
        **suggest_balance(trial),
        pack=trial.suggest_categorical("pack", [1, 2, 4]),
    )


NARROW = {"width": 0.125}
PLAIN = {**AS_REPORTED, **NARROW, "lr_g": 1e-3, "lr_d": 1e-3, "ema": 0.99}  # learns in few epochs

STUDY = StudySpec(
    model=GAN,
    suggest=suggest,
    data="stacked_mnist",
    shape=(3, 32, 32),
    adapts=True,
    metric="frechet",
    direction="minimize",
    sampler="tpe",
    pruner="median",
    references={
        "DCGAN": {**PLAIN, "pack": 1},
        "PacGAN 2": {**PLAIN, "pack": 2},
        "found on MNIST": {**EVERY[FOUND], **NARROW},
        "found on MNIST, PacGAN 2": {**EVERY[FOUND], **NARROW, "pack": 2},
    },
    trials=20,
    epochs=10,
    retrain_epochs=30,
    patience=10,
)
