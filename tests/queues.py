"""A stored study without a run, and its queue."""

from __future__ import annotations

import os

import optuna

from search.trials.owner import owner_name
from search.trials.queue import TrialQueue
from storage.database.connection import open_storage


def make_study(url: str, name: str = "s", direction: str = "minimize") -> TrialQueue:
    storage = open_storage(url)
    study = optuna.create_study(
        study_name=name, storage=storage, direction=direction,  # type: ignore[arg-type]
        sampler=optuna.samplers.RandomSampler(seed=0), pruner=optuna.pruners.NopPruner(),
    )  # fmt: skip
    return TrialQueue(study, storage, owner=owner_name(os.getpid()))
