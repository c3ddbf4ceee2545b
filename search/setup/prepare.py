"""Prepare a run: open or make the stored study, and write down what its workers have to know.

    stored, run = prepare_run(variables, study, storage, find_inputs(variables, study, console))

Nothing is trained here. The stored study is opened under a lock, so that two machines that start
at the same moment agree on what it is.
"""

from __future__ import annotations

import warnings
from dataclasses import replace

import optuna
from optuna.exceptions import ExperimentalWarning

from search.errors import StudyChanged
from search.run import StudyRun
from search.setup.code_digest import describe_environment
from search.setup.extension import check_extension
from search.setup.fitting import describe_fit
from search.setup.inputs import RunInputs, base_label, describe_exports
from search.setup.names import study_name
from search.setup.remembered import (
    has_kept_checkpoints,
    remember_keeping,
    remember_pausing_pruner,
    remember_retrain_epochs,
    remember_seeds,
)
from search.setup.revision import code_revision
from search.setup.shared_place import keep_files
from search.setup.stored_study import (
    StudyIdentity,
    check_identity,
    identify_study,
    read_identity,
    write_identity,
)
from search.setup.study_files import digest_rooms
from search.setup.tries import check_stored_room, read_tries, remember_tries
from search.setup.warm import Warm, keep_warm
from search.strategies.pruners import make_pruner
from search.strategies.samplers import grid_size, make_sampler, trials_shown_at_once
from search.strategies.seeded import StudySampler
from search.strategies.stopping import with_stop
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
from storage.files.exports import read_provenance

REMARKS = "remarks"  # user attribute of the stored study


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
    opened.sampler = sampler  # says whether the study has stopped; it draws nothing here
    chosen = variables.pruner or study.spec.pruner
    opened.pruner = make_pruner(chosen, study.spec.goals)  # says which trials pause
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
    """Return the run as workers get it.

    trials: of the study in all; at_once: how many trials a person compares at once; None: values
        decide
    """
    retrain_epochs, seeds = _remember_retrainings(variables, study, opened, at_once)
    return StudyRun(
        name=study.reference,
        study=opened.study_name,
        storage=variables.storage_url,
        runs=str(variables.runs),
        images=str(inputs.cached),
        seed=identity.seed,
        trials=trials,
        epochs=identity.epochs,
        retrain_epochs=retrain_epochs,
        seeds=seeds,
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
            *describe_exports(inputs),
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


def _remember_retrainings(
    variables: Variables, study: Study, opened: optuna.Study, at_once: int | None
) -> tuple[int, int]:
    """Return the most epochs of a retraining, and the seeds for each of the best trials."""
    exported = read_provenance(variables.paths.export(opened.study_name, 1)) or {}
    spec = study.spec
    epochs = remember_retrain_epochs(
        opened, variables.retrain_epochs, own=spec.retrain_epochs, exported=exported
    )
    own_seeds = spec.seeds if at_once is None else 1  # values do not rank what a person chose
    seeds = remember_seeds(opened, variables.seeds, own=own_seeds, exported=exported)
    return epochs, seeds


def _open_study(
    variables: Variables,
    study: Study,
    storage: TrialStorage,
    inputs: RunInputs,
    name: str,
    at_once: int | None,
) -> tuple[optuna.Study, StudyIdentity]:
    """Return the stored study ``name`` and its identity; raise `StudyChanged` if it is another.

    at_once: as for `make_run`
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
        _store_page_settings(opened, storage, at_once)
        return opened, identity
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        names = [goal.name for goal in study.spec.goals]
        opened.set_metric_names(names)  # for the axes of the dashboard
    _store_page_settings(opened, storage, at_once)
    write_identity(opened, identity)
    return opened, identity


def identify_run(
    variables: Variables, study: Study, inputs: RunInputs, stored: StudyIdentity | None
) -> StudyIdentity:
    """Return the identity that the study has today, with these images and exports."""
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


def _store_page_settings(study: optuna.Study, storage: TrialStorage, at_once: int | None) -> None:
    """Tell the dashboard to ask for choices, if a person ranks the trials."""
    if at_once is not None:
        for key, value in page_settings(at_once).items():
            storage.set_study_system_attr(study._study_id, key, value)


def count_trials(
    wanted: int, sampler: StudySampler, study: optuna.Study, references: int, stopped_by: str | None
) -> int:
    """Return how many trials the study will have in all: at most ``wanted``.

    With a grid there is one trial for each point, beside the references. A study that its sampler
    has stopped gets no more trials.
    references: how many sets of parameters are tried before the grid
    stopped_by: label of the sampler that has stopped the study; None: none has
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
