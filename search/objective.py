"""One trial: parameters -> configuration -> epochs -> reports -> a value.

The value of a trial is its best validation value; every epoch's is reported.
How it can end is in `search.outcomes`. An interrupted worker does not end its trial:
it goes on later, from its checkpoint.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.trial import Trial
from sqlalchemy.exc import SQLAlchemyError

from models.base import DivergedError, Model, ModelConfig, build, evaluating
from models.checkpoint import (
    CheckpointError,
    checkpoint_size,
    load_checkpoint,
    read_note,
    save_checkpoint,
)
from models.images import ImageSplits
from models.seeds import derive_seed
from models.training import EpochResult, Interrupted, fit
from search import outcomes
from search.claims import Claims
from search.devices import gpu_memory
from search.memory import PeakMemory, lift_limit, memory_budget, taken_memory
from search.outcomes import Ending
from search.run import StudyRun
from search.study import StudySpec
from storage.artifacts import attach, whole_file
from storage.patience import DatabaseLost, GaveUp, is_away

CHECKPOINT_EVERY = 30.0  # seconds; an epoch that is longer is kept each time
PREVIEWS = 6  # images in a trial's picture: few, so that the dashboard's thumbnail is legible

Say = Callable[..., None]
"""``say(event, **values)``: tell the supervisor."""

log = logging.getLogger("genstudy")


class SpentProcess(Exception):
    """This process should not train any more, and a new one can: the GPU's context is broken,
    or memory ran out and what was taken may not all have been given back."""


class Cramped(Exception):
    """Memory ran out, but might not have without what earlier trials have left behind."""


class Overdue(Exception):
    """TRIAL_MINUTES are over."""


@dataclass
class Bench:
    """Where trials run: what a worker has set up once for all of them.

    taken_at_first: bytes of memory before the first trial
    """

    run: StudyRun
    spec: StudySpec
    claims: Claims
    images: ImageSplits
    base: Model | None  # that every model starts from
    device: str
    device_name: str
    say: Say
    interrupted: Callable[[], bool]
    taken_at_first: int = 0


@dataclass(frozen=True)
class Report:
    """What an epoch has to say: its value, and all that was measured."""

    epoch: int
    value: float
    measured: dict[str, float]


@dataclass
class Progress:
    """What is known of a running trial: epochs done, the best value so far, seconds spent."""

    epoch: int = 0
    seconds: float = 0.0
    best: float | None = None
    reported: dict[int, float] = field(default_factory=dict)  # by Optuna's step, from 0
    unwritten: list[Report] = field(default_factory=list)  # while the database is away
    left_behind: int = 0  # bytes of earlier trials
    missing: dict[str, str] = field(default_factory=dict)  # what could not be written, and why


def run_trial(bench: Bench, trial: Trial) -> None:
    """Train, report and end ``trial``, whatever happens.

    One that is interrupted is released; one that became somebody else's meanwhile (this process
    was suspended for too long) is dropped without a word. Raises `SpentProcess`.
    """
    began = time.perf_counter()
    memory = PeakMemory(bench.device)
    progress = Progress(left_behind=_left_behind(bench))
    try:
        with bench.claims.kept_alive(trial.number) as lost:
            held = replace(bench, interrupted=lambda: lost.is_set() or bench.interrupted())
            ending = _attempt(held, trial, progress)
            if not bench.claims.owns(trial.number):
                raise Interrupted
            about = {
                "outcome": ending.outcome,
                "seconds": round(time.perf_counter() - began, 3),
                "peak_memory_mib": memory.mebibytes(),
                **progress.missing,
            }
            bench.claims.conclude(trial, ending, about)
    except (Interrupted, GaveUp, UpdateFinishedTrialError):
        _release(bench, trial)
        bench.say("released", number=trial.number)
        return
    except Cramped as error:
        _release(bench, trial)
        bench.say("released", number=trial.number)
        raise SpentProcess(f"trial {trial.number} goes on in a new process: {error}") from error
    _checkpoint_path(bench, trial).unlink(missing_ok=True)
    reason = ending.attributes.get("reason", "")
    bench.say(
        "ended", number=trial.number, outcome=ending.outcome, value=ending.value, reason=reason
    )
    if ending.outcome == "infeasible" or reason.startswith("AcceleratorError"):
        raise SpentProcess(reason)


def _release(bench: Bench, trial: Trial) -> None:
    """Give the trial back. With the database away its lease runs out instead."""
    try:
        bench.claims.release(trial.number)
    except Exception as error:
        if not is_away(error):
            raise
        log.warning("trial %d is not given back: %s", trial.number, error)


def _attempt(bench: Bench, trial: Trial, progress: Progress) -> Ending:
    """Train until the trial is decided."""
    try:
        wait_for = bench.claims.patience.wait_for
        wait_for(lambda: _record_start(bench, trial))
        config = wait_for(lambda: bench.spec.suggest(trial))
        bench.say("started", number=trial.number, parameters=trial.params, epochs=bench.run.epochs)
        seed = derive_seed(bench.run.seed, "trial", trial.number)
        model = make_model(bench, config, seed)
        wait_for(lambda: _resume(bench, trial, model, progress))
        pruned = _train(bench, trial, model, seed, progress)
        wait_for(lambda: _write(bench, trial, progress))
        wait_for(lambda: _picture(bench, trial, model, progress))
        if pruned:
            bound = getattr(bench.claims.study.pruner, "bound", None)
            return outcomes.pruned(progress.epoch, bound)
        return outcomes.complete(progress.best, progress.epoch)
    except (GaveUp, DatabaseLost):
        if progress.epoch:
            _save(bench, trial, model, progress)
        raise
    except (Interrupted, SQLAlchemyError, StorageInternalError, UpdateFinishedTrialError):
        raise  # no fault of the trial: it goes on later
    except Overdue:
        assert bench.run.trial_minutes is not None
        return outcomes.interrupted(bench.run.trial_minutes, progress.epoch)
    except DivergedError as error:
        return outcomes.diverged(error, bench.run.epochs)
    except Exception as error:
        if outcomes.is_out_of_memory(error):
            return _out_of_memory(bench, error, progress.left_behind)
        log.exception("trial %d failed", trial.number)
        return outcomes.failed(error)


def make_model(bench: Bench, config: ModelConfig, seed: int) -> Model:
    """A fresh model on the worker's device, from the study's base if it has one."""
    return build(
        bench.spec.model,
        bench.spec.model.fitted(config, bench.images),
        bench.images.shape,
        seed=seed,
        device=bench.device,
        base=bench.base,
    )


def _left_behind(bench: Bench) -> int:
    """Bytes that earlier trials of this process have taken and not given back."""
    if not bench.taken_at_first:
        return 0
    return max(0, taken_memory(bench.device) - bench.taken_at_first)


def _out_of_memory(bench: Bench, error: Exception, left_behind: int) -> Ending:
    """Infeasible, if it would be so in a new process, too; else `Cramped`.

    So it depends on the trial alone, and not on which trials the process has had before.
    """
    taken, budget = taken_memory(bench.device) - left_behind, memory_budget(bench.device)
    lift_limit(bench.device)  # the process has only to say so
    if left_behind and taken + outcomes.asked_for(error) <= budget:
        raise Cramped(outcomes.reason_of(error)) from error
    return outcomes.infeasible(error, taken=taken, budget=budget)


def _train(bench: Bench, trial: Trial, model: Model, seed: int, progress: Progress) -> bool:
    """Epoch by epoch, from where `progress` is; True: pruned. Raises `Overdue`."""
    began = time.monotonic() - progress.seconds
    limit = 60 * (bench.run.trial_minutes or float("inf"))
    saved = time.monotonic()
    try:
        for result in fit(
            model,
            bench.images,
            epochs=bench.run.epochs,
            seed=seed,
            start=progress.epoch,
            interrupted=lambda: bench.interrupted() or time.monotonic() - began > limit,
        ):
            written = _report(bench, trial, progress, result)
            progress.seconds = time.monotonic() - began
            if result.number == bench.run.epochs:
                break
            known = max(progress.reported) + 1  # epochs that an earlier attempt has reported
            if written and result.number >= known and _should_prune(bench, trial):
                return True
            if result.number >= known and is_pictured(bench.spec, result.number):
                _picture(bench, trial, model, progress, f"-epoch-{result.number:03}")
            stop = bench.interrupted()
            if stop or time.monotonic() - saved >= CHECKPOINT_EVERY:
                _save(bench, trial, model, progress)
                saved = time.monotonic()
            if stop:
                raise Interrupted
    except Interrupted:
        if bench.interrupted():
            raise
        raise Overdue from None
    return False


def _should_prune(bench: Bench, trial: Trial) -> bool:
    """What the pruner says; no, while the database that it looks at is away."""
    try:
        return trial.should_prune()
    except Exception as error:
        if not bench.claims.patience.away(error):
            raise
        return False


def _report(bench: Bench, trial: Trial, progress: Progress, result: EpochResult) -> bool:
    """Tell the database (Optuna's steps count from 0, epochs from 1) and the supervisor.

    False: the database is away, and will be told with a later epoch.
    """
    value = progress.reported.setdefault(result.number - 1, result.valid[bench.spec.metric])
    measured = {f"train_{name}": number for name, number in result.train.items()}
    measured |= {f"valid_{name}": number for name, number in result.valid.items()}
    measured["epoch_seconds"] = result.seconds
    progress.unwritten.append(Report(result.number, value, measured))
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
    try:
        _write(bench, trial, progress)
    except Exception as error:
        if not bench.claims.patience.away(error):
            raise
        return False
    return True


def _write(bench: Bench, trial: Trial, progress: Progress) -> None:
    """Write the reports that are not written, in their order."""
    while progress.unwritten:
        report = progress.unwritten[0]
        bench.claims.report(trial, report.epoch, report.value, report.measured)
        del progress.unwritten[0]
        bench.claims.patience.back()


def _resume(bench: Bench, trial: Trial, model: Model, progress: Progress) -> None:
    """To where an earlier attempt got; without a checkpoint a trial starts from its seed again."""
    stored = bench.claims.storage.get_trial(bench.claims.id_of(trial.number))
    progress.reported = dict(stored.intermediate_values)
    path = _checkpoint_path(bench, trial)
    if path.exists():
        try:
            if read_note(path).get("token") == bench.run.token:
                progress.epoch, note = load_checkpoint(path, model)
                progress.best, progress.seconds = note["best"], note.get("seconds", 0.0)
                progress.unwritten = [Report(*written) for written in note.get("unwritten", [])]
        except CheckpointError as error:
            log.warning("trial %d starts over: %s", trial.number, error)


def _save(bench: Bench, trial: Trial, model: Model, progress: Progress) -> None:
    """A checkpoint that cannot be written costs a warning, not the trial; the older one stays."""
    try:
        with whole_file(_checkpoint_path(bench, trial), needs=checkpoint_size(model)) as beside:
            note = {
                "best": progress.best,
                "seconds": progress.seconds,
                "unwritten": [astuple(report) for report in progress.unwritten],
                "token": bench.run.token,
            }
            save_checkpoint(beside, model, epoch=progress.epoch, note=note)
    except OSError as error:
        progress.missing["no_checkpoint"] = outcomes.reason_of(error)
        go_without(bench, "checkpoints of trials", error)


def go_without(bench: Bench, what: str, error: Exception) -> None:
    """Warn that ``what`` is not kept: in the log each time, to the user once."""
    log.warning("without %s: %s", what, error)
    bench.say("warned", what=what, message=f"it goes on without {what}: {error}")


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


def is_pictured(spec: StudySpec, epoch: int) -> bool:
    return spec.pictures_every is not None and epoch % spec.pictures_every == 0


def _picture(
    bench: Bench, trial: Trial, model: Model, progress: Progress, suffix: str = ""
) -> None:
    """What the model makes of validation images, for the dashboard."""
    metric = bench.spec.metric.upper()
    with evaluating(model):
        picture = model.preview(bench.images, "valid", PREVIEWS)
    if picture is None:
        return
    title = f"{bench.run.study} trial {trial.number} · best {metric} {progress.best:.5f}"
    try:
        with TemporaryDirectory() as folder:
            path = Path(folder) / f"{picture.name}{suffix}.png"
            with whole_file(path) as beside:  # which names the place when that disk is full
                picture.draw(beside, title)
            bench.run.paths.artifacts.mkdir(parents=True, exist_ok=True)
            attach(bench.run.paths.artifacts, trial, path)
    except OSError as error:
        progress.missing["no_picture"] = outcomes.reason_of(error)
        go_without(bench, "pictures of trials", error)
