"""`make study NAME=cae`: from variables to exported models.

Everything that can be wrong is found before the first trial: variables, study
file, RUNS, database, data, and whether the stored study is still the same.
"""

from __future__ import annotations

import os
import time
import warnings
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RDBStorage
from rich.console import Console
from rich.table import Table

from models.images import DataMissing, open_images, prepare_images
from models.sources import FALLBACK
from search.claims import Claims, owner_name
from search.console import open_console
from search.definition import (
    Definition,
    check_definition,
    define,
    read_definition,
    write_definition,
)
from search.devices import assign_devices, visible_gpus
from search.errors import StudyChanged
from search.progress import Display, counted, duration
from search.pruners import make_pruner
from search.run import StudyRun, git_revision
from search.samplers import grid_size, make_sampler
from search.session import Session, Stopped, stop_on_signals
from search.study import Study, check_fit, load_study
from search.supervisor import Crew
from search.variables import Variables, read_variables
from storage.database import open_storage, shown
from storage.paths import check_name

LOUD = "bold white on red"


def run_study() -> int:
    console = open_console()
    variables = read_variables()
    study = load_study(variables.needed_name)
    _check_names(variables, study)
    variables.paths.check_writable()
    devices = assign_devices(gpus=variables.gpus, workers=variables.workers, visible=visible_gpus())
    storage = open_storage(variables.storage_url)
    try:
        return _run(console, variables, study, devices, storage)
    finally:
        storage.engine.dispose()


def _run(
    console: Console, variables: Variables, study: Study, devices: list[str], storage: RDBStorage
) -> int:
    data, images = _find_images(variables, study, console)
    claims, run = _settle(variables, study, storage, data, images)
    _announce(console, variables, study, run, claims, devices)
    useful = max(run.trials - claims.ended(), variables.top)  # more would only wait
    crew = Crew(devices[:useful], lambda index: run.paths.worker_log(run.study, index))
    display = Display(run.study, study.spec, run.trials, console)
    session = Session(study, run, claims, crew, display)
    if session.is_finished(variables.top):
        _conclude(console, session, session.records(variables.top))
        return 0
    return _work(session, variables, console)


def _work(session: Session, variables: Variables, console: Console) -> int:
    began = time.monotonic()
    done_before = session.claims.ended()
    with stop_on_signals(session, session.crew.kill):
        try:
            with session.display, session.crew:
                session.crew.set_up(session.run)
                session.display.starting(session.crew.workers.values())
                _show_best(session)
                session.search()
                new = session.claims.ended() - done_before
                if new:
                    session.display.say(
                        f"{counted(new, 'trial')} ended in {duration(time.monotonic() - began)}; "
                        f"retraining the best {variables.top}"
                    )
                records = session.finish(variables.top)
        except Stopped:
            return _stopped(session, console)
    _conclude(console, session, records)
    return 0


def _stopped(session: Session, console: Console) -> int:
    for worker in session.crew.workers.values():
        session.claims.take_back_from(worker.owner)
    counts = session.claims.count()
    ended = session.claims.ended()
    waiting = counts["WAITING"]
    goes_on = f"; {waiting} interrupted trials go on" if waiting else ""
    console.print(
        f"stopped: {ended} of {session.run.trials} trials have ended; the same command goes on "
        f"from here{goes_on}",
    )
    return 130


def _check_names(variables: Variables, study: Study) -> None:
    """Samplers and pruners given by variables: wrong ones are found here, not in a worker."""
    make_sampler(variables.sampler or study.spec.sampler, seed=0, space=study.space)
    make_pruner(variables.pruner or study.spec.pruner)


def _find_images(variables: Variables, study: Study, console: Console) -> tuple[str, Path]:
    """Name and cached file of the images; the digits when the study's own are not to be had."""
    wanted = variables.data or study.spec.data
    steps: dict[str, Any] = {
        "root": variables.data_root,
        "cache": variables.paths.cache,
        "shape": study.spec.shape,
    }
    try:
        with console.status(f"reading {wanted} ..."):
            return wanted, prepare_images(wanted, **steps)
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


