"""Classes of Fashion-MNIST from the frozen encoder of the best convolutional autoencoder.

This is reference system A2: TPE searches the head's width, dropout, learning rate and L2 penalty in
25 trials. After that `classifier_tuned` trains all weights for a few epochs.

    make study NAME=classifier FIRST=1     (FIRST=1: run cae now if it has no export)
"""

from __future__ import annotations

from optuna.trial import BaseTrial

from models.classifier import Classifier, ClassifierConfig
from search.study import StudySpec


def suggest(trial: BaseTrial) -> ClassifierConfig:
    return ClassifierConfig(
        hidden=trial.suggest_int("hidden", 32, 1024, log=True),
        dropout=trial.suggest_float("dropout", 0.0, 0.5),
        lr=trial.suggest_float("lr", 1e-4, 1e-2, log=True),
        weight_decay=trial.suggest_float("weight_decay", 1e-7, 1e-3, log=True),
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
    trials=25,
    epochs=20,
    retrain_epochs=60,
    patience=60,  # the schedule ends it: rates fall to the last epoch
    starts_from="cae",
    then="classifier_tuned",
    references={
        "reported": {
            "hidden": 276,
            "dropout": 0.06,
            "lr": 0.0031332,
            "weight_decay": 1.014e-5,
        }
    },
)
