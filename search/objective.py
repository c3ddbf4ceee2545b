"""One trial: parameters -> configuration -> epochs -> reports -> a value.

The value of a trial is its best validation value; every epoch's is reported.
A trial ends in one of a few outcomes, kept as its attribute ``outcome``:

    complete     all epochs were trained
    pruned       the pruner saw no hope
    diverged     a metric became NaN or infinite (Optuna: FAIL)
    infeasible   the memory did not suffice (FAIL)
    failed       an error in the model or the study; ``reason`` says which (FAIL)

An interrupted trial does not end: it goes on later, from its checkpoint.
"""

from __future__ import annotations

import logging
import os
import socket
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.trial import Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from models.base import DivergedError, Model, build, evaluating
from models.checkpoint import CheckpointError, load_checkpoint, read_note, save_checkpoint
from models.images import ImageSplits
from models.pictures import draw_reconstructions
from models.seeds import derive_seed
from models.training import EpochResult, Interrupted, fit
from search.claims import Claims
from search.devices import PeakMemory, gpu_memory
from search.run import StudyRun
from search.study import StudySpec
from storage.artifacts import attach, whole_file

CHECKPOINT_EVERY = 30.0  # seconds; an epoch that is longer is kept each time
PREVIEWS = 6  # images in a trial's picture: few, so that the dashboard's thumbnail is legible
LONGEST_ATTRIBUTE = 1900  # characters: Optuna's limit for MySQL, kept everywhere

Say = Callable[..., None]
"""``say(event, **values)``: tell the supervisor."""

log = logging.getLogger("genstudy")


class DeviceLost(Exception):
    """The GPU's context is broken: this process cannot train any more, a new one can."""


@dataclass
class Bench:
    """Where trials run: what a worker has set up once for all of them."""

    run: StudyRun
    spec: StudySpec
    claims: Claims
    images: ImageSplits
    device: str
    device_name: str
    say: Say
    interrupted: Callable[[], bool]


@dataclass
class Progress:
    """What is known of a running trial: epochs done and the best value so far."""

    epoch: int = 0
    best: float | None = None
    reported: dict[int, float] = field(default_factory=dict)  # by Optuna's step, from 0


def run_trial(bench: Bench, trial: Trial) -> None:
    """Train, report and end ``trial``, whatever happens.

    One that is interrupted is released; one that became somebody else's meanwhile (this process
    was suspended for too long) is dropped without a word. Raises `DeviceLost`.
    """
    began = time.perf_counter()
    memory = PeakMemory(bench.device)
    try:
        with bench.claims.kept_alive(trial.number) as lost:
            held = replace(bench, interrupted=lambda: lost.is_set() or bench.interrupted())
            state, value, attributes = _attempt(held, trial)
            attributes["seconds"] = round(time.perf_counter() - began, 3)
            attributes["peak_memory_mib"] = memory.mebibytes()
            if not bench.claims.owns(trial.number):
                raise Interrupted
            bench.claims.describe(trial, attributes)
            bench.claims.study.tell(trial, value, state=state)
    except (Interrupted, UpdateFinishedTrialError):
        bench.claims.release(trial.number)
        bench.say("released", number=trial.number)
        return
    bench.claims.end(trial.number)
    _checkpoint_path(bench, trial).unlink(missing_ok=True)
    bench.say("ended", number=trial.number, outcome=attributes["outcome"], value=value)
    if attributes.get("reason", "").startswith("AcceleratorError"):
        raise DeviceLost(attributes["reason"])


def _attempt(bench: Bench, trial: Trial) -> tuple[TrialState, float | None, dict[str, Any]]:
    """Train until the trial is decided: its state, value and closing attributes."""
    try:
        _record_start(bench, trial)
        config = bench.spec.suggest(trial)
        bench.say("started", number=trial.number, parameters=trial.params, epochs=bench.run.epochs)
        seed = derive_seed(bench.run.seed, "trial", trial.number)
        model = build(bench.spec.model, config, bench.images.shape, seed=seed, device=bench.device)
        progress, pruned = _train(bench, trial, model, seed)
        _picture(bench, trial, model, progress)
        if pruned:
            return TrialState.PRUNED, None, {"outcome": "pruned", "epochs": progress.epoch}
        return (
            TrialState.COMPLETE,
            progress.best,
            {"outcome": "complete", "epochs": progress.epoch},
        )
    except (Interrupted, SQLAlchemyError, StorageInternalError, UpdateFinishedTrialError):
        raise  # no fault of the trial: it goes on later
    except DivergedError as error:
        return _failure("diverged", error)
    except Exception as error:
        if is_out_of_memory(error):
            torch.cuda.empty_cache()
            return _failure("infeasible", error)
        log.error("trial %d failed\n%s", trial.number, traceback.format_exc())
        return _failure("failed", error, trace=traceback.format_exc())