def _settle(
    variables: Variables, study: Study, storage: RDBStorage, data: str, cached: Path
) -> tuple[Claims, StudyRun]:
    """The stored study, made now if it is new, and the run that goes on with it."""
    images = open_images(cached)
    check_fit(study, images.shape)
    name = study_name(study, data, cached)
    names = {found.study_name for found in storage.get_all_studies()}
    stored: Definition | None = None
    if name in names:
        found = optuna.load_study(study_name=name, storage=storage)
        stored = read_definition(found)
        if stored is None:
            raise StudyChanged(
                f"{shown(variables.storage_url)} has a study {name!r} that genstudy did not make; "
                "rename the study's file or use another RUNS or STORAGE"
            )
    definition = define(study, images, epochs=variables.epochs, seed=variables.seed, stored=stored)
    if stored is not None:
        check_definition(name, stored, definition)
    opened = optuna.create_study(
        study_name=name, storage=storage, direction=study.spec.direction, load_if_exists=True
    )
    if stored is None:
        write_definition(opened, definition)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            opened.set_metric_names([study.spec.metric])  # the dashboard's axes say MSE
    sampler = make_sampler(
        variables.sampler or study.spec.sampler, seed=definition.seed, space=study.space
    )
    run = StudyRun(
        name=str(study.path) if "/" in variables.needed_name else variables.needed_name,
        study=name,
        storage=variables.storage_url,
        runs=str(variables.runs),
        images=str(cached),
        seed=definition.seed,
        trials=min(variables.trials or study.spec.trials, grid_size(sampler) or 10**9),
        epochs=definition.epochs,
        retrain_epochs=variables.retrain_epochs or study.spec.retrain_epochs,
        revision=git_revision(),
        sampler=variables.sampler,
        pruner=variables.pruner,
    )
    return Claims(opened, storage, owner_name(os.getpid())), run


def study_name(study: Study, data: str, cached: Path) -> str:
    """``cae`` on the study's own images, ``cae-digits`` or ``cae-folder-birds`` on others."""
    if data == study.spec.data:
        return study.name
    return check_name(f"{study.name}-{cached.stem.rpartition('-')[0]}")


def _announce(
    console: Console,
    variables: Variables,
    study: Study,
    run: StudyRun,
    claims: Claims,
    devices: list[str],
) -> None:
    ended = claims.ended()
    wanted = variables.trials or study.spec.trials
    if run.trials < wanted:
        console.print(f"the grid has {run.trials} points: {run.trials} trials, not {wanted}")
    if ended >= run.trials:
        console.print(
            f"study {run.study} is done: {ended} of {run.trials} trials have ended; "
            f"TRIALS={ended + 10} goes on",
        )
        return
    kinds = ", ".join(f"{devices.count(kind)} x {kind}" for kind in dict.fromkeys(devices))
    verb = f"goes on after {counted(ended, 'trial')}" if ended else "starts"
    trials = f"{counted(run.trials, 'trial')} of {counted(run.epochs, 'epoch')}"
    console.print(
        f"study {run.study} {verb}: {trials} on {kinds}, seed {run.seed}, in {shown(run.storage)}",
        soft_wrap=True,
    )


def _show_best(session: Session) -> None:
    done = session.claims.study.get_trials(
        deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,)
    )
    for trial in done:
        best = session.display.best
        if trial.value is not None and session.study.spec.better(
            trial.value, best[0] if best else None
        ):
            session.display.known_best(trial.value, trial.number, trial.params)


def _conclude(console: Console, session: Session, records: list[dict[str, Any]]) -> None:
    run, spec = session.run, session.study.spec
    states = session.claims.count()
    console.print(
        f"study {run.study}: {counted(session.claims.ended(), 'trial')}, "
        f"{states['COMPLETE']} complete, "
        f"{states['PRUNED']} pruned, {states['FAIL']} failed",
    )
    if not records:
        console.print("no trial is complete: nothing to export")
        return
    metric = spec.metric.upper()
    table = Table(box=None, padding=(0, 2), pad_edge=False)
    for column in ("rank", "trial", "epochs", f"validation {metric}", f"test {metric}", "export"):
        table.add_column(column, justify="left" if column == "export" else "right", overflow="fold")
    for record in records:
        rank = record["rank"]
        test = f"{record['test'][spec.metric]:.6g}" if record["test"] else "-"
        table.add_row(
            str(rank),
            str(record["trial"]),
            str(record["epochs"]),
            f"{record['valid'][spec.metric]:.6g}",
            test,
            str(run.paths.export(run.study, rank)),
        )
    console.print(table, soft_wrap=True)
