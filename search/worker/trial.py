"""One trial, from its parameters to its end: config -> model -> epochs -> reports -> outcome.

    run_trial(context, trial)

The value of a trial is its best validation value; every epoch's is reported. Of several goals it
is the vector of the epoch that is the best by the first one. How a trial can end
is in `search.trials.outcomes`. A worker that is interrupted does not end its trial: it goes on
later, from its checkpoint.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from optuna.exceptions import TrialPruned, UpdateFinishedTrialError
from optuna.pruners import NopPruner
from optuna.trial import Trial

from models.base import Model
from models.errors import CheckpointError, DivergedError, ImagesChanged, StopRequested
from models.seeds import derive_seed
from models.training.loop import EpochResult, fit
from search.messages import Ended, EpochEnded, Paused, Released, Resumed, Started
from search.setup.code_digest import describe_environment
from search.setup.mistakes import find_place
from search.trials.outcomes import (
    Ending,
    Outcome,
    describe_error,
    is_out_of_memory,
)
from search.trials.study_code import code_attributes
from search.trials.trial_note import TrialNote
from search.worker.checkpoints import Checkpoints
from search.worker.context import WorkerContext
from search.worker.device import TrialMemory, gpu_memory
from search.worker.device_trouble import (
    BrokenDevice,
    DeviceCrowded,
    DeviceTrouble,
    OutOfMemoryAfterOthers,
    SpentProcess,
)
from search.worker.diagnosis import GanDiagnosis, trial_attributes
from search.worker.goals import TrialGoals
from search.worker.interruptions import is_device_error, is_interruption
from search.worker.pictures import TrialPictures, is_pictured
from search.worker.progress import TrialProgress
from search.worker.rungs import PausedAtRung, TrialRungs
from storage.database import leases
from storage.database.fences import TrialLost
from storage.database.preferences import PICTURE
from storage.database.retry import DatabaseLost, GaveUp
from storage.database.vectors import VIOLATION

CHECKPOINT_EVERY = 30.0  # seconds
SHORT_EPOCH = 3.0  # seconds: who is told to stop finishes such an epoch; a longer one has its
# checkpoint at once, so that no finished epoch is lost in either case
NOTE_EVERY = 10.0  # seconds: the dashboard asks as often
log = logging.getLogger("genstudy")


class Overdue(Exception):
    """TRIAL_MINUTES are over."""


class NoPicture(Exception):
    """A trial that a person is to choose by its picture has none."""


def run_trial(context: WorkerContext, trial: Trial) -> None:
    """Train, report and end the claimed ``trial``, whatever happens.

    A trial that is interrupted is released. One that became somebody else's meanwhile (this
    process was suspended for too long) is dropped without a word. Raises `SpentProcess`,
    `ImagesChanged` where another process has to open the images anew, and `DeviceCrowded` where
    there should be a process less.
    """
    TrialRun(context, trial).run()


class TrialRun:
    """One attempt at a trial: what is known of it, and what happens to it."""

    def __init__(self, context: WorkerContext, trial: Trial) -> None:
        self.context = context
        self.trial = trial
        self.number = trial.number
        self.queue = context.queue
        self.seed = derive_seed(context.run.seed, "trial", trial.number)
        self.memory = TrialMemory(context.device, before=context.memory_before)
        self.trouble = DeviceTrouble(context, trial, self.memory)
        evaluator = context.evaluator
        self.diagnosis = GanDiagnosis(
            None if evaluator is None else evaluator.floor,
            prunes=not isinstance(context.queue.study.pruner, NopPruner),
        )
        self.progress = TrialProgress(
            checkpoints=Checkpoints(
                path=context.run.paths.trial_checkpoint(context.run.study, trial.number),
                tell=context.tell,
                attempt=context.queue.attempt_at(trial),
                copies=context.copies_of_trial(trial),
            ),
            token=context.run.token,
            metric=context.spec.quality,
            is_better=context.spec.better,
            diagnosis=self.diagnosis,
            reported={},
        )
        self.rungs = TrialRungs(context, trial)
        self.goals = TrialGoals(context, trial)
        self.lost = threading.Event()  # set when the trial has become somebody else's
        self.missing: dict[str, str] = {}  # what could not be written, and why
        self.pictures = TrialPictures(context, trial, self.missing)
        self.note = TrialNote(
            metric=context.spec.quality if context.run.shown is None else None,
            minimize=context.spec.minimizes,
            place=f"{context.device_name} of {socket.gethostname()}",
            pictures=self.pictures.shown,
        )
        self.noted = time.monotonic()  # when the note was written
        self.got_on = time.monotonic()  # when a step, an evaluation or an epoch began
        self.has_broken_device = False
        self.is_unpromoted = False  # it pauses, and ends since nothing else is left to do
        self.earlier_seconds = 0.0  # of earlier attempts, until the checkpoint

    def run(self) -> None:
        """Attempt the trial, then tell Optuna and the supervisor how it ended."""
        began = time.perf_counter()
        self.context.begun += 1
        self.context.begin_training()
        try:
            with self.queue.keep_lease(self.number, is_stuck=self._is_stuck) as self.lost:
                ending = self._attempt()
                self._settle_copies()
                self.context.check_images()
                if not self.queue.renew(self.number) or not self._is_kept():
                    raise StopRequested
                ending = ending.with_attributes(self._measure_cost(began))
                ending = self.goals.end_early(ending)
                self._write_last_note(ending)
                self.queue.end(self.trial, ending)
        except (StopRequested, GaveUp, UpdateFinishedTrialError):
            self._release()
            return
        except PausedAtRung:
            self._pause()
            return
        except ImagesChanged:
            self._release()
            raise
        except DeviceCrowded:
            self._release()
            raise
        except OutOfMemoryAfterOthers as error:
            self._release()
            reason = f"trial {self.number} goes on in a new process: {error}"
            raise SpentProcess(reason) from error
        except Exception as error:
            if not is_device_error(error):
                raise
            self._release()
            reason = f"trial {self.number} goes on in a new process: {describe_error(error)}"
            raise BrokenDevice(reason) from error
        self._clear_up()
        self._announce(ending)
        if self.has_broken_device:
            raise BrokenDevice(ending.reason)
        if ending.outcome is Outcome.INFEASIBLE:
            raise SpentProcess(ending.reason)

    def _clear_up(self) -> None:
        """Remove what a trial needs no more that has ended. One that may go on, in a study with
        more epochs or trials, keeps its last checkpoint."""
        try:
            kept = self.queue.select_kept([self.number], all_of_them=self.context.run.keeps)
        except GaveUp:  # the end of the next run looks again
            return
        if kept:
            self.progress.checkpoints.keep_last()
            return
        self.progress.checkpoints.remove()
        self.pictures.forget_rows()
        self.pictures.forget_copies()

    def _measure_cost(self, began: float) -> dict[str, Any]:
        """Return seconds and memory, and what could not be written; nothing of a trial that only
        ends here: its cost was noted when it paused.

        began: when this attempt did; earlier ones count as far as their checkpoints tell
        """
        if self.is_unpromoted:
            return {}
        return {
            "seconds": round(time.perf_counter() - began + self.earlier_seconds, 3),
            "peak_memory_mib": self.memory.peak_mebibytes(),
            **self.missing,
        }

    def _is_kept(self) -> bool:
        """Whether the database has what this attempt has told it. It has not where an older state
        of it was put back meanwhile; then the trial is made again."""
        queue, progress = self.queue, self.progress
        stored = queue.retry.wait_for(lambda: queue.storage.get_trial(queue.id_of(self.number)))
        told = progress.reported.keys() - {report.epoch - 1 for report in progress.unwritten}
        lacking = told - stored.intermediate_values.keys()
        if not lacking and stored.params == self.trial.params and "seed" in stored.user_attrs:
            return True
        what = f"the report of epoch {min(lacking) + 1}" if lacking else "its parameters"
        self.context.tell(
            f"trial {self.number} is made again: the trial database has lost {what}; it was put "
            "back to an older state while the trial ran"
        )
        return False

    def _write_last_note(self, ending: Ending) -> None:
        """Say how the trial ends. The dashboard asks no more for a trial that has ended: this
        comes before that."""
        reported = self.progress.reported
        words = self.note.describe_end(str(ending.outcome), reported, ending.attributes)
        self.queue.write_note(self.trial._trial_id, words)

    def interrupted(self) -> bool:
        """Whether the trial is somebody else's by now, or is wanted back."""
        return self.lost.is_set() or self.context.interrupted()

    def _is_stuck(self) -> bool:
        """Whether the training stands still: another worker may have the trial."""
        return time.monotonic() - self.got_on > leases.STUCK

    # Each step of an attempt, in order.

    def _attempt(self) -> Ending:
        """Train until the trial is decided."""
        try:
            self.is_unpromoted = self.queue.pauses(self.trial)
            if not self.is_unpromoted:
                self._record_start()
            config = self.queue.retry.wait_for(lambda: self.context.spec.suggest(self.trial))
            if not self.is_unpromoted:
                self.context.send(
                    Started(
                        number=self.number,
                        parameters=self.trial.params,
                        epochs=self.context.run.epochs,
                    )
                )
            model = self.context.make_model(config, self.seed)
            if model.config.batch_size < config.batch_size:  # of a set with few images
                fitted = {"fitted_batch_size": model.config.batch_size}
                self.queue.set_attributes(self.trial, fitted)
            self.goals.measure_costs(model)
            self._resume(model)
            if self.is_unpromoted:
                return self._end_unpromoted(model)
            self._note_progress(at_once=True)
            try:
                self._write_reports()
                if not self.rungs.reach_until(self.progress.epoch, self.progress.reported):
                    raise PausedAtRung
                return self._train_to_the_end(model)
            except DivergedError as error:
                return self._end_diverged(error)
            except PausedAtRung:
                peak = self.memory.peak_mebibytes()
                cost = {"seconds": round(self.progress.seconds, 3), "peak_memory_mib": peak}
                self.queue.set_attributes(self.trial, cost | self.missing)
                raise
            except (GaveUp, DatabaseLost):
                if self.progress.epoch:
                    self._save_checkpoint(model)
                raise
        except PausedAtRung:
            raise
        except TrialPruned as error:  # suggest or the model turns these parameters down
            return Ending.turned_down(error, self.progress.epoch)
        except Overdue:
            assert self.context.run.trial_minutes is not None
            return Ending.interrupted(self.context.run.trial_minutes, self.progress.epoch)
        except Exception as error:
            if is_device_error(error):
                if not self.trouble.is_at_fault(self.progress.epoch):
                    raise
                self.has_broken_device = True
            elif is_interruption(error):
                raise
            if is_out_of_memory(error):
                return self.trouble.end_out_of_memory(error)
            log.exception("trial %d failed", self.number)
            place = find_place(error, Path(self.context.run.name))
            return Ending.failed(error).with_attributes({"place": place})

    def _record_start(self) -> None:
        """Write where and from what the trial runs; after an interruption, where it ran last."""
        about = {
            "device": self.context.device_name,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "seed": self.seed,
            "revision": self.context.run.revision,
            **code_attributes(
                self.trial.user_attrs, self.context.run.version, describe_environment()
            ),
        }
        if self.context.evaluators is not None:
            about |= self.context.evaluators.trial_attributes()
        self.queue.set_attributes(self.trial, about)

    def _resume(self, model: Model) -> None:
        """Bring progress and model to where an earlier attempt got."""
        queue = self.queue
        stored = queue.retry.wait_for(lambda: queue.storage.get_trial(queue.id_of(self.number)))
        self.progress.reported = dict(stored.intermediate_values)
        self.progress.checkpoints = replace(self.progress.checkpoints, of=self._identity(model))
        if (self.progress.checkpoints.attempt or 0) > 1:  # else nobody has trained it before
            self.progress.checkpoints.fetch_newer()
            self.pictures.bring_rows()
        self.progress.resume(model)
        self.earlier_seconds = self.progress.seconds
        if self.progress.epoch and not self.is_unpromoted:
            self.context.send(Resumed(number=self.number, epoch=self.progress.epoch))
        self.pictures.forget_rows(beyond=self.progress.epoch)

    def _identity(self, model: Model) -> dict[str, Any]:
        """Return what the checkpoints of this trial belong to."""
        return {
            "kind of file": "trial",
            "study": self.context.run.token,
            "trial": self.number,
            "parameters": self.trial.params,
            "configuration": asdict(model.config),
            "seed": self.seed,
        }

    def _train_to_the_end(self, model: Model) -> Ending:
        """Train, write what is left to write, and draw what came out."""
        pruned = self._train(model)
        self._write_reports()
        verdict = self.diagnosis.final()
        self.pictures.show_end(model, self.progress, verdict)
        about = trial_attributes(verdict)
        evaluators, history = self.context.evaluators, self.diagnosis.history
        second = self.context.spec.second_judge and self.context.run.encoder is None
        if evaluators is not None and history and second:
            about |= evaluators.measure_again(model) | {
                "last_frechet": history[-1].quality["frechet"]
            }
        return (pruned or self._end_complete()).with_attributes(about)

    def _train(self, model: Model) -> Ending | None:
        """Train epoch by epoch, from where `progress` is; returns how that ended early.

        Raises `Overdue` and `StopRequested`.
        """
        run, progress = self.context.run, self.progress
        began = time.monotonic() - progress.seconds
        limit = 60 * (run.trial_minutes or float("inf"))
        saved = time.monotonic()
        last: EpochResult | None = None

        def drops_epoch() -> bool:
            self.got_on = time.monotonic()
            if self.lost.is_set() or time.monotonic() - began > limit:
                return True
            is_short = last is not None and last.seconds <= SHORT_EPOCH
            return self.interrupted() and not is_short

        try:
            for result in fit(
                model,
                self.context.images,
                epochs=run.epochs,
                seed=self.seed,
                start=progress.epoch,
                judge=self.context.evaluator,
                interrupted=drops_epoch,
            ):
                last = result
                self.got_on = time.monotonic()
                self.context.check_images()
                written = self._report(result)
                self.pictures.keep_row(result.number, model)
                progress.seconds = time.monotonic() - began
                if result.number == run.epochs:
                    if run.keeps or self.queue.lets_trials_pause:
                        self._save_checkpoint(model)  # from which more epochs go on
                    break
                if ending := self._prune(model, result.number, written=written):
                    return ending
                if result.number in self.rungs.epochs:
                    self._write_reports()  # who ends a paused trial finds them there
                    if not self.rungs.reach(result.number, progress.reported):
                        self._save_checkpoint(model)
                        raise PausedAtRung
                is_new = progress.is_new(result.number)
                if is_new and is_pictured(self.context.spec, result.number):
                    suffix = f"-epoch-{result.number:03}"
                    self.pictures.show_preview(model, progress.best, suffix)
                self._note_progress()
                stop = self.interrupted()
                due = time.monotonic() - saved >= CHECKPOINT_EVERY
                if stop or due or result.seconds > SHORT_EPOCH:
                    self._save_checkpoint(model)
                    saved = time.monotonic()
                if stop:
                    raise StopRequested
        except StopRequested:
            if self.interrupted():
                raise
            raise Overdue from None
        return None

    def _write_reports(self) -> None:
        """Tell the database of the epochs of which it could not be told before."""
        while self.progress.unwritten:
            self.queue.report(self.trial, self.progress.unwritten[0])
            del self.progress.unwritten[0]

    def _note_progress(self, *, at_once: bool = False) -> None:
        """Say how far the trial is, if its note has not said so for a while."""
        if time.monotonic() - self.noted < NOTE_EVERY and not at_once:
            return
        words = self.note.describe_progress(self.progress.reported, epochs=self.context.run.epochs)
        self.queue.try_write_note(self.trial._trial_id, words)
        self.noted = time.monotonic()

    def _report(self, result: EpochResult) -> bool:
        """Tell supervisor and database of an epoch. False: the database is told later."""
        report = self.progress.add(result, self.goals.measured(result))
        memory = gpu_memory(self.context.device)
        self.context.send(
            EpochEnded(
                number=self.number,
                epoch=result.number,
                epochs=self.context.run.epochs,
                value=report.value,
                seconds=result.seconds,
                free_memory=None if memory is None else memory.free,
                peak_memory=None if memory is None else memory.peak,
            )
        )
        while self.progress.unwritten:
            if not self.queue.try_report(self.trial, self.progress.unwritten[0]):
                return False
            del self.progress.unwritten[0]
        return True

    def _prune(self, model: Model, epoch: int, *, written: bool) -> Ending | None:
        """Return the early end after ``epoch``, on the trial's own record or by the pruner.

        written: whether the database has all reports, which the pruner compares
        """
        if not self.progress.is_new(epoch):
            return None
        if verdict := self.diagnosis.lost(steps=model.steps_per_epoch(self.context.images)):
            return Ending.lost(verdict, epoch)
        if written and self.queue.try_should_prune(self.trial):
            return Ending.pruned(epoch, getattr(self.queue.study.pruner, "bound", None))
        return None

    def _save_checkpoint(self, model: Model) -> None:
        try:
            self.progress.save(model)
            self.pictures.share_rows(self.progress.epoch)
        except (CheckpointError, TrialLost) as error:  # a later attempt has written one
            log.warning("trial %d: %s", self.number, error)
            self.lost.set()
            raise StopRequested from error
        except OSError as error:
            self.missing["no_checkpoint"] = describe_error(error)
            self.context.warn_once("checkpoints of trials", error)

    # How an attempt can end.

    def _end_complete(self) -> Ending:
        """End a trial that trained all its epochs. Where a person chooses, it needs a picture."""
        ending = self.goals.end_complete(self.progress.reported, self.progress.epoch)
        if self.context.run.shown is None:
            return ending
        if self.pictures.latest is None:
            reason = self.missing.get("no_picture", "the model's preview() gave none")
            return Ending.failed(NoPicture(f"no picture to choose by: {reason}"))
        return ending.with_attributes({PICTURE: self.pictures.latest})

    def _end_unpromoted(self, model: Model) -> Ending:
        """End a trial that pauses, as pruned at its rung, with the pictures of its checkpoint."""
        verdict = self.diagnosis.final()
        if self.progress.epoch:  # else the checkpoint is lost, and the model untrained
            self.pictures.show_end(model, self.progress, verdict)
        ending = Ending.pruned(max(self.progress.reported) + 1, None)
        return ending.with_attributes(trial_attributes(verdict))

    def _end_diverged(self, error: DivergedError) -> Ending:
        self.pictures.show_broken(self.progress, error.epoch)
        about = trial_attributes(self.diagnosis.diverged(error))
        return Ending.diverged(error, self.context.run.epochs).with_attributes(about)

    def _settle_copies(self) -> None:
        """Wait for the last checkpoint in FILES. Raises `StopRequested` where the trial is another
        attempt's by now."""
        copies = self.progress.checkpoints.copies
        if copies is None:
            return
        try:
            copies.settle()
        except TrialLost as error:
            self.lost.set()
            raise StopRequested from error

    def _release(self) -> None:
        """Give the trial back, once its last checkpoint is where others find it. While the database
        is away, its lease runs out instead."""
        with suppress(StopRequested, DatabaseLost):
            self._settle_copies()
        if not self.lost.is_set():
            words = self.note.describe_pause(self.progress.reported)
            with suppress(DatabaseLost, TrialLost):
                self.queue.try_write_note(self.trial._trial_id, words)
        if not self.queue.try_release(self.number):
            log.warning("trial %d is not given back: the database is away", self.number)
        self.context.send(Released(number=self.number))

    def _pause(self) -> None:
        """Give the trial back until it is promoted, or until nothing else is left to do."""
        reported = self.progress.reported
        with suppress(StopRequested, DatabaseLost):
            self._settle_copies()
        with suppress(DatabaseLost, TrialLost):
            self.queue.try_write_note(self.trial._trial_id, self.note.describe_rung(reported))
        if not self.queue.try_release(self.number):
            log.warning("trial %d is not given back: the database is away", self.number)
        assert self.progress.best is not None
        epoch, best = self.progress.epoch, self.progress.best
        self.context.send(Paused(number=self.number, epoch=epoch, value=best))

    def _announce(self, ending: Ending) -> None:
        self.context.send(
            Ended(
                number=self.number,
                outcome=ending.outcome,
                value=ending.value,
                values=[*(ending.values or ())],
                violates=VIOLATION in ending.attributes,
                reason=ending.reason,
                verdict=ending.attributes.get("verdict"),
                place=ending.attributes.get("place", ""),
            )
        )
