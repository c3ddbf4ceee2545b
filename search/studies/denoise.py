"""The convolutional autoencoder as a denoiser of Fashion-MNIST.

This is reference system A3, and it searches what `cae` searches. The images have three kinds of
noise in turn: Gaussian with a standard deviation of 0.2, salt and pepper on 20 % of the pixels, and
photon noise with 25 photons for white. The value is the squared error between the denoised and the
clean image. The tables of the export say how models trained on one kind do on the others.

    make study NAME=denoise
"""

from __future__ import annotations

from dataclasses import replace

from optuna.pruners import MedianPruner
from optuna.trial import BaseTrial

from models.cae import CAE, CAEConfig
from search.studies import cae
from search.study import StudySpec


def suggest(trial: BaseTrial) -> CAEConfig:
    return replace(cae.suggest(trial), noise="all", strength=0.2)


STUDY = StudySpec(
    model=CAE,
    suggest=suggest,
    data="fashion_mnist",
    shape=(1, 28, 28),
    adapts=True,
    metric="mse",
    sampler="tpe",
    pruner=MedianPruner(n_startup_trials=3, n_warmup_steps=2),
    trials=30,
    epochs=20,
    references={
        "best of the clean study": {
            "channels": 9,
            "latent": 27,
            "optimizer": "adam",
            "weight_decay": 3.96e-6,
            "lr": 0.004295,
        }
    },
)
