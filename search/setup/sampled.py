"""Configurations that a study's ``suggest`` makes of random parameters, always the same.

    for config in sample_configurations(study): ...

They stand for all of a study's space where something has to be known of it before it is searched.
"""

from __future__ import annotations

from contextlib import suppress

import optuna
from optuna.exceptions import TrialPruned
from optuna.samplers import RandomSampler

from models.base import ModelConfig
from search.errors import StudyFileError
from search.setup.mistakes import mistakes_of
from search.study import Study

SAMPLED = 32  # configurations that stand for all
ATTEMPTS = 1000  # random sets of parameters, at most


def sample_configurations(study: Study, count: int = SAMPLED) -> list[ModelConfig]:
    """Return up to ``count`` configurations, at least one.

    Parameters that ``suggest`` turns down with `TrialPruned` are left out.
    """
    sampled = optuna.create_study(
        storage=optuna.storages.InMemoryStorage(), sampler=RandomSampler(seed=0)
    )
    found: list[ModelConfig] = []
    with mistakes_of(study.path):
        for _ in range(ATTEMPTS):
            if len(found) == count:
                break
            with suppress(TrialPruned):
                found.append(study.spec.suggest(sampled.ask()))
    if not found:
        raise StudyFileError(
            f"{study.path}: suggest raised TrialPruned for {ATTEMPTS} random sets of parameters"
        )
    return found