def _train(bench: Bench, trial: Trial, model: Model, seed: int) -> tuple[Progress, bool]:
    """Epoch by epoch, from the checkpoint if there is one; True: pruned."""
    progress = _resume(bench, trial, model)
    saved = time.monotonic()
    pruned = False
    for result in fit(
        model,
        bench.images,
        epochs=bench.run.epochs,
        seed=seed,
        start=progress.epoch,
        interrupted=bench.interrupted,
    ):
        _report(bench, trial, progress, result)
        last = result.number == bench.run.epochs
        known = max(progress.reported) + 1  # epochs that an earlier attempt has reported
        if not last and result.number >= known and trial.should_prune():
            pruned = True
            break
        if not last and time.monotonic() - saved >= CHECKPOINT_EVERY:
            _save(bench, trial, model, progress)
            saved = time.monotonic()
        if not last and bench.interrupted():
            _save(bench, trial, model, progress)
            raise Interrupted
    return progress, pruned


def _report(bench: Bench, trial: Trial, progress: Progress, result: EpochResult) -> None:
    """Tell the database (Optuna's steps count from 0, epochs from 1) and the supervisor."""
    value = progress.reported.setdefault(result.number - 1, result.valid[bench.spec.metric])
    measured = {f"train_{name}": number for name, number in result.train.items()}
    measured |= {f"valid_{name}": number for name, number in result.valid.items()}
    measured["epoch_seconds"] = result.seconds
    bench.claims.report(trial, result.number, value, measured)
    progress.epoch = result.number
    if bench.spec.better(value, progress.best):
        progress.best = value
    bench.say(
        "epoch",
        number=trial.number,
        epoch=result.number,
        epochs=bench.run.epochs,
        value=value,
        seconds=result.seconds,
        **gpu_memory(bench.device),
    )


def _resume(bench: Bench, trial: Trial, model: Model) -> Progress:
    """Where an earlier attempt got to; a trial without a checkpoint starts from its seed again."""
    stored = bench.claims.storage.get_trial(bench.claims.id_of(trial.number))
    progress = Progress(reported=dict(stored.intermediate_values))
    path = _checkpoint_path(bench, trial)
    if path.exists():
        try:
            if read_note(path).get("token") == bench.run.token:
                progress.epoch, note = load_checkpoint(path, model)
                progress.best = note["best"]
        except CheckpointError as error:
            log.warning("trial %d starts over: %s", trial.number, error)
    return progress


def _save(bench: Bench, trial: Trial, model: Model, progress: Progress) -> None:
    """A checkpoint that cannot be written costs a warning, not the trial."""
    try:
        with whole_file(_checkpoint_path(bench, trial)) as beside:
            note = {"best": progress.best, "token": bench.run.token}
            save_checkpoint(beside, model, epoch=progress.epoch, note=note)
    except OSError as error:
        log.warning("no checkpoint of trial %d: %s", trial.number, error)


def _checkpoint_path(bench: Bench, trial: Trial) -> Path:
    return bench.run.paths.trial_checkpoint(bench.run.study, trial.number)


def _record_start(bench: Bench, trial: Trial) -> None:
    """Where and from what the trial runs; after a retry, where it ran last."""
    seed = derive_seed(bench.run.seed, "trial", trial.number)
    about = {
        "device": bench.device_name,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "seed": seed,
        "revision": bench.run.revision,
    }
    bench.claims.describe(trial, about)


def _picture(bench: Bench, trial: Trial, model: Model, progress: Progress) -> None:
    """original | reconstruction of validation images, for the dashboard."""
    images = bench.images.valid.batch(slice(0, PREVIEWS)).images
    with evaluating(model):
        made = model.preview(images)
    metric = bench.spec.metric.upper()
    title = f"{bench.run.study} trial {trial.number} · best {metric} {progress.best:.5f}"
    try:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "reconstructions.png"
            draw_reconstructions(path, images, made, title=title)
            bench.run.paths.artifacts.mkdir(parents=True, exist_ok=True)
            attach(bench.run.paths.artifacts, trial, path)
    except OSError as error:
        log.warning("no picture of trial %d: %s", trial.number, error)


def _failure(
    outcome: str, error: Exception, *, trace: str | None = None
) -> tuple[TrialState, None, dict[str, Any]]:
    reason = f"{type(error).__name__}: {error}"
    attributes: dict[str, Any] = {"outcome": outcome, "reason": reason[:LONGEST_ATTRIBUTE]}
    if trace is not None:
        attributes["traceback"] = trace[-LONGEST_ATTRIBUTE:]
    return TrialState.FAIL, None, attributes


def is_out_of_memory(error: Exception) -> bool:
    """PyTorch has a class for its GPU allocator only; others raise a plain RuntimeError."""
    said = ("can't allocate memory", "out of memory", "ALLOC_FAILED")
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in said)
    )
