"""One process on one device: takes trials until none is left, then retrains and exports the best.

    python -m search trainer       (started by the supervisor, not by hand)

It reads jobs and writes events (`search.messages`). The end of its input means that the
supervisor is gone: the worker then stops as if told to. What a model or a study prints goes to
the worker's log.
"""

from __future__ import annotations

import faulthandler
import io
import logging
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import optuna
from optuna.exceptions import ExperimentalWarning

from models.data.loading import open_images
from models.errors import ImagesChanged, StopRequested
from search.errors import StudyFileError, explain_error, is_missing_record
from search.events import (
    BROKEN,
    CHANGED,
    CROWDED,
    OUTDATED,
    SPENT,
    Failed,
    Idle,
    Ready,
    Tried,
    Trying,
)
from search.jobs import DryRun, Export, Job, Retrain, Search, SetUp
from search.setup.inputs import open_base
from search.setup.loading import load_study
from search.setup.mistakes import show_warnings_once
from search.trials.owner import forget_mark
from search.worker.context import WorkerContext
from search.worker.control import Control
from search.worker.device import lift_limit, limit_memory, taken_memory, use_device
from search.worker.device_trouble import BrokenDevice, DeviceCrowded, SpentProcess
from search.worker.dry_run import make_dry_run
from search.worker.exporting import export
from search.worker.held_trials import HeldTrials
from search.worker.interruptions import is_device_error
from search.worker.retraining import retrain
from search.worker.startup import open_context
from storage.database.retry import DatabaseWentBack, GaveUp

log = logging.getLogger("genstudy")


class LogFile(io.FileIO):
    """A log that takes what it can: a full disk costs its lines, and stops no trial."""

    def write(self, line: Any) -> int:
        with suppress(OSError):
            super().write(line)
        return len(line)


def main() -> int:
    """Work until the supervisor says stop; returns the process's exit code."""
    control = Control(sys.stdin, _take_standard_output())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the supervisor's to handle
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # likewise what schedulers send to all processes
    signal.signal(signal.SIGTERM, lambda *_: control.stop())
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    show_warnings_once()  # a trial warns of what the trial before has warned of
    warnings.simplefilter("ignore", ExperimentalWarning)  # samplers are chosen by name
    try:
        _work(control)
    except BrokenDevice as error:
        log.error("%s", error)
        os._exit(BROKEN)  # what lies on the GPU cannot be given back in good order
    except SpentProcess as error:
        log.error("%s", error)
        return SPENT
    except DeviceCrowded as error:
        log.error("%s", error)
        return CROWDED
    except ImagesChanged as error:
        log.error("%s", error)
        return CHANGED
    except DatabaseWentBack as error:
        log.error("%s", error)
        return OUTDATED
    except Exception as error:
        message = explain_error(error) or f"{type(error).__name__}: {error}"
        control.send(Failed(message=message))
        log.error("%s", traceback.format_exc())
        return 2
    return 0


def _work(control: Control) -> None:
    """Set up as the first job says, then do the others."""
    jobs = control.jobs()
    first = next(jobs, None)
    if isinstance(first, DryRun):
        _send_output_to(Path(first.log))
        control.send(_try(first, control))
        return
    if not isinstance(first, SetUp):
        return
    _send_output_to(Path(first.log))
    try:
        context = open_context(first.run, first.device, control, first.owner)
    except (StopRequested, GaveUp):  # while an extractor was trained, or the database was away
        return
    context.queue.engine.dispose()  # others may need the connection
    control.send(Ready())
    try:
        _do_jobs(jobs, context)
    except GaveUp:  # told to stop while the database was away
        return
    except SpentProcess:
        raise
    except Exception as error:
        if is_missing_record(error):  # a new process sees whether the study is there
            raise DatabaseWentBack("a trial is not in the trial database any more") from error
        if is_device_error(error):  # of a retraining or an export: a new process tries it again
            raise BrokenDevice(f"its GPU reported an error: {error}") from error
        raise
    finally:
        context.queue.engine.dispose()
        if not context.queue.unreturned:
            forget_mark(context.queue.owner)


def _try(job: DryRun, control: Control) -> Tried:
    """Make a dry run; return how it ended. Nothing of it outlives the supervisor."""
    threading.Thread(target=_end_with_supervisor, args=(control,), daemon=True).start()
    study = load_study(job.name, sources=job.sources)
    base = open_base(None if job.base is None else Path(job.base))
    use_device(job.device)
    limit_memory(job.device, job.memory, before=taken_memory(job.device))
    try:
        unanswered = make_dry_run(
            study,
            open_images(Path(job.images)),
            base,
            device=job.device,
            exports=job.exports,
            say=lambda what: control.send(Trying(what=what)),
        )
    except StudyFileError as error:
        log.error("%s", traceback.format_exc())
        return Tried(mistake=explain_error(error), unanswered=None)
    return Tried(mistake=None, unanswered=unanswered)


def _end_with_supervisor(control: Control) -> None:
    """End this process as soon as the supervisor is gone, whatever the user's code is at."""
    control.stopped.wait()
    os._exit(1)


def _do_jobs(jobs: Iterator[Job], context: WorkerContext) -> None:
    for job in jobs:
        match job:
            case Search():
                limit_memory(context.device, context.run.memory, before=context.memory_before)
                HeldTrials(context).run()
                lift_limit(context.device)
            case Retrain():
                retrain(context, job.number, job.repeat, job.claim)
            case Export():
                export(context, job)
        context.queue.engine.dispose()
        context.send(Idle())


def _send_output_to(log: Path) -> None:
    """Send all that this process prints from now on to ``log``."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as errors:
        for output in (1, 2):
            os.dup2(errors.fileno(), output)
    faulthandler.enable(2)  # a crash in a library leaves where it was
    sys.stdout = sys.stderr = io.TextIOWrapper(
        LogFile(2, "w", closefd=False), "utf-8", "backslashreplace", write_through=True
    )
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(sys.stderr)


def _take_standard_output() -> IO[str]:
    """Keep standard output for events. Whatever else prints there goes to the log."""
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return events
