"""`make study NAME=cae`: from variables to exported models.

Everything that can be wrong is found before the first trial: variables, study
file, RUNS, database, data, and whether the stored study is still the same.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from optuna.trial import TrialState
from rich.console import Console
from rich.table import Table

from models.results import Table as Summary
from search.console import LOUD, near, open_console
from search.errors import BaseMissing, StudyFileError
from search.reporting.summary import conclude, shown
from search.run import StudyRun
from search.setup.inputs import Found, base_study, find_images, judging_study
from search.setup.loading import load_study
from search.setup.prepare import check_names, settle
from search.study import Study
from search.supervisor.devices import assign_devices, cores, visible_gpus
from search.supervisor.display import Display, counted, duration
from search.supervisor.gpu_packing import Packing
from search.supervisor.loop import Session, Stopped, stop_on_signals
from search.supervisor.worker_pool import Crew
from search.trials.queue import Claims
from search.variables import Variables, read_variables
from storage.database.connection import check_database, open_storage
from storage.database.connection import shown as without_password
from storage.database.optuna_storage import TrialStorage
from storage.database.retry import GaveUp

NVIDIA = Path("/dev/nvidia0")


def run_study() -> int:
    """The study NAME; with FIRST, what it starts from before; what goes on from it, after."""
    console = open_console()
    variables = read_variables()
    study = load_study(variables.needed_name)
    code = _with_base(console, variables, study)
    if code or study.spec.then is None:
        return code
    after = load_study(study.spec.then)
    return _with_base(console, _limited(variables, after), after)


def _with_base(
    console: Console, variables: Variables, study: Study, behind: tuple[str, ...] = ()
) -> int:
    """Run ``study``; if the export that it starts from is missing and FIRST says so, that first."""
    try:
        return _run_study(console, variables, study)
    except BaseMissing:
        if not variables.first or variables.start is not None:
            raise
    base = base_study(study) or judging_study(study)
    if base.name in (*behind, study.name):
        raise StudyFileError(f"{base.path}: studies start from each other in a circle")
    code = _with_base(console, _limited(variables, base), base, (*behind, study.name))
    return code or _run_study(console, variables, study)


def _limited(variables: Variables, study: Study) -> Variables:
    """For a study that runs before or after the one that was asked for: numbers that were given
    are its upper limits; sampler, pruner and base are its own, and its best is exported."""
    spec = study.spec
    return replace(
        variables,
        name=study.reference,
        trials=variables.trials and min(variables.trials, spec.trials),
        epochs=variables.epochs and min(variables.epochs, spec.epochs),
        retrain_epochs=variables.retrain_epochs
        and min(variables.retrain_epochs, spec.retrain_epochs),
        top=max(variables.top, 1),  # what starts from it needs an export
        sampler=None,
        pruner=None,
        start=None,
    )


def _run_study(console: Console, variables: Variables, study: Study) -> int:
    check_names(variables, study)
    variables.paths.check_writable()
    visible = visible_gpus()
    if not visible and variables.gpus is None and NVIDIA.exists():
        console.print(
            " this machine has an NVIDIA GPU that PyTorch cannot use (is its driver too old?): "
            "training on the CPU ",
            style=LOUD,
        )
    devices = assign_devices(gpus=variables.gpus, workers=variables.workers, visible=visible)
    check_database(variables.storage_url)
    found = find_images(variables, study, console)
    storage = open_storage(variables.storage_url)  # the first that is made
    try:
        return _run(console, variables, study, devices, storage, found)
    finally:
        storage.engine.dispose()


def _run(
    console: Console,
    variables: Variables,
    study: Study,
    devices: list[str],
    storage: TrialStorage,
    found: Found,
) -> int:
    claims, run = settle(variables, study, storage, found)
    _announce(console, variables, study, run, claims, devices)
    useful = run.trials - claims.ended()
    useful = max(min(useful, run.shown or useful), variables.top, 1)  # more would only wait
    crew = Crew(devices[:useful], lambda index: run.paths.worker_log(run.study, index))
    display = Display(run.study, study.spec, run.trials, console)
    display.marks_best = run.shown is None
    packing = Packing(crew.devices, most=cores()) if variables.workers is None else None
    session = Session(study, run, claims, crew, display, packing)
    session.jury.look()
    if session.jury.is_decided and session.leaderboard.is_finished(claims.ended(), variables.top):
        summary = conclude(session)
        records = session.leaderboard.records(variables.top)
        return _conclude(console, session, records, summary, top=variables.top)
    return _work(session, variables, console)


def _work(session: Session, variables: Variables, console: Console) -> int:
    study = session.study
    began = time.monotonic()
    done_before = session.claims.ended()
    with stop_on_signals(session, session.crew.kill):
        try:
            with session.display, session.crew:
                session.crew.set_up(session.run)
                session.display.starting(session.crew.workers.values())
                _show_best(session)
                session.search(variables.minutes)
                session.jury.look()
                if session.jury.nobody_chose:
                    session.display.say(f"nobody has chosen: {study.spec.metric} ranks the trials")
                new = session.claims.ended() - done_before
                if new:
                    took = duration(time.monotonic() - began)
                    session.display.say(f"{counted(new, 'trial')} ended in {took}")
                summary = conclude(session)
                records = session.finish(variables.top) if variables.top else []
        except (Stopped, GaveUp):
            return _stopped(session, console)
    return _conclude(console, session, records, summary, top=variables.top)


def _stopped(session: Session, console: Console) -> int:
    try:
        for worker in session.crew.workers.values():
            session.claims.take_back_from(worker.owner, blame=False)
        counts = session.claims.count()
        ended = session.claims.ended()
    except GaveUp:
        console.print("stopped while the trial database was away; the same command goes on")
        return 130
    waiting = counts["WAITING"]
    goes_on = f"; {waiting} interrupted trials go on" if waiting else ""
    console.print(
        f"stopped: {ended} of {session.run.trials} trials have ended; the same command goes on "
        f"from here{goes_on}",
    )
    return 130


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
        done = "is trained" if run.shown is not None else "is done"
        console.print(
            f"study {run.study} {done}: {ended} of {run.trials} trials have ended; "
            f"TRIALS={ended + 10} goes on",
        )
        return
    kinds = ", ".join(f"{devices.count(kind)} x {kind}" for kind in dict.fromkeys(devices))
    verb = f"goes on after {counted(ended, 'trial')}" if ended else "starts"
    trials = f"{counted(run.trials, 'trial')} of {counted(run.epochs, 'epoch')}"
    console.print(
        f"study {run.study} {verb}: {trials} on {kinds}, seed {run.seed}, "
        f"in {near(without_password(run.storage))}",
        soft_wrap=True,
    )


def _show_best(session: Session) -> None:
    """In the display, from earlier runs; not where a person decides."""
    if not session.display.marks_best:
        return
    done = session.claims.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    for trial in done:
        best = session.display.best
        if trial.value is not None and session.study.spec.better(
            trial.value, best[0] if best else None
        ):
            session.display.known_best(trial.value, trial.number, trial.params)


def _conclude(
    console: Console,
    session: Session,
    records: list[dict[str, Any]],
    summary: Summary | None,
    *,
    top: int,
) -> int:
    """What the study concludes, and the result in one table; 1 when there is none."""
    run, spec = session.run, session.study.spec
    states, choices = session.claims.count(), session.jury.choices
    console.print(
        f"study {run.study}: {counted(session.claims.ended(), 'trial')}, "
        f"{states['COMPLETE']} complete, "
        f"{states['PRUNED']} pruned, {states['FAIL']} failed"
        + ("" if choices is None else f", {counted(choices.clicks, 'choice')}"),
    )
    if summary is not None:
        console.print(shown(summary.plain()), soft_wrap=True)
        console.print()
    candidates = session.leaderboard.candidates()
    if candidates and not top:
        best = f"the best is trial {candidates[0]}"
        console.print(f"{best}; TOP=3 retrains and exports the best three")
        return 0
    if not records:
        reason = session.leaderboard.first_reason()
        why = f" (first failure: {reason})" if reason else ""
        console.print(f"no trial is complete: nothing to export{why}", markup=False)
        return 1
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
            near(run.paths.export(run.study, rank)),
        )
    console.print(table, soft_wrap=True)
    return 0
