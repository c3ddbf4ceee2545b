"""`make worker NAME=cae STORAGE=...`: this machine joins a stored study, and trains what there is.

    exit code    0     nothing is left to do
                 75    it was told to leave (SIGTERM, SIGUSR2, or MINUTES are over): try again later
                 130   Ctrl-C
                 2     a mistake, or the study is not the one of this machine's files

All about the study stands in the database. A worker brings devices, images and code, and they are
compared with the study's before it takes a trial. Whatever it is at when it leaves is given back
at its last checkpoint, and others go on with it.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from rich.console import Console

from search.cli.notifying import notices_of, tell_end
from search.cli.tracking import track
from search.console import OutputClosed, open_console, print_line, print_loud, shorten_path
from search.engines.worker_job import IN_JOB
from search.errors import BadVariable, StudyChanged
from search.interrupts import LEAVE, TRY_AGAIN, leave_with_input
from search.run import StudyRun
from search.setup.inputs import find_inputs
from search.setup.joining import (
    JoinedStudy,
    find_joined,
    join_run,
    joined_variables,
    load_joined,
)
from search.setup.reaching import note_database, reach_database
from search.setup.shared_place import check_files
from search.spelling import spell
from search.study import Study
from search.supervisor.devices import count_cores, count_useful, find_devices
from search.supervisor.display import Display
from search.supervisor.earlier_trials import show_earlier
from search.supervisor.finish import finish
from search.supervisor.finish_claim import FinishedElsewhere, find_elsewhere
from search.supervisor.gpu_packing import GpuPacking
from search.supervisor.loop import Supervisor
from search.supervisor.stopping import Stopped, stop_on_signals
from search.supervisor.worker_pool import WorkerPool
from search.tracking.opening import check_trackers
from search.trials.files_access import open_files
from search.trials.owner import forget_mark, owner_name
from search.trials.queue import TrialQueue
from search.trials.standings import is_finished
from search.variables import Variables, given_names, read_variables
from search.words import format_count
from storage.database.address import redact_url
from storage.database.connection import open_storage
from storage.database.optuna_storage import TrialStorage
from storage.database.retry import DatabaseRetry, GaveUp, passes_later
from storage.errors import short
from storage.files.identity import read_identity

INTERRUPTED = 130  # exit code
# What a study is made with, and how far it goes: the database says it, and no machine that joins.
OF_THE_STUDY = (
    "TRIALS", "EPOCHS", "RETRAIN_EPOCHS", "TRIAL_MINUTES", "SEED", "SEEDS", "TOP", "SAMPLER",
    "PRUNER", "STOP", "TRY", "WARM", "CODE", "KEEP", "FINISH", "FIRST", "ENGINE", "JOBS",
)  # fmt: skip


def run_worker() -> int:
    """Join the study NAME; returns the exit code."""
    console = open_console(loses_lines=True)
    variables = read_variables()
    name = variables.need_name("worker")
    if taken := [each for each in given_names() if each in OF_THE_STUDY]:
        raise BadVariable(
            f"a worker takes no {taken[0]}: the stored study says it, and "
            f"{spell('study', NAME=name)} changes what may change"
        )
    if IN_JOB in os.environ:
        leave_with_input()
    try:
        return WorkerCommand(console, variables).run(name)
    except OutputClosed:
        with suppress(OSError):
            line = "standard output was closed: the worker has left, and others go on"
            print(f"error: {line}", file=sys.stderr)
        return TRY_AGAIN


@dataclass(frozen=True)
class WorkerCommand:
    """One call of the command."""

    console: Console
    variables: Variables

    def run(self, name: str) -> int:
        """Compare everything, then take trials; returns the exit code."""
        variables, say = self.variables, partial(print_line, self.console)
        check_trackers(variables.log)
        variables.paths.check_writable()
        devices = find_devices(variables, partial(print_loud, self.console))
        stop = threading.Event()
        retry = DatabaseRetry(stop.is_set, say)
        reach_database(variables, retry)
        check_files(variables)
        storage = retry.wait_for(
            lambda: open_storage(variables.storage_url, create=False, given_up=stop.is_set),
            passes_later(variables.storage_url),
        )
        try:
            return self._join(name, devices, storage, retry, stop)
        finally:
            storage.engine.dispose()

    def _join(
        self,
        name: str,
        devices: list[str],
        storage: TrialStorage,
        retry: DatabaseRetry,
        stop: threading.Event,
    ) -> int:
        """Compare this machine with the stored study, and work for it."""
        place = shorten_path(redact_url(self.variables.storage_url))
        passes = passes_later(self.variables.storage_url)
        joined = retry.wait_for(
            lambda: find_joined(storage, name, place, self.variables.data), passes
        )
        study = load_joined(name, joined)
        given = joined_variables(self.variables, joined, study)
        inputs = find_inputs(given, study, self.console, retry, stored_shape=joined.shape)
        run = retry.wait_for(lambda: join_run(given, study, joined, inputs, storage), passes)
        note_database(given)
        queue = retry.wait_for(
            lambda: TrialQueue(
                joined.opened,
                storage,
                owner=owner_name(os.getpid()),
                shown=run.shown,
                retry=retry,
                version=run.version,
            )
        )
        is_shared = run.files is not None or self._shares_runs(joined)
        top = joined.record.top if is_shared else 0  # of what others cannot see, none
        supervisor = self._make_supervisor(study, run, queue, devices, stop, top)
        left = run.trials - queue.count_ended()
        if left <= 0 and self._is_finished(supervisor, top):
            self._say_done(run, queue)
            return 0
        self._announce(joined, run, devices, left, place)
        # In a RUNS that is shared, `make study` makes good what trackers lack.
        recovers = IN_JOB not in os.environ and not self._shares_runs(joined)
        with (
            notices_of(supervisor, self.variables),
            track(supervisor, self.variables, recovers=recovers),
        ):
            return self._work(supervisor, top, ends_study=bool(top) or not joined.record.top)

    def _shares_runs(self, joined: JoinedStudy) -> bool:
        """Whether the study was begun in this very folder RUNS: then its exports belong here.

        Raises `StudyChanged` where a job of an engine does not see that folder.
        """
        word = joined.record.runs
        is_same = bool(word) and read_identity(self.variables.paths.identity) == word
        if IN_JOB in os.environ and not is_same:
            raise StudyChanged(
                f"RUNS={short(str(self.variables.runs))} on {socket.gethostname()} is not the "
                f"folder in which study {joined.name!r} was begun: take one that all machines see"
            )
        return is_same

    def _is_finished(self, supervisor: Supervisor, top: int) -> bool:
        """Whether the best are retrained and exported somewhere, or a person still has to choose
        them."""
        run, queue = supervisor.run, supervisor.queue
        supervisor.prompt.refresh()
        ended = queue.count_ended()
        if not top or not supervisor.prompt.is_decided:
            return True
        if find_elsewhere(run, queue, ended=ended, top=top) is not None:
            return True
        return is_finished(supervisor.leaderboard, ended, top)

    def _make_supervisor(
        self,
        study: Study,
        run: StudyRun,
        queue: TrialQueue,
        devices: list[str],
        stop: threading.Event,
        top: int,
    ) -> Supervisor:
        """Return what keeps this machine's processes at the study's trials.

        top: how many of the best are retrained by all machines together; 0: none
        """
        display = Display.of_run(run, study.spec, self.console)
        queue.retry.tell = display.say
        useful = count_useful(run, ended=queue.count_ended(), top=top)
        who = f"{socket.gethostname()}-{os.getpid()}"  # others may write into the same RUNS
        pool = WorkerPool(
            devices[:useful], lambda index: run.paths.joined_log(run.study, who, index)
        )
        packing = GpuPacking(pool.devices, most=count_cores())
        supervisor = Supervisor(
            study, run, queue, pool, display, stop,
            packing if self.variables.workers is None else None,
        )  # fmt: skip
        supervisor.files = open_files(run, queue, stop.is_set, display.say)
        return supervisor

    def _work(self, supervisor: Supervisor, top: int, *, ends_study: bool) -> int:
        """Start the processes, and search until nothing is left or the worker is told to leave.

        top: how many of the best are retrained and exported here; 0: none. With FILES the
            machines share the retrainings, and every machine sees the exports.
        ends_study: whether nothing is left to do anywhere afterwards
        """
        run, display, minutes = supervisor.run, supervisor.display, self.variables.minutes
        exported: list[dict[str, Any]] | FinishedElsewhere = []
        signals = (signal.SIGINT, *LEAVE)
        with stop_on_signals(supervisor.stop, supervisor.pool.kill, signals) as heard:
            try:
                with display, supervisor.pool:
                    supervisor.pool.set_up(run)
                    display.show_starting(supervisor.pool.workers.values())
                    show_earlier(display, supervisor.queue)
                    supervisor.search(minutes)
                    is_over = supervisor.queue.has_ended(run.trials)
                    if is_over and top:
                        exported = finish(supervisor, top)
            except (Stopped, GaveUp):
                return self._leave(supervisor, heard)
            except OutputClosed:
                self._leave(supervisor, heard)
                raise
        if not is_over:
            return TRY_AGAIN  # MINUTES are over
        if ends_study:
            tell_end(supervisor, exported, code=0)
        self._say_done(run, supervisor.queue)
        return 0

    def _leave(self, supervisor: Supervisor, heard: list[int]) -> int:
        """Give all trials back, and say so; returns the exit code."""
        code = INTERRUPTED if signal.SIGINT in heard else TRY_AGAIN
        queue = supervisor.queue
        try:
            for worker in supervisor.pool.workers.values():
                queue.reclaim_from(worker.owner, blame=False)
                forget_mark(worker.owner)
            ended = queue.count_ended()
        except GaveUp:
            self._say("left while the trial database was away; others go on once it answers")
            return code
        total = format_count(supervisor.run.trials, "trial")
        has = "has" if ended == 1 else "have"
        self._say(
            f"left study {supervisor.run.study}: {ended} of {total} {has} ended, and what ran here "
            "waits at its last checkpoint for another worker"
        )
        return code

    def _announce(
        self, joined: JoinedStudy, run: StudyRun, devices: list[str], left: int, place: str
    ) -> None:
        """Say what is joined."""
        kinds = ", ".join(f"{devices.count(kind)} x {kind}" for kind in dict.fromkeys(devices))
        self._say(
            f"joins study {joined.name}: {left} of {format_count(run.trials, 'trial')} left, of "
            f"{format_count(run.epochs, 'epoch')}, on {kinds}, in {place}"
        )
        print_loud(self.console, run.remarks)

    def _say_done(self, run: StudyRun, queue: TrialQueue) -> None:
        self._say(
            f"study {run.study}: all of its {format_count(queue.count_ended(), 'trial')} have "
            "ended; nothing is left for a worker"
        )

    def _say(self, line: str) -> None:
        print_line(self.console, line)
