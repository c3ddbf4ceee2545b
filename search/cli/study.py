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
from search.console import LOUD, open_console, shorten_path
from search.errors import BaseMissing, StudyFileError
from search.reporting.summary import conclude, summary_table
from search.run import StudyRun
from search.setup.inputs import RunInputs, base_study, find_images, judging_study
from search.setup.loading import load_study
from search.setup.prepare import check_names, prepare_run
from search.study import Study
from search.supervisor.devices import assign_devices, count_cores, count_gpus
from search.supervisor.display import Display, format_count, format_duration
from search.supervisor.gpu_packing import GpuPacking
from search.supervisor.loop import Stopped, Supervisor, stop_on_signals
from search.supervisor.worker_pool import WorkerPool
from search.trials.queue import TrialQueue
from search.variables import Variables, read_variables
from storage.database.connection import check_database, open_storage
from storage.database.connection import redact_url as without_password
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
    visible = count_gpus()
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
    found: RunInputs,
) -> int:
    queue, run = prepare_run(variables, study, storage, found)
    _announce(console, variables, study, run, queue, devices)
    useful = run.trials - queue.ended()
    useful = max(min(useful, run.shown or useful), variables.top, 1)  # more would only wait
    pool = WorkerPool(devices[:useful], lambda index: run.paths.worker_log(run.study, index))
    display = Display(run.study, study.spec, run.trials, console)
    display.marks_best = run.shown is None
    packing = GpuPacking(pool.devices, most=count_cores()) if variables.workers is None else None
    supervisor = Supervisor(study, run, queue, pool, display, packing)
    supervisor.prompt.refresh()
    if supervisor.prompt.is_decided and supervisor.leaderboard.is_finished(
        queue.ended(), variables.top
    ):
        summary = conclude(supervisor)
        records = supervisor.leaderboard.export_records(variables.top)
        return _conclude(console, supervisor, records, summary, top=variables.top)
    return _work(supervisor, variables, console)


def _work(supervisor: Supervisor, variables: Variables, console: Console) -> int:
    study = supervisor.study
    began = time.monotonic()
    done_before = supervisor.queue.ended()
    with stop_on_signals(supervisor, supervisor.pool.kill):
        try:
            with supervisor.display, supervisor.pool:
                supervisor.pool.set_up(supervisor.run)
                supervisor.display.show_starting(supervisor.pool.workers.values())
                _show_best(supervisor)
                supervisor.search(variables.minutes)
                supervisor.prompt.refresh()
                if supervisor.prompt.nobody_chose:
                    supervisor.display.say(
                        f"nobody has chosen: {study.spec.metric} ranks the trials"
                    )
                new = supervisor.queue.ended() - done_before
                if new:
                    took = format_duration(time.monotonic() - began)
                    supervisor.display.say(f"{format_count(new, 'trial')} ended in {took}")
                summary = conclude(supervisor)
                records = supervisor.finish(variables.top) if variables.top else []
        except (Stopped, GaveUp):
            return _stopped(supervisor, console)
    return _conclude(console, supervisor, records, summary, top=variables.top)


def _stopped(supervisor: Supervisor, console: Console) -> int:
    try:
        for worker in supervisor.pool.workers.values():
            supervisor.queue.take_back_from(worker.owner, blame=False)
        counts = supervisor.queue.count()
        ended = supervisor.queue.ended()
    except GaveUp:
        console.print("stopped while the trial database was away; the same command goes on")
        return 130
    waiting = counts["WAITING"]
    goes_on = f"; {waiting} interrupted trials go on" if waiting else ""
    console.print(
        f"stopped: {ended} of {supervisor.run.trials} trials have ended; the same command goes on "
        f"from here{goes_on}",
    )
    return 130


def _announce(
    console: Console,
    variables: Variables,
    study: Study,
    run: StudyRun,
    queue: TrialQueue,
    devices: list[str],
) -> None:
    ended = queue.ended()
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
    verb = f"goes on after {format_count(ended, 'trial')}" if ended else "starts"
    trials = f"{format_count(run.trials, 'trial')} of {format_count(run.epochs, 'epoch')}"
    console.print(
        f"study {run.study} {verb}: {trials} on {kinds}, seed {run.seed}, "
        f"in {shorten_path(without_password(run.storage))}",
        soft_wrap=True,
    )


def _show_best(supervisor: Supervisor) -> None:
    """In the display, from earlier runs; not where a person decides."""
    if not supervisor.display.marks_best:
        return
    done = supervisor.queue.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    for trial in done:
        best = supervisor.display.best
        if trial.value is not None and supervisor.study.spec.better(
            trial.value, best[0] if best else None
        ):
            supervisor.display.set_best(trial.value, trial.number, trial.params)


def _conclude(
    console: Console,
    supervisor: Supervisor,
    records: list[dict[str, Any]],
    summary: Summary | None,
    *,
    top: int,
) -> int:
    """What the study concludes, and the result in one table; 1 when there is none."""
    run, spec = supervisor.run, supervisor.study.spec
    states, choices = supervisor.queue.count(), supervisor.prompt.choices
    console.print(
        f"study {run.study}: {format_count(supervisor.queue.ended(), 'trial')}, "
        f"{states['COMPLETE']} complete, "
        f"{states['PRUNED']} pruned, {states['FAIL']} failed"
        + ("" if choices is None else f", {format_count(choices.clicks, 'choice')}"),
    )
    if summary is not None:
        console.print(summary_table(summary.to_plain()), soft_wrap=True)
        console.print()
    candidates = supervisor.leaderboard.ranked_trials()
    if candidates and not top:
        best = f"the best is trial {candidates[0]}"
        console.print(f"{best}; TOP=3 retrains and exports the best three")
        return 0
    if not records:
        reason = supervisor.leaderboard.first_failure_reason()
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
            shorten_path(run.paths.export(run.study, rank)),
        )
    console.print(table, soft_wrap=True)
    return 0
