"""The epochs of one attempt at a trial: trained, reported, pruned, saved.

    epochs = TrialEpochs(attempt)
    ended_early = yield from epochs.train(model)      # None: to its last epoch

Whoever runs a trial trains the epochs that it yields, alone or with those of others.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Generator
from typing import TypeAlias, TypeVar

from models.base import Model
from models.errors import CheckpointError, StopRequested
from models.training.epoch_task import EpochTask, TrainedEpoch
from models.training.loop import EpochResult, Training
from search.events import EpochEnded
from search.trials.outcomes import Ending, describe_error
from search.worker.attempt import TrialAttempt
from search.worker.device import gpu_memory
from search.worker.pictures import is_pictured
from search.worker.rungs import PausedAtRung
from storage.database.fences import TrialLost

CHECKPOINT_EVERY = 30.0  # seconds
# Seconds. A worker that is told to stop ends an epoch as short as this. A longer epoch is saved in
# a checkpoint at once. So no finished epoch is lost.
SHORT_EPOCH = 3.0
NOTE_EVERY = 10.0  # seconds: the dashboard asks as often
log = logging.getLogger("genstudy")


T = TypeVar("T")
TrialSteps: TypeAlias = Generator[EpochTask, TrainedEpoch, T]
"""A trial, or a part of it, that yields each epoch it wants trained, and is sent what that gave."""


class Overdue(Exception):
    """TRIAL_MINUTES are over."""


class GivenBack(StopRequested):
    """The trial is given back while it waits for its next epoch.

    saves: whether it saves a checkpoint; False if its device or its images cannot be trusted
    """

    def __init__(self, *, saves: bool) -> None:
        super().__init__()
        self.saves = saves


class TrialEpochs:
    """Trains a model on, from where the attempt is."""

    def __init__(self, attempt: TrialAttempt) -> None:
        self.attempt, self.context = attempt, attempt.context
        self.queue, self.trial, self.number = attempt.queue, attempt.trial, attempt.number
        self.progress, self.pictures = attempt.progress, attempt.pictures
        self.last: EpochResult | None = None
        self.before = 0.0  # seconds of earlier attempts, less this one's until training began
        self.kept = 0  # epochs in the last checkpoint
        self.noted = time.monotonic()  # when the note was written
        self.saved = time.monotonic()  # when the last checkpoint was

    def train(self, model: Model) -> TrialSteps[Ending | None]:
        """Train epoch by epoch, from where `progress` is; returns how that ended early.

        Raises `Overdue` and `StopRequested`.
        """
        attempt, run = self.attempt, self.context.run
        self.before = self.progress.seconds - attempt.own.seconds()
        self.saved, self.kept = time.monotonic(), self.progress.epoch
        training = Training(
            model,
            self.context.images,
            epochs=run.epochs,
            seed=attempt.seed,
            start=self.progress.epoch,
            judge=self.context.evaluator,
            interrupted=self._drops_epoch,
        )
        try:
            while (task := training.begin_epoch()) is not None:
                attempt.own.wait()
                trained = yield task
                attempt.own.end_epoch(trained.seconds)
                self.progress.fused += trained.shared_by > 1
                self.last = result = training.end_epoch(trained)
                ending = self._take_in(model, result)
                if ending is not None or result.number == run.epochs:
                    return ending
                self._save_in_time(model, result)
        except GivenBack as error:
            if error.saves and self.progress.epoch > self.kept:
                self.save_checkpoint(model)
            raise
        except StopRequested:
            if attempt.interrupted():
                raise
            raise Overdue from None
        return None

    def note_progress(self, *, at_once: bool = False) -> None:
        """Say how far the trial is, if its note has not said so for a while."""
        if time.monotonic() - self.noted < NOTE_EVERY and not at_once:
            return
        words = self.attempt.note.describe_progress(
            self.progress.reported, epochs=self.context.run.epochs
        )
        self.queue.try_write_note(self.trial._trial_id, words)
        self.noted = time.monotonic()

    def save_checkpoint(self, model: Model) -> None:
        """Write a checkpoint. Raises `StopRequested` where a later attempt has written one."""
        self.kept = self.progress.epoch
        try:
            self.progress.save(model)
            self.pictures.share_rows(self.progress.epoch)
        except (CheckpointError, TrialLost) as error:  # a later attempt has written one
            log.warning("trial %d: %s", self.number, error)
            self.attempt.lost.set()
            raise StopRequested from error
        except OSError as error:
            self.attempt.missing["no_checkpoint"] = describe_error(error)
            self.context.warn_once("checkpoints of trials", error)

    def _drops_epoch(self) -> bool:
        """Whether the epoch that is under way is not brought to its end."""
        attempt = self.attempt
        self.context.get_on()
        attempt.own.note_step()
        limit = 60 * (self.context.run.trial_minutes or float("inf"))
        if attempt.lost.is_set() or self._seconds() > limit:
            return True
        is_short = self.last is not None and self._duration(self.last) <= SHORT_EPOCH
        return attempt.interrupted() and not is_short

    def _seconds(self) -> float:
        """Return the trial's own seconds until now, earlier attempts included."""
        return self.before + self.attempt.own.seconds()

    def _duration(self, result: EpochResult) -> float:
        """Return the seconds of an epoch and of those that were trained with it."""
        return result.seconds * self.attempt.own.sharing

    def _take_in(self, model: Model, result: EpochResult) -> Ending | None:
        """Report an epoch, and do what follows from it; returns an early end.

        Raises `PausedAtRung`.
        """
        attempt, run, progress = self.attempt, self.context.run, self.progress
        self.context.get_on()
        self.context.check_images()
        written = self._report(result)
        self.pictures.keep_row(result.number, model)
        progress.seconds = self._seconds()
        if result.number == run.epochs:
            if run.keeps or self.queue.lets_trials_pause:
                self.save_checkpoint(model)  # from which more epochs go on
            return None
        if ending := self._prune(model, result.number, written=written):
            return ending
        if result.number in attempt.rungs.epochs:
            attempt.write_reports()  # the worker that ends the paused trial needs them
            if not attempt.rungs.reach(result.number, progress.reported):
                self.save_checkpoint(model)
                raise PausedAtRung
        if progress.is_new(result.number) and is_pictured(self.context.spec, result.number):
            self.pictures.show_preview(model)
        self.note_progress()
        return None

    def _save_in_time(self, model: Model, result: EpochResult) -> None:
        """Write a checkpoint if it is time, or the trial is wanted back. Raises `StopRequested`."""
        stop = self.attempt.interrupted()
        due = time.monotonic() - self.saved >= CHECKPOINT_EVERY
        if stop or due or self._duration(result) > SHORT_EPOCH:
            self.save_checkpoint(model)
            self.saved = time.monotonic()
        if stop:
            raise StopRequested

    def _report(self, result: EpochResult) -> bool:
        """Tell supervisor and database of an epoch. False: the database is told later."""
        report = self.progress.add(result, self.attempt.goals.measured(result))
        memory = gpu_memory(self.context.device)
        self.context.send(
            EpochEnded(
                number=self.number,
                epoch=result.number,
                epochs=self.context.run.epochs,
                value=report.value,
                seconds=result.seconds,
                measured=report.measured,
                free_memory=None if memory is None else memory.free,
                peak_memory=None if memory is None else memory.peak,
                steady=self.context.is_steady,
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
        if verdict := self.attempt.diagnosis.lost(steps=model.steps_per_epoch(self.context.images)):
            return Ending.lost(verdict, epoch)
        if self.attempt.trains_to_the_end or not written:
            return None
        if self.queue.try_should_prune(self.trial):
            return Ending.pruned(epoch, getattr(self.queue.study.pruner, "bound", None))
        return None
