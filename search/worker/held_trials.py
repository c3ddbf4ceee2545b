"""The trials that one worker holds: one at a time, or several that take turns.

    HeldTrials(context).run()       # until no trial is left to take, or told to stop

Each trial is a generator that pauses when it wants an epoch trained (`search.worker.trial`). In a
round every trial gets its epoch. Trials that may be trained together share a program
(`models.training.fused_epochs`); all others are trained alone. Then each trial goes on by itself:
it reports, is pruned, saves and draws, and wants its next epoch. A trial that ends makes room for
another one.

A trial that may have killed a worker, or broken a device, is trained with nothing beside it.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from optuna.trial import Trial

from models.errors import StopRequested
from models.training.epoch_task import EpochTask, TrainedEpoch
from models.training.fused_epochs import FusedEpochs
from models.training.fused_steps import fusing_key, may_fuse
from search.trials.outcomes import describe_error
from search.worker.context import WorkerContext
from search.worker.device_trouble import (
    BrokenDevice,
    DeviceCrowded,
    SpentProcess,
    has_been_in_trouble,
    note_shared_trouble,
)
from search.worker.fusing_choice import FusingChoice
from search.worker.interruptions import is_device_error
from search.worker.trial import TrialRun, run_trial
from search.worker.trial_epochs import GivenBack, TrialSteps
from storage.database.fences import TrialLost
from storage.database.retry import DatabaseLost, GaveUp

log = logging.getLogger("genstudy")


@dataclass
class HeldTrial:
    """A trial that waits for an epoch.

    key: equal for trials that may share a program
    is_ahead: whether its model has trained an epoch that the trial has not reported yet
    """

    run: TrialRun
    steps: TrialSteps[None]
    task: EpochTask
    key: Hashable | None
    is_ahead: bool = False


class HeldTrials:
    """The trials of one worker, from the queue to their ends."""

    def __init__(self, context: WorkerContext) -> None:
        self.context, self.queue = context, context.queue
        asked = context.run.fuse if may_fuse(context.spec.model) else 1
        self.choice = FusingChoice(asked=asked, on_gpu=context.device.startswith("cuda"))
        context.is_steady = self.choice.is_settled
        self.together = FusedEpochs()
        self.held: dict[int, HeldTrial] = {}  # by number
        self.may_take = True  # False until one ends: none was left, or one waits to be alone

    def run(self) -> None:
        """Run trials until none is left to take, or until told to stop.

        Raises the errors that end the process, as `search.worker.trial.run_trial` does. The other
        trials are given back before.
        """
        saves = True
        try:
            while not self.context.interrupted():
                if not self._take_more() or not self.held:
                    return
                self._train_round()
        except Exception as error:
            is_away = isinstance(error, GaveUp | DatabaseLost)
            saves = is_away or type(error) in (SpentProcess, DeviceCrowded)
            raise
        finally:
            self._give_back(saves=saves)

    def _take_more(self) -> bool:
        """Take trials until enough are held or none is left. False: the database is away."""
        while self.may_take and len(self.held) < self.choice.most:
            if self.context.interrupted():
                return True
            try:
                trial = self.queue.claim(self.context.run.trials)
            except GaveUp:
                return False
            if trial is None:
                self.may_take = False
            elif self.choice.limit == 1 or self._must_be_alone(trial):
                self._run_alone(trial)
            else:
                self._begin(trial)
        return True

    def _must_be_alone(self, trial: Trial) -> bool:
        return has_been_in_trouble(trial) or self.queue.was_abandoned(trial)

    def _run_alone(self, trial: Trial) -> None:
        """Run a trial with nothing beside it. While others are held, it is left for later, or for
        another worker."""
        if self.held:
            self.queue.release(trial.number)
            self.may_take = False
            return
        self.together.forget()  # its memory is the trial's
        run_trial(self.context, trial)

    def _begin(self, trial: Trial) -> None:
        """Run a trial up to its first epoch."""
        run = TrialRun(self.context, trial)
        steps = run.run()
        try:
            task = next(steps)
        except StopIteration:
            return
        self.held[trial.number] = HeldTrial(run, steps, task, fusing_key(task.model))

    def _train_round(self) -> None:
        """Train one epoch of every trial."""
        groups = self.choice.group({number: each.key for number, each in self.held.items()})
        count = len(self.held)
        for numbers in groups:
            if self.context.interrupted():
                return
            group = [self.held[number] for number in numbers]
            if len(group) == 1:
                self._train_alone(group[0])
            else:
                self._train_together(group)
        self.choice.end_round(count)
        if self.choice.most == 1:
            self.together.forget()
        self.context.is_steady = self.choice.is_settled

    def _train_alone(self, held: HeldTrial) -> None:
        held.run.attempt.own.sharing = 1
        try:
            trained = held.task.train()
        except BaseException as error:
            self._go_on(held, error)
        else:
            self.choice.note_alone(held.run.number, held.key, trained.seconds)
            self._go_on(held, trained)

    def _train_together(self, group: Sequence[HeldTrial]) -> None:
        """Train epochs as one program, or alone where that fails."""
        for held in group:
            held.run.attempt.own.sharing = len(group)
        try:
            trained = self.together.train([held.task for held in group])
        except Exception as error:
            if is_device_error(error):
                self._blame(group, error)
            log.warning("%d epochs together fail: %s", len(group), describe_error(error))
            trained = None
        if trained is None:  # after the error is forgotten, and the memory that it keeps
            self.together.forget()
            self.choice.refuse(group[0].key)
            for held in group:
                held.run.attempt.own.wait()
            for held in group:
                self._train_alone(held)
            return
        for held in group:
            held.is_ahead = True
        seconds = sum(each.seconds for each in trained if each is not None)
        if None not in trained:
            self.choice.note_together(group[0].key, len(group), seconds)
        for held, epoch in zip(group, trained, strict=True):
            self._go_on(held, StopRequested() if epoch is None else epoch)

    def _blame(self, group: Sequence[HeldTrial], error: Exception) -> None:
        """Have each of several trials trained alone from now on, in a new process.

        An error of a GPU does not say which of them caused it.
        """
        for held in group:
            with suppress(TrialLost):
                note_shared_trouble(self.queue, held.run.trial)
        numbers = ", ".join(str(held.run.number) for held in group)
        reason = f"trials {numbers} go on alone in a new process: {describe_error(error)}"
        raise BrokenDevice(reason) from error

    def _go_on(self, held: HeldTrial, outcome: TrainedEpoch | BaseException) -> None:
        """Let a trial go on to its next epoch, or to its end. Raises the errors that end the
        process."""
        number, held.is_ahead = held.run.number, False
        try:
            if isinstance(outcome, BaseException):
                held.task = held.steps.throw(outcome)
            else:
                held.task = held.steps.send(outcome)
        except StopIteration:
            del self.held[number]
            self.may_take = True
        except BaseException:
            del self.held[number]
            raise

    def _give_back(self, *, saves: bool) -> None:
        """Give back all trials, each after its last epoch if it ``saves`` a checkpoint.

        A trial whose model is ahead saves none: the epoch would be trained twice.
        """
        for held in list(self.held.values()):
            try:
                self._go_on(held, GivenBack(saves=saves and not held.is_ahead))
            except Exception as error:  # what ends the process is known already
                log.warning("trial %d: %s", held.run.number, describe_error(error))
        self.held.clear()
