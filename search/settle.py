"""What a run works on: its images, its stored study, and the plan for its workers.

Nothing is trained here. A stored study is looked for and made under a lock, so
that two machines that start at the same moment agree on what it is.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler
from rich.console import Console

from models.base import Model
from models.images import DataMissing, ImageSplits, open_images, prepare_images
from models.sources import FALLBACK, find_source
from search.bases import (
    base_label,
    base_study,
    find_base,
    find_encoder,
    judging_study,
    open_base,
)
from search.claims import Claims, owner_name
from search.console import LOUD
from search.definition import (
    Definition,
    check_definition,
    define,
    read_definition,
    write_definition,
)
from search.errors import BadVariable, StudyChanged
from search.judging import is_judged
from search.preference import NAME, is_preference
from search.probe import check_fit
from search.pruners import make_pruner
from search.rehearsal import rehearse
from search.run import StudyRun, git_revision
from search.samplers import grid_size, make_sampler, shown_at_once
from search.study import Study
from search.variables import Variables
from storage.database import CREATION, shown, study_lock
from storage.errors import short
from storage.paths import check_name
from storage.preferences import is_preferential, page_settings
from storage.trial_storage import TrialStorage


def check_names(variables: Variables, study: Study) -> None:
    """Samplers and pruners given by variables: wrong ones are found here, not in a worker."""
    if is_preference(variables.sampler or study.spec.sampler):
        _check_preference(variables, study)
    sampler = make_sampler(variables.sampler or study.spec.sampler, seed=0, space=study.space)
    pruner = make_pruner(variables.pruner or study.spec.pruner)
    if variables.sampler or variables.pruner or not isinstance(study.spec.sampler, str):
        rehearse(study.spec.suggest, sampler, pruner)


def _check_preference(variables: Variables, study: Study) -> None:
    """A person needs something to look at, and gives a pruner nothing to compare."""
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


class Found(NamedTuple):
    """What a run starts with: its images' name, their cached file, and what is in it."""

    data: str
    cached: Path
    images: ImageSplits
    base: Path | None = None  # the export that every model starts from
    encoder: Path | None = None  # the export that judges samples of images without classes

    @property
    def label(self) -> str:
        """The set's name, fit for a file."""
        return self.cached.stem.rpartition("-")[0]


def find_images(variables: Variables, study: Study, console: Console) -> Found:
    """The images that fit the study; the digits when the study's own are not to be had."""
    wanted = variables.data or study.spec.data
    if study.spec.shape is not None:
        check_fit(study, study.spec.shape)  # before an hour of reading
    label = find_source(wanted, variables.data_root).label
    study_name(study, wanted, label, variables.sampler)
    data, cached = _prepare(variables, study, console)
    found = Found(data, cached, open_images(cached))
    judging = is_judged(study.spec) and found.images.train.labels is None
    needed = judging_study(study) if judging else base_study(study)
    stored = study_name(needed, data, found.label) if needed else ""
    if judging:
        found = found._replace(encoder=find_encoder(variables, study, stored))
    else:
        found = found._replace(base=find_base(variables, study, stored))
    check_fit(study, found.images.shape, found.images, open_base(found.base))
    return found


def _prepare(variables: Variables, study: Study, console: Console) -> tuple[str, Path]:
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
    variables: Variables, study: Study, storage: TrialStorage, found: Found
) -> tuple[Claims, StudyRun]:
    """The stored study, made now if it is new, and the run that goes on with it."""
    name = study_name(study, found.data, found.label, variables.sampler)
    sampler = make_sampler(variables.sampler or study.spec.sampler, seed=0, space=study.space)
    at_once = shown_at_once(sampler)
    with study_lock(storage.engine, CREATION):
        opened, definition = _open(variables, study, storage, found, name, at_once)
    claims = Claims(opened, storage, owner_name(os.getpid()))
    claims.shown = at_once
    run = StudyRun(
        name=study.reference,
        study=name,
        storage=variables.storage_url,
        runs=str(variables.runs),
        images=str(found.cached),
        seed=definition.seed,
        trials=_total(
            variables.trials or study.spec.trials, sampler, opened, len(study.spec.references)
        ),
        epochs=definition.epochs,
        retrain_epochs=variables.retrain_epochs or study.spec.retrain_epochs,
        revision=git_revision(),
        token=definition.token,
        trial_minutes=variables.trial_minutes,
        memory=variables.memory,
        sampler=variables.sampler,
        pruner=variables.pruner,
        base=None if found.base is None else str(found.base),
        shown=at_once,
        encoder=None if found.encoder is None else str(found.encoder),
    )
    return claims, run


def study_name(study: Study, data: str, label: str, sampler: str | None = None) -> str:
    """``cae`` on the study's own images, ``cae-digits`` or ``cae-folder-birds`` on others;
    ``cae-preference`` where a person decides.

    sampler: instead of the study's own
    """
    own = data == study.spec.data
    end = f"-{NAME}" if is_preference(sampler or study.spec.sampler) else ""
    return check_name((study.name if own else f"{study.name}-{label}") + end)


def _open(
    variables: Variables,
    study: Study,
    storage: TrialStorage,
    found: Found,
    name: str,
    at_once: int | None,
) -> tuple[optuna.Study, Definition]:
    """The study called ``name`` and what it is; raises `StudyChanged` if it is another.

    at_once: how many trials a person chooses among, where one decides
    """
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
    definition = replace(
        define(study, found.images, epochs=variables.epochs, seed=variables.seed, stored=stored),
        base=base_label(found.base or found.encoder),
    )
    if stored is not None:
        _check_kind(opened, storage, decided_by_a_person=at_once is not None)
        check_definition(name, stored, definition)
        _set_page(opened, storage, at_once)
        return opened, definition
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        opened.set_metric_names([study.spec.metric])  # the dashboard's axes say mse
    _set_page(opened, storage, at_once)
    write_definition(opened, definition)
    return opened, definition


def _check_kind(study: optuna.Study, storage: TrialStorage, *, decided_by_a_person: bool) -> None:
    """Values and choices never mix: a study is ranked by the one or the other for good."""
    if is_preferential(storage.get_study_system_attrs(study._study_id)) != decided_by_a_person:
        ranked = "its values" if decided_by_a_person else "a person's choices"
        raise StudyChanged(
            f"study {study.study_name!r} is stored as one that {ranked} rank; rename the study's "
            "file, or use another RUNS or STORAGE"
        )


def _set_page(study: optuna.Study, storage: TrialStorage, at_once: int | None) -> None:
    """What the dashboard's page shows and asks."""
    if at_once is not None:
        for key, value in page_settings(at_once).items():
            storage.set_study_system_attr(study._study_id, key, value)


def _total(wanted: int, sampler: BaseSampler, study: optuna.Study, references: int) -> int:
    """Trials in all: a grid ends with its last point."""
    points = grid_size(sampler)
    if points is None:
        return wanted
    trials = study.get_trials(deepcopy=False)
    others = sum("grid_id" not in trial.system_attrs for trial in trials)
    return min(wanted, others + max(0, references - len(trials)) + points)
