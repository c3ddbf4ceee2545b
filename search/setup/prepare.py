"""Prepare a run: open or make the stored study, and write down what its workers have to know.

    queue, run = prepare_run(variables, study, storage, find_images(variables, study, console))

Nothing is trained here. The stored study is opened under a lock, so that two machines that start
at the same moment agree on what it is.
"""

from __future__ import annotations

import subprocess
import warnings
from dataclasses import replace
from importlib.metadata import Distribution
from pathlib import Path

import optuna
from optuna.exceptions import ExperimentalWarning

from models.base import Model
from models.errors import ExtractorError
from search.errors import BadVariable, StudyChanged
from search.run import StudyRun
from search.setup.checks import check_strategies
from search.setup.code_digest import describe_environment
from search.setup.extension import check_extension
from search.setup.fitting import describe_fit
from search.setup.inputs import RunInputs, base_label
from search.setup.names import study_name
from search.setup.shared_place import keep_files
from search.setup.stored_study import (
    StudyIdentity,
    check_identity,
    has_kept_checkpoints,
    identify_study,
    read_identity,
    remember_keeping,
    remember_pausing_pruner,
    remember_retrain_epochs,
    remember_seeds,
    write_identity,
)
from search.setup.study_files import digest_rooms
from search.setup.tries import check_room, check_stored_room, read_tries, remember_tries
from search.setup.warm import Warm, keep_warm
from search.strategies.preference import is_preference
from search.strategies.pruners import make_pruner
from search.strategies.samplers import grid_size, make_sampler, trials_shown_at_once
from search.strategies.seeded import StudySampler
from search.strategies.stopping import with_stop
from search.strategies.warm import check_learns
from search.study import Study
from search.trials.next_trial import STOPPED_BY
from search.trials.retries import is_retry, read_retries
from search.trials.study_code import StudyCode, accept_code, describe_mixture
from search.variables import Variables
from storage.database.address import redact_url
from storage.database.connection import check_encodable
from storage.database.optuna_storage import TrialStorage
from storage.database.preferences import is_preferential, page_settings
from storage.database.study_lock import CREATION, study_lock
from storage.errors import short
from storage.files.exports import read_provenance

REMARKS = "remarks"  # attribute of the stored study
ROOT = Path(__file__).resolve().parents[2]


def check_names(variables: Variables, study: Study) -> None:
    """Raise `BadVariable` for a wrong sampler or pruner, or parameters that are not the study's,
    before a worker meets it."""
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
    from models.evaluation.inception import load_inception  # others do not wait for it

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


def prepare_run(
    variables: Variables,
    study: Study,
    storage: TrialStorage,
    inputs: RunInputs,
    warm: Warm | None = None,
) -> tuple[optuna.Study, StudyRun]:
    """Return the stored study, which is made if it is new, and the run that goes on with it.

    warm: trials of earlier studies that a new one begins with
    """
    name = study_name(study, inputs.data, inputs.label, variables.sampler)
    drawing = make_sampler(
        variables.sampler or study.spec.sampler,
        seed=0,
        space=study.space,
        goals=study.spec.goals,
    )
    at_once = trials_shown_at_once(drawing)
    wanted = variables.trials or study.spec.trials
    sampler = with_stop(drawing, variables.stop, trials=wanted)
    names = [goal.name for goal in study.spec.goals]
    check_encodable(storage.engine, [name, *names, *study.space])
    with study_lock(storage.engine, CREATION):
        opened, identity = _open_study(variables, study, storage, inputs, name, at_once)
        code = StudyCode(version=study.version, files=study.code)
        with study_lock(storage.engine, opened._study_id):
            accept_code(opened, code, is_accepted=variables.code is not None)
            warm = keep_warm(opened, warm, study.space)
        files = keep_files(opened, variables, storage)
    variables = replace(variables, pruner=remember_pausing_pruner(opened, study, variables.pruner))
    opened.sampler = sampler  # it draws nothing here; a stop is one sampler's
    chosen = variables.pruner or study.spec.pruner
    opened.pruner = make_pruner(chosen, study.spec.goals)  # which trials pause
    tries = read_tries(variables.tries, study.space)
    trials = count_trials(
        wanted,
        sampler,
        opened,
        len(study.spec.references) + len(tries),
        storage.get_study_system_attrs(opened._study_id).get(STOPPED_BY),
    )
    check_stored_room(tries, opened, trials)
    remember_tries(opened, tries)
    run = replace(
        make_run(variables, study, inputs, opened, identity, trials=trials, at_once=at_once),
        files=files,
        tries=tries,
        warm=warm.to_plain(),
    )
    if opened.user_attrs.get(REMARKS, []) != run.remarks:
        opened.set_user_attr(REMARKS, run.remarks)  # for reports
    return opened, run


