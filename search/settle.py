"""What a run works on: its images, its stored study, and the plan for its workers.

Nothing is trained here. A stored study is looked for and made under a lock, so
that two machines that start at the same moment agree on what it is.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler
from rich.console import Console

from models.images import DataMissing, ImageSplits, open_images, prepare_images
from models.sources import FALLBACK
from search.claims import Claims, owner_name
from search.console import LOUD
from search.definition import (
    Definition,
    check_definition,
    define,
    read_definition,
    write_definition,
)
from search.errors import StudyChanged
from search.pruners import make_pruner
from search.rehearsal import rehearse
from search.run import StudyRun, git_revision
from search.samplers import grid_size, make_sampler
from search.study import Study, check_fit
from search.variables import Variables
from storage.database import CREATION, shown, study_lock
from storage.paths import check_name
from storage.trial_storage import TrialStorage


def check_names(variables: Variables, study: Study) -> None:
    """Samplers and pruners given by variables: wrong ones are found here, not in a worker."""
    sampler = make_sampler(variables.sampler or study.spec.sampler, seed=0, space=study.space)
    pruner = make_pruner(variables.pruner or study.spec.pruner)
    if variables.sampler or variables.pruner or not isinstance(study.spec.sampler, str):
        rehearse(study.spec.suggest, sampler, pruner)


def find_images(variables: Variables, study: Study, console: Console) -> tuple[str, Path]:
    """Name and cached file of the images; the digits when the study's own are not to be had."""
    wanted = variables.data or study.spec.data
    steps: dict[str, Any] = {
        "root": variables.data_root,
        "cache": variables.paths.cache,
        "shape": study.spec.shape,
    }
    try:
        with console.status(f"reading {wanted} ...") as status:
            return wanted, prepare_images(
                wanted,
                progress=lambda done, total: status.update(f"reading {wanted}: {done} of {total}"),
                **steps,
            )
    except DataMissing as error:
        if variables.data is not None:
            raise
        for line in (
            f" {error} ",
            f" RUNNING ON {FALLBACK.upper()} INSTEAD, as study "
            f"{study.name}-{FALLBACK}: its values say nothing about {wanted} ",
        ):
            console.print(line, style=LOUD, markup=False, soft_wrap=True)
        return FALLBACK, prepare_images(FALLBACK, **steps)


def settle(
    variables: Variables, study: Study, storage: TrialStorage, data: str, cached: Path
) -> tuple[Claims, StudyRun]:
    """The stored study, made now if it is new, and the run that goes on with it."""
    images = open_images(cached)
    check_fit(study, images.shape)
    name = study_name(study, data, cached)
    with study_lock(storage.engine, CREATION):
        opened, definition = _open(variables, study, storage, images, name)
    claims = Claims(opened, storage, owner_name(os.getpid()))
    sampler = make_sampler(
        variables.sampler or study.spec.sampler, seed=definition.seed, space=study.space
    )
    run = StudyRun(
        name=study.reference,
        study=name,
        storage=variables.storage_url,
        runs=str(variables.runs),
        images=str(cached),
        seed=definition.seed,
        trials=_total(variables.trials or study.spec.trials, sampler, opened),
        epochs=definition.epochs,
        retrain_epochs=variables.retrain_epochs or study.spec.retrain_epochs,
        revision=git_revision(),
        token=definition.token,
        trial_minutes=variables.trial_minutes,
        memory=variables.memory,
        sampler=variables.sampler,
        pruner=variables.pruner,
    )
    return claims, run


def study_name(study: Study, data: str, cached: Path) -> str:
    """``cae`` on the study's own images, ``cae-digits`` or ``cae-folder-birds`` on others."""
    if data == study.spec.data:
        return study.name
    return check_name(f"{study.name}-{cached.stem.rpartition('-')[0]}")


def _open(
    variables: Variables, study: Study, storage: TrialStorage, images: ImageSplits, name: str
) -> tuple[optuna.Study, Definition]:
    """The study called ``name`` and what it is; raises `StudyChanged` if it is another."""
    known = {found.study_name for found in storage.get_all_studies()}
    opened = optuna.create_study(
        study_name=name, storage=storage, direction=study.spec.direction, load_if_exists=True
    )
    stored = read_definition(opened)
    if stored is None and name in known and opened.get_trials(deepcopy=False):
        raise StudyChanged(
            f"{shown(variables.storage_url)} has a study {name!r} that genstudy did not make; "
            "rename the study's file or use another RUNS or STORAGE"
        )
    definition = define(study, images, epochs=variables.epochs, seed=variables.seed, stored=stored)
    if stored is not None:
        check_definition(name, stored, definition)
        return opened, definition
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        opened.set_metric_names([study.spec.metric])  # the dashboard's axes say mse
    write_definition(opened, definition)
    return opened, definition


def _total(wanted: int, sampler: BaseSampler, study: optuna.Study) -> int:
    """Trials in all: a grid ends with its last point."""
    points = grid_size(sampler)
    if points is None:
        return wanted
    others = sum("grid_id" not in t.system_attrs for t in study.get_trials(deepcopy=False))
    return min(wanted, others + points)
