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
from models.errors import DivergedError, Interrupted
from models.seeds import derive_seed
from models.training.loop import fit
from search.trials import outcomes
from search.trials.outcomes import Ending
from search.worker import diagnosis
from search.worker.context import Bench, make_model
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
from search.worker.progress import Progress, report, should_prune, write
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
    checkpoint_path(bench, trial).unlink(missing_ok=True)
    forget_rows(trial_rows(bench, trial))
    reason = ending.attributes.get("reason", "")
    bench.say(
        "ended",
        number=trial.number,
        outcome=ending.outcome,
        value=ending.value,
        reason=reason,
        verdict=ending.attributes.get("verdict"),
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
        wait_for(lambda: resume(bench, trial, model, progress))
        forget_rows(trial_rows(bench, trial), beyond=progress.epoch)
        try:
            pruned = _train(bench, trial, model, seed, progress)
        except DivergedError as error:
            return _diverged(bench, trial, progress, error)
        wait_for(lambda: write(bench, trial, progress))
        show_end(bench, trial, model, progress)
        about = diagnosis.told(diagnosis.final(bench, progress.history))
        about |= second_opinion(bench, model, progress.history)
        ending = pruned or _complete(bench, progress)
        return ending.with_more(about)
    except (GaveUp, DatabaseLost):
        if progress.epoch:
            save(bench, trial, model, progress)
        raise
    except (Interrupted, SQLAlchemyError, StorageInternalError, UpdateFinishedTrialError):
        raise  # no fault of the trial: it goes on later
    except Overdue:
        assert bench.run.trial_minutes is not None
        return outcomes.interrupted(bench.run.trial_minutes, progress.epoch)
    except Exception as error:
        if outcomes.is_out_of_memory(error):
            return _out_of_memory(bench, error, progress.left_behind)
        log.exception("trial %d failed", trial.number)
        return outcomes.failed(error)


def _diverged(bench: Bench, trial: Trial, progress: Progress, error: DivergedError) -> Ending:
    show_broken(bench, trial, progress, error.epoch)
    about = diagnosis.told(diagnosis.broken(bench, error))
    return outcomes.diverged(error, bench.run.epochs).with_more(about)


def _complete(bench: Bench, progress: Progress) -> Ending:
    """Where a person decides, only with a picture: without one there is nothing to choose."""
    ending = outcomes.complete(progress.best, progress.epoch)
    if bench.run.shown is None:
        return ending
    if progress.picture is None:
        reason = progress.missing.get("no_picture", "the model's preview() gave none")
        return outcomes.failed(Unseen(f"no picture to choose by: {reason}"))
    return ending.with_more({PICTURE: progress.picture})


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


def _train(
    bench: Bench, trial: Trial, model: Model, seed: int, progress: Progress
) -> Ending | None:
    """Epoch by epoch, from where `progress` is; how it ended early, if it was pruned. Raises
    `Overdue`."""
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
            judge=bench.judge,
            interrupted=lambda: bench.interrupted() or time.monotonic() - began > limit,
        ):
            written = report(bench, trial, progress, result)
            keep_row(bench, trial_row(bench, trial, result.number), model)
            progress.seconds = time.monotonic() - began
            if result.number == bench.run.epochs:
                break
            known = max(progress.reported) + 1  # epochs that an earlier attempt has reported
            if result.number >= known and (verdict := diagnosis.lost(bench, progress.history)):
                return outcomes.lost(verdict, progress.epoch)
            if written and result.number >= known and should_prune(bench, trial):
                bound = getattr(bench.claims.study.pruner, "bound", None)
                return outcomes.pruned(progress.epoch, bound)
            if result.number >= known and is_pictured(bench.spec, result.number):
                picture(bench, trial, model, progress, f"-epoch-{result.number:03}")
            stop = bench.interrupted()
            if stop or time.monotonic() - saved >= CHECKPOINT_EVERY:
                save(bench, trial, model, progress)
                saved = time.monotonic()
            if stop:
                raise Interrupted
    except Interrupted:
        if bench.interrupted():
            raise
        raise Overdue from None
    return None


def _record_start(bench: Bench, trial: Trial) -> None:
    """Where and from what the trial runs; after a retry, where it ran last."""
    seed = derive_seed(bench.run.seed, "trial", trial.number)
    about = {
        "device": bench.device_name,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "seed": seed,
        "revision": bench.run.revision,
        **told(bench.judge),
    }
    bench.claims.describe(trial, about)
