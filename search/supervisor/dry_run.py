"""A study with an own model is tried once, in a process of its own, before it is stored.

    try_own_model(study, "mine", inputs, variables, device, console)

genstudy's own families are tested, so that such studies start without it. An own model is tried
again whenever one of the study's files, the images' shape or PyTorch has changed; a note in RUNS
remembers what went well. `search.worker.dry_run` says what is tried.
"""

from __future__ import annotations

import hashlib
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import IO

import torch
from rich.console import Console

from models.base import OUR_MODELS
from search.errors import StudyFileError
from search.events import Failed, Tried, Trying
from search.jobs import DryRun
from search.messages import read_message, write_message
from search.setup.inputs import RunInputs
from search.study import Study
from search.supervisor.process import start_early, start_process
from search.variables import Variables
from storage.errors import StorageError
from storage.files.atomic import atomic_file

DRY_RUN_SECONDS = 60.0  # a search need not wait any longer for what may go well

DryRunEnd = Tried | Failed | int | None
"""How a dry run ended: with its answer, the exit code of its process, or not in time (None)."""


def try_own_model(
    study: Study,
    stored_name: str,
    inputs: RunInputs,
    variables: Variables,
    device: str,
    console: Console,
) -> None:
    """Raise `StudyFileError` for a mistake that a dry run finds.

    stored_name: of the study in the database, for the name of the log
    """
    family = study.spec.model
    if family.__module__.startswith(OUR_MODELS):
        return
    exports = variables.top > 0
    note = variables.paths.dry_run(_digest(study, inputs, device, exports=exports))
    if note.exists():
        return
    job = DryRun(
        name=study.reference,
        sources=study.sources,
        images=str(inputs.cached),
        base=None if inputs.base is None else str(inputs.base),
        device=device,
        exports=exports,
        memory=variables.memory,
        log=str(variables.paths.worker_log(stored_name, 0)),
    )
    ended, what = _run(job, family.__name__, console)
    match ended:
        case Tried(mistake=str(mistake)) | Failed(message=mistake):
            raise StudyFileError(mistake)
        case Tried(unanswered=None):
            with suppress(OSError, StorageError), atomic_file(note) as beside:
                beside.write_text(f"{study.path}\n")
        case int(code) if code != -signal.SIGKILL:
            how = f"by signal {-code}" if code < 0 else f"with code {code}"
            raise StudyFileError(
                f"{study.path}: {family.__name__} ends its process {how}, in {what}; see {job.log}"
            )
        case _:
            reason = _why_unanswered(ended, what)
            console.print(
                f"no answer about {family.__name__}: {reason}; the search begins without it",
                markup=False,
            )


def _run(job: DryRun, family: str, console: Console) -> tuple[DryRunEnd, str]:
    """Show what a dry run is at; return how it ended, and at what."""
    parts = "a step, an evaluation, a picture" + (", an export" if job.exports else "")
    line = f"trying {family} on two images first: {parts}"
    if not console.is_terminal:
        console.print(line, markup=False)
    process = start_process(Path(job.log))
    start_early()  # the first worker, which gets ready meanwhile
    try:
        with console.status(f"{line} ...") as status:
            return _follow(process, job, lambda what: status.update(f"{line}: {what} ..."))
    finally:
        _end(process)


def _why_unanswered(ended: DryRunEnd, what: str) -> str:
    match ended:
        case Tried(unanswered=str(reason)):
            return reason
        case None:
            return f"it still is at {what} after {DRY_RUN_SECONDS:.0f} s"
        case _:
            return f"its process was killed at {what}, as the kernel does when memory runs out"


def _follow(
    process: subprocess.Popen[str], job: DryRun, say: Callable[[str], None]
) -> tuple[DryRunEnd, str]:
    """Start a dry run; return how it ended, and at what."""
    assert process.stdin is not None
    assert process.stdout is not None
    heard: Queue[str] = Queue()
    Thread(target=_listen, args=(process.stdout, heard), daemon=True).start()
    with suppress(BrokenPipeError):
        process.stdin.write(write_message(job))
        process.stdin.flush()
    what, deadline = "its start", time.monotonic() + DRY_RUN_SECONDS
    while (left := deadline - time.monotonic()) > 0:
        try:
            line = heard.get(timeout=left)
        except Empty:
            break
        if not line.endswith("\n"):
            return process.wait(), what
        match read_message(line):
            case Trying(what=what):
                say(what)
            case Tried() | Failed() as ended:
                return ended, what
    return None, what


def _listen(lines: IO[str], heard: Queue[str]) -> None:
    """Pass lines on; the last one, which is empty or cut off, means the end of the process."""
    while True:
        line = lines.readline()
        heard.put(line)
        if not line.endswith("\n"):
            return


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(BrokenPipeError):
                pipe.close()


def _digest(study: Study, inputs: RunInputs, device: str, *, exports: bool) -> str:
    """Return a word that changes with whatever a dry run depends on."""
    images = inputs.images
    parts = (
        study.version, images.shape, len(images.classes), images.attribute_names, inputs.base,
        device.partition(":")[0], torch.__version__, exports,
    )  # fmt: skip
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
