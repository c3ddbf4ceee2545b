"""Images given other labels, where images are few: StarGAN at a quarter of its width.

On few images the discriminator's labels are the weak point: the generator learns what flips them,
which need not be what a person sees. With `projection` its scores of the labels also tell real
images from fakes, so that an image counts as real only with the label that it is to have. The
first trial is what worked on 612 emoji with three attributes.

    make study NAME=stargan_few DATA=folder:PATH
"""

from __future__ import annotations

from typing import Any

from optuna.pruners import MedianPruner
from optuna.trial import BaseTrial

from models.stargan import StarGAN, StarGANConfig
from search.study import StudySpec

FOUND = {
    "projection": 1.0,
    "lr_g": 1e-3,
    "lr_d": 1e-3,
    "g_steps": 1,
    "normalization": "spectral",
    "augment": "translation",
}


def suggest_few(trial: BaseTrial) -> dict[str, Any]:
    """Return how the networks of a GAN with labels learn where images are few."""
    return {
        "projection": trial.suggest_categorical("projection", [0.0, 0.3, 1.0]),
        "lr_g": trial.suggest_float("lr_g", 2e-4, 4e-3, log=True),
        "lr_d": trial.suggest_float("lr_d", 2e-4, 4e-3, log=True),
        "g_steps": trial.suggest_categorical("g_steps", [1, 2]),
        "normalization": trial.suggest_categorical("normalization", ["batch", "spectral"]),
        "augment": trial.suggest_categorical(
            "augment", ["none", "translation", "translation,cutout"]
        ),
        "ema": 0.998,
        "schedule": "cosine_decay",
    }


def suggest(trial: BaseTrial) -> StarGANConfig:
    return StarGANConfig(
        width=0.25,
        blocks=trial.suggest_int("blocks", 2, 8),
        label_weight=trial.suggest_float("label_weight", 0.5, 10.0, log=True),
        reconstruction_weight=trial.suggest_float("reconstruction_weight", 0.5, 10.0, log=True),
        d_steps=1,
        **suggest_few(trial),
    )


STUDY = StudySpec(
    model=StarGAN,
    suggest=suggest,
    data="folder:data/faces",
    shape=(3, 64, 64),
    adapts=True,
    metric="label_frechet",
    direction="minimize",
    sampler="tpe",
    pruner=MedianPruner(n_startup_trials=4, n_warmup_steps=10),
    references={
        "emoji": {
            "blocks": 6,
            "label_weight": 2.0,
            "reconstruction_weight": 2.0,
            **FOUND,
        }
    },
    trials=12,
    epochs=80,
    retrain_epochs=80,
    pictures_every=5,
)
