"""Which loss, which penalty and which augmentation suit a GAN on MNIST, in a width for a CPU?

The network and the images are those of `gan_balance`. Searched are the five losses of
`models.training.gan_losses`, each with the penalties and the norm that were published for it, and
what its discriminator is shown (`models.training.augmenting`). The first trials try each loss as
it was published, all at the same rates, so that they differ in the loss alone.

    make study NAME=gan_losses
"""

from __future__ import annotations

from typing import Any

from optuna.pruners import MedianPruner
from optuna.trial import BaseTrial

from models.gan import GAN, GANConfig
from models.training.gan_losses import LOSSES
from search.study import StudySpec

AUGMENTS = ["none", "translation", "translation,cutout", "colour,translation,cutout"]
ADA_IMAGES = 50_000  # its paper takes 500,000 of 25 million; here a trial sees 240,000


def suggest_loss(trial: BaseTrial) -> dict[str, Any]:
    """Return a loss and what holds its discriminator back, for the study of any GAN.

    Each loss asks only for what means something to it: a critic of Wasserstein's needs its penalty
    and no batch norm, the relativistic one has R1 and R2 of one weight, as in R3GAN.
    """
    loss = trial.suggest_categorical("loss", list(LOSSES))
    values: dict[str, Any] = {"loss": loss}
    if loss == "wasserstein":
        weight = trial.suggest_float("gradient_penalty", 0.1, 30.0, log=True)
        return {**values, "gradient_penalty": weight, "normalization": "none"}
    values["normalization"] = trial.suggest_categorical(
        "normalization", ["batch", "spectral", "none"]
    )
    if loss == "relativistic":
        weight = trial.suggest_float("r1_and_r2", 0.01, 10.0, log=True)
        return {**values, "r1": weight, "r2": weight}
    values["r1"] = trial.suggest_categorical("r1", [0.0, 0.1, 1.0])
    if LOSSES[loss].smooths:
        values["smoothing"] = trial.suggest_categorical("smoothing", [0.0, 0.1])
    return values


def suggest_augmentation(trial: BaseTrial) -> dict[str, Any]:
    """Return how what the discriminator sees is augmented: not at all, always, or adaptively."""
    augment = trial.suggest_categorical("augment", AUGMENTS)
    if augment == "none":
        return {"augment": augment}
    target = trial.suggest_categorical("ada_target", [0.0, 0.3, 0.6])  # 0: always
    return {"augment": augment, "ada_target": target, "ada_images": ADA_IMAGES}


def suggest(trial: BaseTrial) -> GANConfig:
    return GANConfig(
        architecture="32",
        width=0.125,
        batch_size=64,
        lr_g=trial.suggest_float("lr_g", 1e-4, 1e-2, log=True),
        lr_d=trial.suggest_float("lr_d", 1e-4, 1e-2, log=True),
        d_steps=trial.suggest_categorical("d_steps", [1, 2, 5]),
        beta1=trial.suggest_categorical("beta1", [0.0, 0.5]),
        ema=trial.suggest_categorical("ema", [0.0, 0.99, 0.999]),
        **suggest_loss(trial),
        **suggest_augmentation(trial),
    )


EQUAL = {"lr_g": 1e-3, "lr_d": 1e-3, "d_steps": 1, "beta1": 0.5, "ema": 0.99, "augment": "none"}
LABELS = {"r1": 0.0, "smoothing": 0.0}

STUDY = StudySpec(
    model=GAN,
    suggest=suggest,
    data="mnist",
    shape=(1, 32, 32),
    adapts=True,
    metric="frechet",
    direction="minimize",
    sampler="tpe(n_startup_trials=10)",
    pruner=MedianPruner(n_startup_trials=6, n_warmup_steps=2),
    references={
        "DCGAN": {**EQUAL, "loss": "non_saturating", "normalization": "batch", **LABELS},
        "hinge, spectral norm": {
            **EQUAL, "loss": "hinge", "normalization": "spectral", "r1": 0.0,
        },
        "least squares": {**EQUAL, "loss": "least_squares", "normalization": "batch", **LABELS},
        "Wasserstein, gradient penalty": {
            **EQUAL, "loss": "wasserstein", "gradient_penalty": 10.0, "beta1": 0.0, "d_steps": 5,
        },
        "relativistic, R1 and R2": {
            **EQUAL, "loss": "relativistic", "normalization": "none", "r1_and_r2": 1.0,
            "beta1": 0.0,
        },
    },
    trials=40,
    epochs=5,
    retrain_epochs=10,
    patience=10,
    pictures_every=1,
    second_judge=True,
)  # fmt: skip