def make_run(
    variables: Variables,
    study: Study,
    inputs: RunInputs,
    opened: optuna.Study,
    identity: StudyIdentity,
    *,
    trials: int,
    at_once: int | None,
) -> StudyRun:
    """Return all that a worker has to know.

    trials: how many there will be; at_once: how many a person chooses among
    """
    exported = read_provenance(variables.paths.export(opened.study_name, 1)) or {}
    return StudyRun(
        name=study.reference,
        study=opened.study_name,
        storage=variables.storage_url,
        runs=str(variables.runs),
        images=str(inputs.cached),
        seed=identity.seed,
        trials=trials,
        epochs=identity.epochs,
        retrain_epochs=remember_retrain_epochs(
            opened,
            variables.retrain_epochs,
            own=study.spec.retrain_epochs,
            exported=exported,
        ),
        seeds=remember_seeds(
            opened,
            variables.seeds,
            own=1 if at_once is not None else study.spec.seeds,  # a person has chosen by eye
            exported=exported,
        ),
        revision=code_revision(),
        token=identity.token,
        trial_minutes=variables.trial_minutes,
        memory=variables.memory,
        fuse=variables.fuse,
        sampler=variables.sampler,
        pruner=variables.pruner,
        stop=variables.stop,
        base=None if inputs.base is None else str(inputs.base),
        shown=at_once,
        encoder=None if inputs.encoder is None else str(inputs.encoder),
        inception=None if variables.inception is None else str(variables.inception),
        least_steps=identity.least_steps,
        remarks=[
            *describe_fit(study, inputs.images, least_steps=identity.least_steps),
            *describe_mixture(opened, study.version, describe_environment()),
        ],
        sources=study.sources,
        version=study.version,
        code=digest_rooms(),
        image_source=dict(inputs.source),
        image_state=[*inputs.state],
        finishes_here=variables.finish is not None,
        keeps=remember_keeping(opened, given=variables.keep is not None),
    )


def _open_study(
    variables: Variables,
    study: Study,
    storage: TrialStorage,
    inputs: RunInputs,
    name: str,
    at_once: int | None,
) -> tuple[optuna.Study, StudyIdentity]:
    """Return the stored study ``name`` and its identity; raise `StudyChanged` if it is another.

    at_once: how many trials a person chooses among; None: values decide
    """
    known = {known.study_name for known in storage.get_all_studies()}
    opened = optuna.create_study(
        study_name=name,
        storage=storage,
        directions=[goal.direction for goal in study.spec.goals],
        load_if_exists=True,
    )
    stored = read_identity(opened)
    other_goals = len(opened.directions) != len(study.spec.goals)
    others = other_goals or bool(opened.get_trials(deepcopy=False))
    if stored is None and name in known and others:
        raise StudyChanged(
            f"{redact_url(variables.storage_url)} has a study {name!r} that genstudy did not make; "
            "rename the study's file or use another RUNS or STORAGE"
        )
    identity = identify_run(variables, study, inputs, stored)
    if stored is not None:
        _check_kind(opened, storage, decided_by_a_person=at_once is not None)
        if identity.epochs > stored.epochs and at_once is None and storage.known:
            longer = replace(stored, epochs=identity.epochs)
            check_identity(name, longer, identity)
            keeps = has_kept_checkpoints(opened, study)
            check_extension(study, stored, identity, opened, keeps=keeps)
        else:
            check_identity(name, stored, identity)
        _set_page(opened, storage, at_once)
        return opened, identity
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        names = [goal.name for goal in study.spec.goals]
        opened.set_metric_names(names)  # for the axes of the dashboard
    _set_page(opened, storage, at_once)
    write_identity(opened, identity)
    return opened, identity


def identify_run(
    variables: Variables, study: Study, inputs: RunInputs, stored: StudyIdentity | None
) -> StudyIdentity:
    """Return what the study is today, on these images and with this export to start from."""
    return replace(
        identify_study(
            study, inputs.images, epochs=variables.epochs, seed=variables.seed, stored=stored
        ),
        base=base_label(inputs.base or inputs.encoder),
    )


def _check_kind(study: optuna.Study, storage: TrialStorage, *, decided_by_a_person: bool) -> None:
    """Raise `StudyChanged` if the stored study is ranked by values and this run by a person's
    choices, or the reverse."""
    if is_preferential(storage.get_study_system_attrs(study._study_id)) != decided_by_a_person:
        ranked = "its values" if decided_by_a_person else "a person's choices"
        raise StudyChanged(
            f"study {study.study_name!r} is stored as one that {ranked} rank; rename the study's "
            "file, or use another RUNS or STORAGE"
        )


def _set_page(study: optuna.Study, storage: TrialStorage, at_once: int | None) -> None:
    """Store what the dashboard's page shows and asks where a person decides."""
    if at_once is not None:
        for key, value in page_settings(at_once).items():
            storage.set_study_system_attr(study._study_id, key, value)


def count_trials(
    wanted: int, sampler: StudySampler, study: optuna.Study, references: int, stopped_by: str | None
) -> int:
    """Return how many trials the study has in all: a grid ends with its last point, and a study
    that its sampler has stopped with what it has.

    stopped_by: the label of the sampler that has
    """
    if stopped_by == sampler.label:
        rows = len(study.get_trials(deepcopy=False)) - len(read_retries(study).made)
        return min(wanted, rows)
    points = grid_size(sampler)
    if points is None:
        return wanted
    trials = study.get_trials(deepcopy=False)
    others = sum("grid_id" not in t.system_attrs and not is_retry(t) for t in trials)
    return min(wanted, others + max(0, references - len(trials)) + points)


def code_revision(root: Path = ROOT) -> str:
    """Return the commit of the code that runs, with ``-changed`` if files differ from it.

    The revision of an installed package is its version: ``genstudy 0.1.0``.
    """

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "--no-optional-locks", "-C", str(root), *words],
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        ).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != root:
            return _installed_version(root)  # inside somebody else's checkout
        commit = git("rev-parse", "--short=12", "HEAD")
        return commit + ("-changed" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return _installed_version(root)


def _installed_version(root: Path) -> str:
    """Return the version of the package in the folder ``root``; ``unknown``: it holds none."""
    installed = next(iter(Distribution.discover(name="genstudy", path=[str(root)])), None)
    return "unknown" if installed is None else f"genstudy {installed.version}"
