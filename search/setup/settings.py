"""Whether the sampler, the pruner and the other settings of a command fit the study.

    check_settings(variables, study)      # raises `BadVariable` before anything is opened

A wrong setting would otherwise end the first trials, in a worker.
"""

from __future__ import annotations

from pathlib import Path

from models.base import Model
from models.errors import ExtractorError
from search.errors import BadVariable
from search.setup.checks import check_strategies
from search.setup.tries import check_room, read_tries
from search.strategies.preference import is_preference
from search.strategies.pruners import make_pruner
from search.strategies.samplers import make_sampler
from search.strategies.warm import check_learns
from search.study import Study
from search.variables import Variables
from storage.errors import short


def check_settings(variables: Variables, study: Study) -> None:
    """Raise `BadVariable` for a setting that is wrong, or that this study cannot use.

    It checks SAMPLER, PRUNER, TRY, STOP, WARM and INCEPTION.
    """
    tries = read_tries(variables.tries, study.space)
    check_room(len(tries), variables.trials or study.spec.trials)
    if is_preference(variables.sampler or study.spec.sampler):
        _check_preference(variables, study)
        if variables.stop is not None:
            raise BadVariable(
                "STOP compares values, and with sampler 'preference' a person's "
                "choices decide; leave STOP out"
            )
    goals = study.spec.goals
    if variables.stop is not None and len(goals) > 1:
        raise BadVariable(
            f"STOP={variables.stop} asks what the best value may still gain, and of {len(goals)} "
            "goals no trial is the best of all; leave STOP out"
        )
    if variables.warm and len(goals) > 1:
        raise BadVariable(
            f"WARM ranks earlier trials by one value, and of {len(goals)} goals no trial is the "
            "best of all; leave WARM out"
        )
    chosen = variables.sampler or study.spec.sampler
    sampler = make_sampler(chosen, seed=0, space=study.space, goals=goals)
    if variables.warm:
        check_learns(sampler)
    pruner = make_pruner(variables.pruner or study.spec.pruner, study.spec.goals)
    if variables.sampler or variables.pruner or not isinstance(study.spec.sampler, str):
        check_strategies(study.spec.suggest, sampler, pruner, goals)
    if variables.inception is not None:
        _check_inception(variables.inception, study)


def _check_inception(path: Path, study: Study) -> None:
    """Raise `BadVariable` for a file without Inception's weights, and where no images are made."""
    from models.evaluation.inception import load_inception  # slow, and few commands need it

    if not study.spec.model.judged:
        raise BadVariable(
            f"INCEPTION measures new images, and {study.spec.model.__name__} makes none: leave it "
            "out"
        )
    try:
        load_inception(path)
    except ExtractorError as error:
        raise BadVariable(str(error)) from error


def _check_preference(variables: Variables, study: Study) -> None:
    """Raise `BadVariable` where a person cannot decide: the model draws no picture, or a pruner
    would compare values."""
    model = study.spec.model
    if model.preview is Model.preview:
        raise BadVariable(
            f"sampler 'preference' shows a person the picture of each trial, but {model.__name__} "
            "draws none; give it a preview(), or take another sampler"
        )
    if variables.pruner not in (None, "none"):
        raise BadVariable(
            f"PRUNER={short(variables.pruner or '')} compares values, but with sampler "
            "'preference' a person's choices decide; leave PRUNER out"
        )
