"""The best classifier of `classifier`, with its encoder trained along for a few epochs.

This is the second half of reference system A2: the encoder is frozen in the first search, and all
weights are tuned in this one.

    make study NAME=classifier_tuned FIRST=1
"""

from __future__ import annotations

from optuna.trial import BaseTrial

from models.classifier import Classifier, ClassifierConfig
from search.study import StudySpec


def suggest(trial: BaseTrial) -> ClassifierConfig:
    return ClassifierConfig(
        frozen=False,
        lr=trial.suggest_float("lr", 3e-5, 3e-3, log=True),
        weight_decay=trial.suggest_float("weight_decay", 1e-6, 1e-3, log=True),
        dropout=trial.suggest_float("dropout", 0.0, 0.5),
        schedule="cosine",
    )


STUDY = StudySpec(
    model=Classifier,
    suggest=suggest,
    data="fashion_mnist",
    shape=(1, 28, 28),
    adapts=True,
    metric="accuracy",
    direction="maximize",
    sampler="tpe",
    pruner="median",
    trials=8,
    epochs=10,
    retrain_epochs=10,
    patience=10,
    starts_from="classifier",
)
