"""One process on one device: takes trials until none is left, then retrains the best.

    python -m search worker        (started by the supervisor, not by hand)

It reads jobs and writes events, one JSON object a line each:

    in   {"job": "setup", "run": ..., "device": "cuda:0", "log": ...}  first
         {"job": "search"} | {"job": "retrain", "number": 7}
         {"job": "export", "number": 7, "rank": 1}
         {"job": "halt"}: give the trial back, wait for the next job | {"job": "stop"}
    out  preparing, ready, started, epoch, ended, released, retraining, retrained, exported, idle,
         warned, error

The end of its input means that the supervisor is gone: the worker then stops as
if told to. What a model or study prints goes to the worker's log.
"""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from queue import Queue
from typing import IO, Any

import optuna
from optuna.exceptions import ExperimentalWarning

from models.data.loading import open_images
from models.errors import StopRequested
from search.errors import explain_error
from search.run import StudyRun
from search.setup.inputs import open_base
from search.setup.loading import load_study
from search.strategies.pruners import make_pruner
from search.strategies.samplers import OneSequence, make_sampler
from search.trials.owner import owner_name
from search.trials.queue import open_queue
from search.worker import exporting, retraining
from search.worker.context import WorkerContext
from search.worker.device import lift_limit, limit_memory, taken_memory, use_device
from search.worker.evaluator import open_study_judge
from search.worker.trial import SpentProcess, run_trial
from storage.database.retry import FULL, DatabaseRetry, GaveUp

log = logging.getLogger("genstudy")


class LogFile(io.FileIO):
    """A log that takes what it can: a line that a full disk has no room for stops no trial."""

    def write(self, line: Any) -> int:
        with suppress(OSError):
            super().write(line)
        return len(line)


STOP: dict[str, Any] = {"job": "stop"}
HALT: dict[str, Any] = {"job": "halt"}


class Control:
    """The two pipes to the supervisor."""

    def __init__(self, jobs: IO[str], events: IO[str]) -> None:
        self._input = jobs
        self._events = events
        self._jobs: Queue[dict[str, Any]] = Queue()
        self.stopped = threading.Event()
        self.halted = threading.Event()
        threading.Thread(target=self._listen, name="jobs", daemon=True).start()

    def _listen(self) -> None:
        for line in self._input:
            job = json.loads(line)
            if job == STOP:
                break
            if job == HALT:
                self.halted.set()
            else:
                self.halted.clear()
                self._jobs.put(job)
        self.stop()

    def jobs(self) -> Iterator[dict[str, Any]]:
        """Jobs as they come, until told to stop."""
        while not self.stopped.is_set():
            job = self._jobs.get()
            if job == STOP:
                return
            yield job

    def interrupted(self) -> bool:
        return self.stopped.is_set() or self.halted.is_set()

    def stop(self) -> None:
        """As if the supervisor had said so."""
        self.stopped.set()
        self._jobs.put(STOP)

    def tell_of_database(self, message: str) -> None:
        """One that is away the supervisor notices itself; a full disk, only who writes."""
        log.warning(message)
        if FULL.search(message):
            self.say("warned", what="space for the trial database", message=message)

    def say(self, event: str, **values: Any) -> None:
        try:
            self._events.write(json.dumps({"event": event, **values}) + "\n")
            self._events.flush()
        except (BrokenPipeError, ValueError):
            self.stopped.set()  # nobody listens any more


def main() -> int:
    control = Control(sys.stdin, _own_output())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the supervisor's to handle
    signal.signal(signal.SIGTERM, lambda *_: control.stop())
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", ExperimentalWarning)  # samplers are chosen by name
    try:
        _work(control)
    except SpentProcess as error:
        log.error("%s", error)
        return 3  # no error of the run: the supervisor puts a new process here
    except Exception as error:
        control.say("error", message=explain_error(error) or f"{type(error).__name__}: {error}")
        log.error("%s", traceback.format_exc())
        return 2
    return 0


def _work(control: Control) -> None:
    jobs = control.jobs()
    first = next(jobs, STOP)
    if first == STOP:
        return
    _log_to(Path(first["log"]))
    try:
        context = set_up(first["run"], first["device"], control)
    except (StopRequested, GaveUp):  # while an extractor was trained, or the database was away
        return
    control.say("ready", device=context.device_name)
    try:
        _do(jobs, context)
    finally:
        context.queue.engine.dispose()


def _do(jobs: Iterator[dict[str, Any]], context: WorkerContext) -> None:
    for job in jobs:
        if job["job"] == "search":
            limit_memory(context.device, context.run.memory, before=context.taken_at_first)
            _search(context)
            lift_limit(context.device)
        elif job["job"] == "retrain":
            retraining.retrain(context, job["number"])
        elif job["job"] == "export":
            exporting.export(context, job["number"], job["rank"])
        context.say("idle")


def set_up(plain_run: dict[str, Any], device: str, control: Control) -> WorkerContext:
    """Load study, images and database once, for all trials of this process."""
    run = StudyRun(**plain_run)
    study = load_study(run.name)
    opening = DatabaseRetry()  # the supervisor has seen it: a database that is away now comes back
    opening.given_up, opening.tell = control.interrupted, control.tell_of_database
    owner = owner_name(os.getpid())
    queue = opening.wait_for(lambda: open_queue(run.study, run.storage, owner))
    queue.study.sampler = make_sampler(
        run.sampler or study.spec.sampler, seed=run.seed, space=study.space
    )
    queue.references = study.spec.references
    queue.retry.given_up = control.interrupted
    queue.retry.tell = control.tell_of_database
    queue.shown = run.shown
    queue.study.pruner = make_pruner(
        "none" if run.shown is not None else run.pruner or study.spec.pruner
    )
    if isinstance(queue.study.sampler, OneSequence):  # it draws under the study's lock
        queue.study.get_trials(deepcopy=False)  # so Optuna's cache is filled before
    images = open_images(Path(run.images)).to(device)
    say, interrupted = control.say, control.interrupted
    context = WorkerContext(
        run=run,
        spec=study.spec,
        queue=queue,
        device=device,
        device_name=use_device(device),
        images=images,
        base=open_base(run.base_folder),
        say=say,
        interrupted=interrupted,
        judge=open_study_judge(run, study.spec, images, queue, say, interrupted),
    )
    return replace(context, taken_at_first=taken_memory(device))


def _search(context: WorkerContext) -> None:
    """Trials until none is left to take, or until told to stop."""
    while not context.interrupted():
        try:
            trial = context.queue.claim(context.run.trials)
        except GaveUp:
            return
        if trial is None:
            return
        run_trial(context, trial)


def _log_to(log: Path) -> None:
    """From now on all that this process prints goes there."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as errors:
        for output in (1, 2):
            os.dup2(errors.fileno(), output)
    sys.stdout = sys.stderr = io.TextIOWrapper(
        LogFile(2, "w", closefd=False), "utf-8", "backslashreplace", write_through=True
    )
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(sys.stderr)


def _own_output() -> IO[str]:
    """Keep standard output for events; whatever else prints there goes to the log."""
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return events
