"""One trial: parameters -> configuration -> epochs -> reports -> a value.

The value of a trial is its best validation value; every epoch's is reported.
How it can end is in `search.trials.outcomes`. An interrupted worker does not end its trial:
it goes on later, from its checkpoint.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from dataclasses import replace

from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.trial import Trial
from sqlalchemy.exc import SQLAlchemyError

from models.base import Model
from models.errors import DivergedError, StopRequested
from models.seeds import derive_seed
from models.training.loop import fit
from search.trials import outcomes
from search.trials.outcomes import Ending
from search.worker import diagnosis
from search.worker.context import WorkerContext, make_model
from search.worker.device import PeakMemory, lift_limit, memory_budget, taken_memory
from search.worker.evaluator import second_opinion, told
from search.worker.kept import checkpoint_path, resume, save
from search.worker.pictures import (
    forget_rows,
    is_pictured,
    keep_row,
    picture,
    show_broken,
    show_end,
    trial_row,
    trial_rows,
)
from search.worker.progress import TrialProgress, report, should_prune, write
from storage.database.preferences import PICTURE
from storage.database.retry import DatabaseLost, GaveUp, is_away

CHECKPOINT_EVERY = 30.0  # seconds; an epoch that is longer is kept each time
log = logging.getLogger("genstudy")


class SpentProcess(Exception):
    """This process should not train any more, and a new one can: the GPU's context is broken,
    or memory ran out and what was taken may not all have been given back."""


class Cramped(Exception):
    """Memory ran out, but might not have without what earlier trials have left behind."""


class Overdue(Exception):
    """TRIAL_MINUTES are over."""


class Unseen(Exception):
    """A trial that a person is to judge has no picture."""


def run_trial(context: WorkerContext, trial: Trial) -> None:
    """Train, report and end ``trial``, whatever happens.

    One that is interrupted is released; one that became somebody else's meanwhile (this process
    was suspended for too long) is dropped without a word. Raises `SpentProcess`.
    """
    began = time.perf_counter()
    memory = PeakMemory(context.device)
    progress = TrialProgress(left_behind=_left_behind(context))
    try:
        with context.queue.kept_alive(trial.number) as lost:
            held = replace(context, interrupted=lambda: lost.is_set() or context.interrupted())
            ending = _attempt(held, trial, progress)
            if not context.queue.owns(trial.number):
                raise StopRequested
            about = {
                "outcome": ending.outcome,
                "seconds": round(time.perf_counter() - began, 3),
                "peak_memory_mib": memory.mebibytes(),
                **progress.missing,
            }
            context.queue.conclude(trial, ending, about)
    except (StopRequested, GaveUp, UpdateFinishedTrialError):
        _release(context, trial)
        context.say("released", number=trial.number)
        return
    except Cramped as error:
        _release(context, trial)
        context.say("released", number=trial.number)
        raise SpentProcess(f"trial {trial.number} goes on in a new process: {error}") from error
    checkpoint_path(context, trial).unlink(missing_ok=True)
    forget_rows(trial_rows(context, trial))
    reason = ending.attributes.get("reason", "")
    context.say(
        "ended",
        number=trial.number,
        outcome=ending.outcome,
        value=ending.value,
        reason=reason,
        verdict=ending.attributes.get("verdict"),
    )
    if ending.outcome == "infeasible" or reason.startswith("AcceleratorError"):
        raise SpentProcess(reason)


def _release(context: WorkerContext, trial: Trial) -> None:
    """Give the trial back. With the database away its lease runs out instead."""
    try:
        context.queue.release(trial.number)
    except Exception as error:
        if not is_away(error):
            raise
        log.warning("trial %d is not given back: %s", trial.number, error)


def _attempt(context: WorkerContext, trial: Trial, progress: TrialProgress) -> Ending:
    """Train until the trial is decided."""
    try:
        wait_for = context.queue.retry.wait_for
        wait_for(lambda: _record_start(context, trial))
        config = wait_for(lambda: context.spec.suggest(trial))
        context.say(
            "started", number=trial.number, parameters=trial.params, epochs=context.run.epochs
        )
        seed = derive_seed(context.run.seed, "trial", trial.number)
        model = make_model(context, config, seed)
        wait_for(lambda: resume(context, trial, model, progress))
        forget_rows(trial_rows(context, trial), beyond=progress.epoch)
        try:
            pruned = _train(context, trial, model, seed, progress)
        except DivergedError as error:
            return _diverged(context, trial, progress, error)
        wait_for(lambda: write(context, trial, progress))
        show_end(context, trial, model, progress)
        about = diagnosis.told(diagnosis.final(context, progress.history))
        about |= second_opinion(context, model, progress.history)
        ending = pruned or _complete(context, progress)
        return ending.with_more(about)
    except (GaveUp, DatabaseLost):
        if progress.epoch:
            save(context, trial, model, progress)
        raise
    except (StopRequested, SQLAlchemyError, StorageInternalError, UpdateFinishedTrialError):
        raise  # no fault of the trial: it goes on later
    except Overdue:
        assert context.run.trial_minutes is not None
        return outcomes.interrupted(context.run.trial_minutes, progress.epoch)
    except Exception as error:
        if outcomes.is_out_of_memory(error):
            return _out_of_memory(context, error, progress.left_behind)
        log.exception("trial %d failed", trial.number)
        return outcomes.failed(error)


def _diverged(
    context: WorkerContext, trial: Trial, progress: TrialProgress, error: DivergedError
) -> Ending:
    show_broken(context, trial, progress, error.epoch)
    about = diagnosis.told(diagnosis.broken(context, error))
    return outcomes.diverged(error, context.run.epochs).with_more(about)


def _complete(context: WorkerContext, progress: TrialProgress) -> Ending:
    """Where a person decides, only with a picture: without one there is nothing to choose."""
    ending = outcomes.complete(progress.best, progress.epoch)
    if context.run.shown is None:
        return ending
    if progress.picture is None:
        reason = progress.missing.get("no_picture", "the model's preview() gave none")
        return outcomes.failed(Unseen(f"no picture to choose by: {reason}"))
    return ending.with_more({PICTURE: progress.picture})


def _left_behind(context: WorkerContext) -> int:
    """Bytes that earlier trials of this process have taken and not given back."""
    if not context.taken_at_first:
        return 0
    return max(0, taken_memory(context.device) - context.taken_at_first)


def _out_of_memory(context: WorkerContext, error: Exception, left_behind: int) -> Ending:
    """Infeasible, if it would be so in a new process, too; else `Cramped`.

    So it depends on the trial alone, and not on which trials the process has had before.
    """
    taken, budget = taken_memory(context.device) - left_behind, memory_budget(context.device)
    lift_limit(context.device)  # the process has only to say so
    if left_behind and taken + outcomes.requested_bytes(error) <= budget:
        raise Cramped(outcomes.describe_error(error)) from error
    return outcomes.infeasible(error, taken=taken, budget=budget)


def _train(
    context: WorkerContext, trial: Trial, model: Model, seed: int, progress: TrialProgress
) -> Ending | None:
    """Epoch by epoch, from where `progress` is; how it ended early, if it was pruned. Raises
    `Overdue`."""
    began = time.monotonic() - progress.seconds
    limit = 60 * (context.run.trial_minutes or float("inf"))
    saved = time.monotonic()
    try:
        for result in fit(
            model,
            context.images,
            epochs=context.run.epochs,
            seed=seed,
            start=progress.epoch,
            judge=context.judge,
            interrupted=lambda: context.interrupted() or time.monotonic() - began > limit,
        ):
            written = report(context, trial, progress, result)
            keep_row(context, trial_row(context, trial, result.number), model)
            progress.seconds = time.monotonic() - began
            if result.number == context.run.epochs:
                break
            known = max(progress.reported) + 1  # epochs that an earlier attempt has reported
            if result.number >= known and (verdict := diagnosis.lost(context, progress.history)):
                return outcomes.lost(verdict, progress.epoch)
            if written and result.number >= known and should_prune(context, trial):
                bound = getattr(context.queue.study.pruner, "bound", None)
                return outcomes.pruned(progress.epoch, bound)
            if result.number >= known and is_pictured(context.spec, result.number):
                picture(context, trial, model, progress, f"-epoch-{result.number:03}")
            stop = context.interrupted()
            if stop or time.monotonic() - saved >= CHECKPOINT_EVERY:
                save(context, trial, model, progress)
                saved = time.monotonic()
            if stop:
                raise StopRequested
    except StopRequested:
        if context.interrupted():
            raise
        raise Overdue from None
    return None


def _record_start(context: WorkerContext, trial: Trial) -> None:
    """Where and from what the trial runs; after a retry, where it ran last."""
    seed = derive_seed(context.run.seed, "trial", trial.number)
    about = {
        "device": context.device_name,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "seed": seed,
        "revision": context.run.revision,
        **told(context.judge),
    }
    context.queue.describe(trial, about)
