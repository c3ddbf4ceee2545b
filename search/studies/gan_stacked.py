"""How many of 1,000 modes does a GAN find? Stacked MNIST, with and without packing.

Three digits as the channels of an image make 1,000 classes (Metz et al. 2017). PacGAN (Lin et al.
2018) reports 99.0 modes for its DCGAN, and all 1,000 at a KL of 0.06 when the discriminator judges
two images at once. The winner's card counts them as the paper does, in 26,000 samples. Reference
system B1, configuration `32`, with an eighth of its channels, so that a CPU trains it.

    make study NAME=gan_stacked
"""

from __future__ import annotations

from optuna.trial import BaseTrial

from models.gan import GAN, GANConfig
from search.study import StudySpec


def suggest(trial: BaseTrial) -> GANConfig:
    return GANConfig(
        architecture="32",
        width=trial.suggest_categorical("width", [0.125, 0.25]),
        batch_size=64,
        lr_g=trial.suggest_float("lr_g", 1e-4, 1e-2, log=True),
        lr_d=trial.suggest_float("lr_d", 1e-4, 1e-2, log=True),
        ema=trial.suggest_categorical("ema", [0.0, 0.99, 0.999]),
        pack=trial.suggest_categorical("pack", [1, 2, 4]),
    )


PLAIN = {"width": 0.125, "lr_g": 1e-3, "lr_d": 1e-3, "ema": 0.99}  # it learns in few epochs

STUDY = StudySpec(
    model=GAN,
    suggest=suggest,
    data="stacked_mnist",
    shape=(3, 32, 32),
    metric="frechet",
    direction="minimize",
    sampler="tpe",
    pruner="median",
    references={"DCGAN": {**PLAIN, "pack": 1}, "PacGAN 2": {**PLAIN, "pack": 2}},
    trials=20,
    epochs=10,
    retrain_epochs=30,
    patience=10,
)
