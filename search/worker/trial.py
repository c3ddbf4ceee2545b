"""One trial, from its parameters to its end: config -> model -> epochs -> reports -> outcome.

    run_trial(context, trial)                 # its epochs are trained alone
    steps = TrialRun(context, trial).run()    # whoever runs these trains them

The value of a trial is its best validation value; every epoch's is reported. Of several goals it
is the vector of the epoch that is the best by the first one. How a trial can end
is in `search.trials.outcomes`. A worker that is interrupted does not end its trial: it goes on
later, from its checkpoint.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from optuna.exceptions import TrialPruned, UpdateFinishedTrialError
from optuna.trial import Trial

from models.base import Model
from models.errors import DivergedError, ImagesChanged, StopRequested
from models.needs import is_unclassed
from search.events import Resumed, Started
from search.setup.mistakes import find_place
from search.trials.outcomes import (
    Ending,
    Outcome,
    describe_error,
    is_out_of_memory,
)
from search.trials.recorded_trial import FUSED_EPOCHS
from search.worker.attempt import TrialAttempt
from search.worker.context import WorkerContext
from search.worker.device_trouble import (
    BrokenDevice,
    DeviceCrowded,
    DeviceTrouble,
    OutOfMemoryAfterOthers,
    SpentProcess,
)
from search.worker.diagnosis import trial_attributes
from search.worker.interruptions import is_device_error, is_interruption
from search.worker.rungs import PausedAtRung
from search.worker.trial_end import (
    announce,
    clear_up,
    end_complete,
    end_diverged,
    end_unpromoted,
    is_kept,
    pause,
    release,
    write_last_note,
)
from search.worker.trial_epochs import GivenBack, Overdue, TrialEpochs, TrialSteps
from storage.database.retry import DatabaseLost, GaveUp

log = logging.getLogger("genstudy")


def run_trial(context: WorkerContext, trial: Trial) -> None:
    """Train, report and end the claimed ``trial``, whatever happens.

    A trial that is interrupted is released. One that became somebody else's meanwhile (this
    process was suspended for too long) is dropped without a word. Raises `SpentProcess`,
    `ImagesChanged` where another process has to open the images anew, and `DeviceCrowded` where
    there should be a process less.
    """
    train_alone(TrialRun(context, trial).run())


def train_alone(steps: TrialSteps[None]) -> None:
    """Train each epoch that a trial wants; an error in one is the trial's own."""
    with suppress(StopIteration):
        task = next(steps)
        while True:
            try:
                trained = task.train()
            except BaseException as error:
                task = steps.throw(error)
            else:
                task = steps.send(trained)


