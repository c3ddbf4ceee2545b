"""The wider resizing autoencoder as a denoiser of MNIST.

This is the denoising variant of reference system A5, with 30,689 weights. The noise is Gaussian.
Its standard deviation is 0.5 of the range of a pixel, and noisy pixels are clipped to that range.

    make study NAME=cae_upsample_denoise
"""

from __future__ import annotations

from dataclasses import replace

from optuna.pruners import MedianPruner
from optuna.trial import BaseTrial

from models.upsample_ae import UpsampleAE, UpsampleAEConfig
from search.studies import cae_upsample
from search.study import StudySpec


def suggest(trial: BaseTrial) -> UpsampleAEConfig:
    clean = cae_upsample.suggest(trial)
    return replace(clean, channels=(32, 32, 16), noise="gaussian", strength=0.5)


STUDY = StudySpec(
    model=UpsampleAE,
    suggest=suggest,
    data="mnist",
    shape=(1, 28, 28),
    adapts=True,
    metric="bce",
    sampler="tpe",
    pruner=MedianPruner(n_startup_trials=3, n_warmup_steps=5),
    trials=8,
    epochs=20,
    retrain_epochs=20,
    patience=20,  # the schedule ends it: rates fall to the last epoch
    references={"reported": cae_upsample.REPORTED},
)
