"""`make study NAME=cae`: from variables to exported models.

Everything that can be wrong is found before the first trial: variables, study file, RUNS,
database, data, and whether the stored study is still the same.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from models.results import Table
from search.cli.closing_lines import describe_remembered
from search.cli.conclusion import Conclusion, end_note
from search.cli.logged import logged
from search.cli.telling import notices_of, tell_end
from search.console import (
    OutputClosed,
    open_console,
    print_line,
    print_lines,
    print_loud,
    shorten_path,
)
from search.engines.following import FollowingSupervisor
from search.engines.launch import check_engine, open_engine
from search.errors import BaseMissing, SearchError, StudyFileError
from search.reporting.summary import conclude
from search.run import StudyRun
from search.setup.extension import extend_epochs
from search.setup.fitting import describe_batches
from search.setup.inputs import RunInputs, find_images
from search.setup.loading import load_study
from search.setup.names import base_study, judging_study, study_name
from search.setup.prepare import check_names, prepare_run
from search.setup.reaching import note_database, reach_database
from search.setup.shared_place import check_files
from search.setup.warm import Warm, describe_warm, find_warm, remembered_warm
from search.strategies.stopping import describe_limit
from search.study import Study
from search.supervisor.devices import count_cores, find_devices
from search.supervisor.display import Display
from search.supervisor.dry_run import try_own_model
from search.supervisor.earlier_trials import show_earlier
from search.supervisor.elsewhere import Elsewhere
from search.supervisor.file_cleaning import (
    remove_deleted,
    remove_deleted_here,
    remove_ended,
)
from search.supervisor.finish import finish, take_exports
from search.supervisor.finish_claim import FinishedElsewhere, find_elsewhere
from search.supervisor.gpu_packing import GpuPacking
from search.supervisor.loop import Stopped, Supervisor, stop_on_signals
from search.supervisor.study_note import StudyNote
from search.supervisor.worker_pool import WorkerPool
from search.tracking.opening import check_trackers
from search.trials.files_access import open_files
from search.trials.owner import forget_mark, owner_name
from search.trials.queue import TrialQueue
from search.trials.seed_race import FIRST
from search.trials.standings import is_finished
from search.trials.study_record import StudyRecord, name_strategy
from search.variables import Variables, read_variables
from search.words import format_count, format_duration
from storage.database.address import redact_url
from storage.database.connection import open_storage
from storage.database.optuna_storage import TrialStorage
from storage.database.retry import (
    DatabaseRetry,
    DatabaseWentBack,
    GaveUp,
    passes_later,
)
from storage.files.identity import make_identity
from storage.files.temporary import remove_left_behind

INTERRUPTED, UNREAD = 130, 2  # exit codes


def run_study() -> int:
    """Run the study NAME; with FIRST, the study that it starts from before; after it, the one
    that goes on from it. Returns the exit code."""
    console = open_console(loses_lines=True)
    try:
        return _run_all(console)
    except OutputClosed:
        line = "standard output was closed, by `head`, say: the study has stopped"
        with suppress(OSError):  # it may have gone to the same reader
            print(f"error: {line}; the same command goes on from here", file=sys.stderr)
        return UNREAD


def _run_all(console: Console) -> int:
    """Run the study NAME, and the one that goes on from it."""
    variables = read_variables()
    study = load_study(variables.need_name("study"))
    code = _run_with_base(console, variables, study)
    if code or study.spec.then is None:
        return code
    after = load_study(study.spec.then)
    return _run_with_base(console, _limit(variables, after), after)


def _run_with_base(
    console: Console, variables: Variables, study: Study, behind: tuple[str, ...] = ()
) -> int:
    """Run ``study``; if the export that it starts from is missing and FIRST says so, that first.

    behind: names of the studies that wait for this one
    """
    try:
        return StudyCommand(console, variables, study).run()
    except BaseMissing:
        if not variables.first or variables.start is not None:
            raise
    base = _shaped_for(study, base_study(study)) or judging_study(study)
    if base.name in (*behind, study.name):
        raise StudyFileError(f"{base.path}: studies start from each other in a circle")
    code = _run_with_base(console, _limit(variables, base), base, (*behind, study.name))
    return code or StudyCommand(console, variables, study).run()


def _shaped_for(study: Study, base: Study | None) -> Study | None:
    """Return ``base`` with the shape of images that ``study`` insists on: it takes no other
    encoder."""
    if base is None or study.spec.adapts or not base.spec.adapts:
        return base
    return replace(base, spec=replace(base.spec, shape=study.spec.shape, adapts=False))


def _limit(variables: Variables, study: Study) -> Variables:
    """Return the variables for a study that runs before or after the one that was asked for.

    Numbers that were given are its upper limits. Sampler, pruner, base, what it tries and what it
    learns from are its own, its best is exported, and INCEPTION measures only models that make
    images.
    """
    spec = study.spec
    return replace(
        variables,
        name=study.reference,
        trials=variables.trials and min(variables.trials, spec.trials),
        epochs=variables.epochs and min(variables.epochs, spec.epochs),
        retrain_epochs=variables.retrain_epochs
        and min(variables.retrain_epochs, spec.retrain_epochs),
        seeds=variables.seeds and min(variables.seeds, spec.seeds),
        top=max(variables.top, 1),  # what starts from it needs an export
        sampler=None,
        pruner=None,
        tries=(),
        warm=(),
        inception=variables.inception if spec.model.judged else None,
        start=None,
    )


@dataclass(frozen=True)
class StudyCommand:
    """One call of the command for one study."""

    console: Console
    variables: Variables
    study: Study

    def run(self) -> int:
        """Check everything, then search and export; returns the exit code."""
        variables = self.variables
        check_names(variables, self.study)
        check_engine(variables, self.study)
        check_trackers(variables.log)
        variables.paths.check_writable()
        devices = self._find_devices()
        stop = threading.Event()
        retry = DatabaseRetry(stop.is_set, lambda line: print_line(self.console, line))
        url = variables.storage_url
        reach_database(variables, retry)
        check_files(variables)
        inputs = find_images(variables, self.study, self.console, retry)
        name = study_name(self.study, inputs.data, inputs.label, variables.sampler)
        tried_on = devices[0] if variables.engine is None else "cpu"
        try_own_model(self.study, name, inputs, variables, tried_on, self.console)
        warm = retry.wait_for(
            lambda: find_warm(variables.warm, self.study, url, stored=name), passes_later(url)
        )
        storage = retry.wait_for(  # the first that is made
            lambda: open_storage(url, given_up=stop.is_set), passes_later(url)
        )
        try:
            return self._run(devices, storage, inputs, warm, retry, stop)
        finally:
            storage.engine.dispose()

    def _find_devices(self) -> list[str]:
        """Return what each worker trains on; those of an engine find that out where they run."""
        variables = self.variables
        if variables.engine is not None:
            return [f"{variables.engine} job"] * (variables.jobs or 1)
        return find_devices(variables, partial(print_loud, self.console))

    def _run(
        self,
        devices: list[str],
        storage: TrialStorage,
        inputs: RunInputs,
        warm: Warm | None,
        retry: DatabaseRetry,
        stop: threading.Event,
    ) -> int:
        """Do the run. warm: what it begins with; retry: waits for the database; stop: ends the
        run"""
        variables = self.variables
        opened, run = retry.wait_for(
            lambda: prepare_run(variables, self.study, storage, inputs, warm),
            passes_later(variables.storage_url),
        )
        note_database(variables)
        for folder in run.paths.written(run.study):
            remove_left_behind(folder)
        display = Display(
            run.study,
            self.study.spec,
            run.trials,
            self.console,
            marks_best=run.shown is None,
            most=60 * (run.trial_minutes or math.inf),
        )
        retry.tell = display.say
        queue = retry.wait_for(
            lambda: TrialQueue(
                opened,
                storage,
                owner=owner_name(os.getpid()),
                shown=run.shown,
                retry=retry,
                version=run.version,
                epochs=run.epochs,
            )
        )
        filed = self.study.spec.epochs
        print_lines(self.console, *retry.wait_for(lambda: extend_epochs(queue, run, filed=filed)))
        if again := queue.retry_mended():
            what = "trial that failed is" if again == 1 else "trials that failed are"
            self.console.print(f"{again} {what} tried again: the study's files have changed")
        self._announce(run, queue, devices, inputs)
        supervisor = self._make_supervisor(run, queue, display, devices, stop)
        supervisor.files = open_files(run, queue, stop.is_set, display.say)
        remove_ended(supervisor.files, queue, run)
        remove_deleted_here(queue, run)
        if supervisor.files is not None:
            remove_deleted(supervisor.files, queue)
        supervisor.elsewhere = Elsewhere(queue, display, run.epochs)
        supervisor.note = self._begin_note(run, queue, devices, inputs)
        with notices_of(supervisor, variables), logged(supervisor, variables, recovers=True):
            return self._search_and_finish(supervisor)

    def _search_and_finish(self, supervisor: Supervisor) -> int:
        """Do what is left of the study; returns the exit code."""
        variables, run, queue = self.variables, supervisor.run, supervisor.queue
        display = supervisor.display
        supervisor.prompt.refresh()
        ended, leaderboard = queue.count_ended(), supervisor.leaderboard
        if supervisor.prompt.is_decided and is_finished(leaderboard, ended, variables.top):
            table = conclude(self.study, run, queue, display.say)
            return self._conclude(supervisor, leaderboard.export_records(variables.top), table)
        if ended >= run.trials and variables.top and supervisor.prompt.is_decided:
            elsewhere = find_elsewhere(run, queue, ended=ended, top=variables.top)
            if elsewhere is not None:
                table = conclude(self.study, run, queue, display.say)
                taken = take_exports(supervisor, elsewhere, variables.top)
                return self._conclude(supervisor, taken, table)
        return self._work(supervisor)

    def _make_supervisor(
        self,
        run: StudyRun,
        queue: TrialQueue,
        display: Display,
        devices: list[str],
        stop: threading.Event,
    ) -> Supervisor:
        """Return what keeps this machine's workers at the trials, or follows those of an engine."""
        variables = self.variables

        def log_of(index: int) -> Path:
            return run.paths.worker_log(run.study, index)

        if variables.engine is not None:
            pool = WorkerPool([], log_of)
            return FollowingSupervisor(self.study, run, queue, pool, display, stop)
        useful = run.trials - queue.count_ended()
        retrained = variables.top * min(FIRST, run.seeds)  # at once
        useful = max(min(useful, run.shown or useful), retrained, 1)  # more would only wait
        pool = WorkerPool(devices[:useful], log_of)
        packing = GpuPacking(pool.devices, most=count_cores())
        return Supervisor(
            self.study, run, queue, pool, display, stop,
            packing if variables.workers is None else None,
        )  # fmt: skip

    def _begin_note(
        self, run: StudyRun, queue: TrialQueue, devices: list[str], inputs: RunInputs
    ) -> StudyNote:
        """Keep with the study how this run goes about it, for its note and its report."""
        spec, images = self.study.spec, inputs.images
        warm = queue.retry.wait_for(lambda: remembered_warm(queue.study, self.study.space))
        record = StudyRecord(
            command=run.name,
            trials=run.trials,
            top=self.variables.top,
            retrain_epochs=run.retrain_epochs,
            sampler=name_strategy(run.sampler or spec.sampler),
            pruner=name_strategy(run.pruner or spec.pruner),
            trial_minutes=run.trial_minutes,
            revision=run.revision,
            stop=run.stop or "",
            warm="; ".join(warm.lines),
            runs=self._identify_runs(run),
            devices=", ".join(f"{devices.count(kind)} x {kind}" for kind in dict.fromkeys(devices)),
            images={part: len(getattr(images, part)) for part in ("train", "valid", "test")},
            shape=images.shape,
        )
        note = StudyNote(self.study, run, queue, record)
        note.begin()
        return note

    def _identify_runs(self, run: StudyRun) -> str:
        """Return the word by which workers that join know this RUNS. A full disk costs the word,
        and no trial; an engine's workers need it."""
        try:
            return make_identity(run.paths.identity)
        except OSError:
            if self.variables.engine is not None:
                raise
            return ""

    def _work(self, supervisor: Supervisor) -> int:
        """Start the workers, search, retrain and export."""
        run, display = supervisor.run, supervisor.display
        with stop_on_signals(supervisor.stop, supervisor.pool.kill):
            try:
                with display, supervisor.pool, self._engine_of(supervisor):
                    supervisor.pool.set_up(run)
                    display.show_starting(supervisor.pool.workers.values())
                    show_earlier(supervisor)
                    while True:
                        table = self._search(supervisor)
                        try:
                            top = self.variables.top
                            exported = self._finish(supervisor, top) if top else []
                            remove_ended(supervisor.files, supervisor.queue, run)
                            break
                        except DatabaseWentBack as error:
                            supervisor.read_again(error)
            except (Stopped, GaveUp):
                return self._stop(supervisor)
            except OutputClosed:
                self._stop(supervisor)
                raise
            except SearchError as error:
                end_note(supervisor, f"ended: {error}")
                raise
        return self._conclude(supervisor, exported, table)

    @contextmanager
    def _engine_of(self, supervisor: Supervisor) -> Iterator[None]:
        """Let an engine run the workers, if there is one; at the end it has none any more."""
        if not isinstance(supervisor, FollowingSupervisor):
            yield
            return
        engine = open_engine(self.variables, supervisor.run)
        try:
            supervisor.employ(engine, self.variables.jobs or 1)
            yield
            supervisor.let_jobs_end()
        finally:
            engine.stop()

    def _finish(self, supervisor: Supervisor, top: int) -> list[dict[str, Any]] | FinishedElsewhere:
        """Retrain and export the best here, or wait for an engine's workers to do so."""
        if isinstance(supervisor, FollowingSupervisor):
            exported = supervisor.wait_for_exports(top)
            if isinstance(exported, FinishedElsewhere):
                return take_exports(supervisor, exported, top)
            return exported
        return finish(supervisor, top)

    def _search(self, supervisor: Supervisor) -> Table | None:
        """Search, and return the table that the study concludes with, if it has one."""
        began, ended_before = time.monotonic(), supervisor.queue.count_ended()
        display = supervisor.display
        supervisor.search(self.variables.minutes)
        supervisor.prompt.refresh()
        if supervisor.prompt.nobody_chose:
            display.say(f"nobody has chosen: {self.study.spec.quality} ranks the trials")
        new = supervisor.queue.count_ended() - ended_before
        if new > 0:
            took = format_duration(time.monotonic() - began)
            display.say(f"{format_count(new, 'trial')} ended in {took}")
        table = conclude(self.study, supervisor.run, supervisor.queue, display.say)
        if supervisor.note is not None and table is not None:
            supervisor.note.table = table.to_plain()
        return table

    def _stop(self, supervisor: Supervisor) -> int:
        """Give all trials back, and say what is left."""
        queue = supervisor.queue
        try:
            for worker in supervisor.pool.workers.values():
                queue.reclaim_from(worker.owner, blame=False)
                forget_mark(worker.owner)
            waiting = queue.count()["WAITING"]
            ended = queue.count_ended()
        except GaveUp:
            line = "stopped while the trial database was away; the same command goes on"
            print_line(self.console, line)
            return INTERRUPTED
        end_note(supervisor, "stopped")
        go = "goes" if waiting == 1 else "go"
        goes_on = f"; {format_count(waiting, 'interrupted trial')} {go} on" if waiting else ""
        print_line(
            self.console,
            f"stopped: {ended} of {format_count(supervisor.run.trials, 'trial')} "
            f"{_have(ended)} ended; the same command goes on from here{goes_on}",
        )
        return INTERRUPTED

    def _announce(
        self, run: StudyRun, queue: TrialQueue, devices: list[str], inputs: RunInputs
    ) -> None:
        """Say what begins, or that nothing does."""
        print_lines(self.console, describe_remembered(self.variables, self.study.spec, run))
        ended = queue.count_ended()
        wanted = self.variables.trials or self.study.spec.trials
        if run.trials < wanted:
            why = f"the grid has {format_count(run.trials, 'point')}"
            if queue.is_stopped():
                why = queue.stop_reason()
            self.console.print(f"{why}: {format_count(run.trials, 'trial')}, not {wanted}")
        if ended >= run.trials:
            done = "is trained" if run.shown is not None else "is done"
            print_line(
                self.console,
                f"study {run.study} {done}: {ended} of {format_count(run.trials, 'trial')} "
                f"{_have(ended)} ended; TRIALS={ended + 10} goes on",
            )
            return
        if run.stop is not None:
            print_lines(self.console, describe_limit(run.trials))
        kinds = ", ".join(f"{devices.count(kind)} x {kind}" for kind in dict.fromkeys(devices))
        verb = "goes on" if queue.count().total() else "starts"
        if ended:
            verb = f"goes on after {format_count(ended, 'trial')}"
        trials = f"{format_count(run.trials, 'trial')} of {format_count(run.epochs, 'epoch')}"
        print_line(
            self.console,
            f"study {run.study} {verb}: {trials} on {kinds}, seed {run.seed}, "
            f"in {shorten_path(redact_url(run.storage))}",
        )
        batches = describe_batches(self.study, inputs.images, least_steps=run.least_steps)
        if batches is not None:
            print_line(self.console, batches)
        print_lines(self.console, *describe_warm(run.warm))
        print_loud(self.console, run.remarks)

    def _conclude(
        self,
        supervisor: Supervisor,
        exported: list[dict[str, Any]] | FinishedElsewhere,
        table: Table | None,
    ) -> int:
        """Say how the study ended; returns the exit code."""
        conclusion = Conclusion(self.console, self.variables, self.study)
        code = conclusion.tell(supervisor, exported, table)
        tell_end(supervisor, exported, code)
        return code


def _have(count: int) -> str:
    return "has" if count == 1 else "have"