class TrialRun:
    """One attempt at a trial, step by step."""

    def __init__(self, context: WorkerContext, trial: Trial) -> None:
        self.attempt = TrialAttempt(context, trial)
        self.epochs = TrialEpochs(self.attempt)
        self.context, self.queue = context, context.queue
        self.trial, self.number = trial, trial.number
        self.progress, self.pictures = self.attempt.progress, self.attempt.pictures
        self.trouble = DeviceTrouble(context, trial, self.attempt.memory)
        self.has_broken_device = False

    def run(self) -> TrialSteps[None]:
        """Attempt the trial, then tell Optuna and the supervisor how it ended."""
        self.context.begun += 1
        with self.context.holding(self.number):
            yield from self._run()

    def _run(self) -> TrialSteps[None]:
        attempt = self.attempt
        try:
            with self.queue.keep_lease(self.number, is_stuck=attempt.is_stuck) as attempt.lost:
                ending = yield from self._attempt()
                attempt.settle_copies()
                self.context.check_images()
                if not self.queue.renew(self.number) or not is_kept(attempt):
                    raise StopRequested
                ending = ending.with_attributes(self._measure_cost())
                ending = attempt.goals.end_early(ending)
                write_last_note(attempt, ending)
                self.queue.end(self.trial, ending)
        except (StopRequested, GaveUp, UpdateFinishedTrialError):
            release(attempt)
            return
        except PausedAtRung:
            pause(attempt)
            return
        except (ImagesChanged, DeviceCrowded):
            release(attempt)
            raise
        except OutOfMemoryAfterOthers as error:
            release(attempt)
            reason = f"trial {self.number} goes on in a new process: {error}"
            raise SpentProcess(reason) from error
        except Exception as error:
            if not is_device_error(error):
                raise
            release(attempt)
            reason = f"trial {self.number} goes on in a new process: {describe_error(error)}"
            raise BrokenDevice(reason) from error
        clear_up(attempt)
        announce(attempt, ending)
        if self.has_broken_device:
            raise BrokenDevice(ending.reason)
        if ending.outcome is Outcome.INFEASIBLE:
            raise SpentProcess(ending.reason)

    def _measure_cost(self) -> dict[str, Any]:
        """Return seconds and memory, and what could not be written; nothing of a trial that only
        ends here: its cost was noted when it paused.

        Earlier attempts count as far as their checkpoints tell.
        """
        if self.attempt.is_unpromoted:
            return {}
        return {
            "seconds": round(self.attempt.own.seconds() + self.attempt.earlier_seconds, 3),
            "peak_memory_mib": self.attempt.memory.peak_mebibytes(),
            **self._count_fused(),
            **self.attempt.missing,
        }

    def _count_fused(self) -> dict[str, int]:
        """Return how many epochs were trained together with other trials; nothing for none."""
        return {FUSED_EPOCHS: self.progress.fused} if self.progress.fused else {}

    # Each step of an attempt, in order.

    def _attempt(self) -> TrialSteps[Ending]:
        """Train until the trial is decided."""
        try:
            model = self._make_model()
            self._resume(model)
            if self.attempt.is_unpromoted:
                return end_unpromoted(self.attempt, model)
            self.epochs.note_progress(at_once=True)
            return (yield from self._go_on(model))
        except (PausedAtRung, GivenBack):  # the second says nothing of the trial, or its device
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

    def _make_model(self) -> Model:
        """Begin the trial, unless it only ends here; return its untrained model."""
        self.attempt.is_unpromoted = self.queue.pauses(self.trial)
        if not self.attempt.is_unpromoted:
            self.attempt.record_start()
        config = self.queue.retry.wait_for(lambda: self.context.spec.suggest(self.trial))
        if not self.attempt.is_unpromoted:
            self.context.send(
                Started(
                    number=self.number,
                    parameters=self.trial.params,
                    epochs=self.context.run.epochs,
                )
            )
        model = self.context.make_model(config, self.attempt.seed)
        if model.config.batch_size < config.batch_size:  # of a set with few images
            fitted = {"fitted_batch_size": model.config.batch_size}
            self.queue.set_attributes(self.trial, fitted)
        self.attempt.goals.measure_costs(model)
        return model

    def _go_on(self, model: Model) -> TrialSteps[Ending]:
        """Train from where the trial is, and say how it ends. Raises `PausedAtRung`."""
        attempt = self.attempt
        try:
            attempt.write_reports()
            if not attempt.rungs.reach_until(self.progress.epoch, self.progress.reported):
                raise PausedAtRung
            return (yield from self._train_to_the_end(model))
        except DivergedError as error:
            return end_diverged(attempt, error)
        except PausedAtRung:
            peak = attempt.memory.peak_mebibytes()
            cost = {"seconds": round(self.progress.seconds, 3), "peak_memory_mib": peak}
            about = cost | self._count_fused() | attempt.missing
            self.queue.set_attributes(self.trial, about)
            raise
        except (GaveUp, DatabaseLost):
            if self.progress.epoch:
                self.epochs.save_checkpoint(model)
            raise

    def _resume(self, model: Model) -> None:
        """Bring progress and model to where an earlier attempt got."""
        queue = self.queue
        stored = queue.retry.wait_for(lambda: queue.storage.get_trial(queue.id_of(self.number)))
        self.progress.reported = dict(stored.intermediate_values)
        self.progress.checkpoints = replace(
            self.progress.checkpoints, of=self.attempt.identify(model)
        )
        if (self.progress.checkpoints.attempt or 0) > 1:  # else nobody has trained it before
            self.progress.checkpoints.fetch_newer()
            self.pictures.bring_rows()
        self.progress.resume(model)
        self.attempt.earlier_seconds = self.progress.seconds
        if self.progress.epoch and not self.attempt.is_unpromoted:
            self.context.send(Resumed(number=self.number, epoch=self.progress.epoch))
        self.pictures.forget_rows(beyond=self.progress.epoch)

    def _train_to_the_end(self, model: Model) -> TrialSteps[Ending]:
        """Train, write what is left to write, and draw what came out."""
        pruned = yield from self.epochs.train(model)
        self.attempt.write_reports()
        verdict = self.attempt.diagnosis.final()
        self.pictures.show_end(model, verdict)
        about = trial_attributes(verdict)
        evaluators, history = self.context.evaluators, self.attempt.diagnosis.history
        if evaluators is not None and history and self._has_second_judge():
            about |= evaluators.measure_again(model) | {
                "last_frechet": history[-1].quality["frechet"]
            }
        return (pruned or end_complete(self.attempt)).with_attributes(about)

    def _has_second_judge(self) -> bool:
        """Whether an independent evaluator measures the last samples: only classes train one."""
        context = self.context
        is_asked = context.spec.second_judge and context.run.encoder is None
        return is_asked and not is_unclassed(context.images)
