"""One study of `make study`: everything is checked, and what its run needs is opened.

Everything that can be wrong is found before the first trial: variables, study file, RUNS,
database, data, and whether the stored study is still the same.

    code = StudyCommand(console, variables, study).run()     # 0, 1, or 130 if it was stopped
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import optuna
from rich.console import Console

from search.cli.notifying import notices_of
from search.cli.opening import Opening, count_devices
from search.cli.study_stages import StudyStages
from search.cli.tracking import track
from search.console import print_line, print_lines, print_loud
from search.engines.following import FollowingSupervisor
from search.engines.launch import check_engine
from search.run import StudyRun
from search.setup.extension import extend_epochs
from search.setup.inputs import RunInputs, find_inputs
from search.setup.names import study_name
from search.setup.prepare import prepare_run
from search.setup.reaching import note_database, reach_database
from search.setup.settings import check_settings
from search.setup.shared_place import check_files
from search.setup.warm import Warm, find_warm, remembered_warm
from search.study import Study
from search.supervisor.devices import count_cores, count_useful, find_devices
from search.supervisor.display import Display
from search.supervisor.dry_run import try_own_model
from search.supervisor.file_cleaning import remove_deleted, remove_deleted_here, remove_ended
from search.supervisor.gpu_packing import GpuPacking
from search.supervisor.loop import Supervisor
from search.supervisor.other_machines import OtherMachines
from search.supervisor.study_note import StudyNote
from search.supervisor.worker_pool import WorkerPool
from search.tracking.opening import check_trackers
from search.trials.files_access import open_files
from search.trials.owner import owner_name
from search.trials.queue import TrialQueue
from search.trials.study_record import StudyRecord, name_strategy
from search.variables import Variables
from storage.database.connection import open_storage
from storage.database.optuna_storage import TrialStorage
from storage.database.retry import DatabaseRetry, passes_later
from storage.files.identity import make_identity
from storage.files.temporary import remove_left_behind


@dataclass(frozen=True)
class StudyCommand:
    """One call of the command for one study."""

    console: Console
    variables: Variables
    study: Study

    def run(self) -> int:
        """Check everything, then search and export; returns the exit code."""
        variables = self.variables
        check_settings(variables, self.study)
        check_engine(variables, self.study)
        check_trackers(variables.log)
        variables.paths.check_writable()
        devices = self._find_devices()
        stop = threading.Event()
        retry = DatabaseRetry(stop.is_set, lambda line: print_line(self.console, line))
        url = variables.storage_url
        reach_database(variables, retry)
        check_files(variables)
        inputs = find_inputs(variables, self.study, self.console, retry)
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
        """Run the study. warm: what it begins with; retry: waits for the database; stop: ends the
        run"""
        variables = self.variables
        opened, run = retry.wait_for(
            lambda: prepare_run(variables, self.study, storage, inputs, warm),
            passes_later(variables.storage_url),
        )
        note_database(variables)
        for folder in run.paths.written(run.study):
            remove_left_behind(folder)
        display = Display.of_run(run, self.study.spec, self.console)
        retry.tell = display.say
        queue = self._open_queue(opened, run, storage, retry)
        opening = Opening(self.console, variables, self.study)
        opening.tell(run, queue, devices, inputs.images)
        supervisor = self._make_supervisor(run, queue, display, devices, stop)
        supervisor.files = open_files(run, queue, stop.is_set, display.say)
        _remove_what_is_over(supervisor, queue, run)
        supervisor.other_machines = OtherMachines(queue, display, run.epochs)
        supervisor.note = self._begin_note(run, queue, devices, inputs)
        with notices_of(supervisor, variables), track(supervisor, variables, recovers=True):
            return StudyStages(self.console, variables, self.study, supervisor).run()

    def _open_queue(
        self, opened: optuna.Study, run: StudyRun, storage: TrialStorage, retry: DatabaseRetry
    ) -> TrialQueue:
        """Return the queue of the stored study, with the trials that this call makes go on."""
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
        return queue

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
        useful = count_useful(run, ended=queue.count_ended(), top=variables.top)
        pool = WorkerPool(devices[:useful], log_of)
        packing = GpuPacking(pool.devices, most=count_cores())
        return Supervisor(
            self.study, run, queue, pool, display, stop,
            packing if variables.workers is None else None,
        )  # fmt: skip

    def _begin_note(
        self, run: StudyRun, queue: TrialQueue, devices: list[str], inputs: RunInputs
    ) -> StudyNote:
        """Keep the settings of this run with the study, for its note and its report."""
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
            devices=count_devices(devices),
            images={part: len(getattr(images, part)) for part in ("train", "valid", "test")},
            shape=images.shape,
        )
        note = StudyNote(self.study, run, queue, record)
        note.begin()
        return note

    def _identify_runs(self, run: StudyRun) -> str:
        """Return the word by which workers that join recognise this RUNS.

        A full disk costs the word, but no trial. The workers of an engine need it.
        """
        try:
            return make_identity(run.paths.identity)
        except OSError:
            if self.variables.engine is not None:
                raise
            return ""


def _remove_what_is_over(supervisor: Supervisor, queue: TrialQueue, run: StudyRun) -> None:
    """Remove files of trials that have ended, and of studies that were deleted."""
    remove_ended(supervisor.files, queue, run)
    remove_deleted_here(queue, run)
    if supervisor.files is not None:
        remove_deleted(supervisor.files, queue)
