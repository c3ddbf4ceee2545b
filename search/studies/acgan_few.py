"""Images with attributes that can be chosen, where images are few: ACGAN at a quarter of its width.

An epoch of few images has few steps, and a GAN that makes images out of noise needs thousands of
them: trials are long. Searched are also how much labels weigh, and whether the discriminator learns
them from fakes too, as was published, or from real images alone. The first two trials are what
worked on 612 emoji with three attributes: found by hand, and found by a search.

    make study NAME=acgan_few DATA=folder:PATH
"""

from __future__ import annotations

from optuna.pruners import MedianPruner
from optuna.trial import BaseTrial

from models.acgan import ACGAN, ACGANConfig
from search.studies.stargan_few import FOUND, suggest_few
from search.study import StudySpec


def suggest(trial: BaseTrial) -> ACGANConfig:
    return ACGANConfig(
        width=0.25,
        latent=trial.suggest_int("latent", 16, 128, log=True),
        label_weight=trial.suggest_float("label_weight", 0.5, 10.0, log=True),
        label_fakes=trial.suggest_categorical("label_fakes", [True, False]),
        extra_g_steps=0,
        batch_size=32,
        **suggest_few(trial),
    )


STUDY = StudySpec(
    model=ACGAN,
    suggest=suggest,
    data="folder:data/faces",
    shape=(3, 64, 64),
    adapts=True,
    metric="label_frechet",
    direction="minimize",
    sampler="tpe",
    pruner=MedianPruner(n_startup_trials=4, n_warmup_steps=30),
    references={
        "emoji": {
            "latent": 64,
            "label_weight": 6.0,
            "label_fakes": False,
            **FOUND,
        },
        "emoji, found by a search": {
            **FOUND,
            "latent": 60,
            "label_weight": 0.6,
            "label_fakes": False,
            "lr_g": 1.44e-3,
            "lr_d": 4.4e-4,
            "augment": "none",
        },
    },
    trials=12,
    epochs=80,
    retrain_epochs=80,
    pictures_every=10,
)
