"""How many of 1,000 modes does a GAN find? Stacked MNIST, with and without packing.

Three digits as the channels of an image make 1,000 classes (Metz et al. 2017). PacGAN (Lin et al.
2018) reports 99.0 modes for its DCGAN, and all 1,000 at a KL of 0.06 when the discriminator judges
two images at once; R3GAN (Huang et al. 2024) reports 1,000 and 0.029 by its loss alone. The cards
of the exports count the modes as these papers do, in 26,000 samples. The network is configuration
`32` of reference system B1 with an eighth to a half of its channels, so that a CPU trains it.

Searched are the losses and penalties of `gan_losses`, the steps of both networks, and packing. The
first trials are PacGAN's two, the balance that `gan_balance` found on MNIST, the same with more
channels and falling rates, which covers all modes, and R3GAN's loss.

    make study NAME=gan_stacked
"""

from __future__ import annotations

from dataclasses import replace

from optuna.trial import BaseTrial

from models.gan import GAN, GANConfig
from search.studies import gan_losses
from search.studies.gan import suggest_adaptive_rule
from search.studies.gan_balances import EVERY, FOUND
from search.study import StudySpec


def suggest(trial: BaseTrial) -> GANConfig:
    return replace(
        gan_losses.suggest(trial),
        **suggest_adaptive_rule(trial),
        g_steps=trial.suggest_categorical("g_steps", [1, 2]),
        instance_noise=trial.suggest_float("instance_noise", 0.0, 0.3, step=0.1),
        width=trial.suggest_categorical("width", [0.125, 0.25, 0.5]),
        pack=trial.suggest_categorical("pack", [1, 2, 4]),
        schedule=trial.suggest_categorical("schedule", ["constant", "cosine_decay"]),
    )


NARROW = {"width": 0.125, "pack": 1, "schedule": "constant"}
PUBLISHED = gan_losses.STUDY.references
PLAIN = {**NARROW, "extra_g_steps": 0, "g_steps": 1, "instance_noise": 0.0}
ON_MNIST = {**EVERY[FOUND], **NARROW, "loss": "non_saturating", "augment": "none"}

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
        "DCGAN": {**PLAIN, **PUBLISHED["DCGAN"]},
        "PacGAN 2": {**PLAIN, **PUBLISHED["DCGAN"], "pack": 2},
        "found on MNIST": ON_MNIST,
        "found on MNIST, PacGAN 2": {**ON_MNIST, "pack": 2},
        "found on MNIST, PacGAN 2, wider, rates that fall": {
            **ON_MNIST, "pack": 2, "width": 0.5, "schedule": "cosine_decay",
        },
        "R3GAN": {**PLAIN, **PUBLISHED["relativistic, R1 and R2"]},
    },
    trials=20,
    epochs=10,
    retrain_epochs=18,
    patience=10,
)  # fmt: skip
