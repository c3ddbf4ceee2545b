"""What ends or moves a trial when its device has no memory left, or reports an error.

    trouble = DeviceTrouble(context, trial, memory)
    ending = trouble.end_out_of_memory(error)      # infeasible; or raises: somebody else can do it
    trouble.is_at_fault(epoch)                     # whether a GPU's error is the trial's own

How a trial ends must depend on the trial alone, not on those before it in this process or beside
it on the same GPU. So one that might fit is given back: to a new process, or to fewer of them.
"""

from __future__ import annotations

from optuna.trial import Trial

from search.trials.outcomes import Ending, describe_error, requested_bytes
from search.trials.queue import TrialQueue
from search.worker.context import WorkerContext
from search.worker.device import (
    OWN_CONTEXT,
    TrialMemory,
    held_by_others,
    lift_limit,
    memory_budget,
)

CROWDED = "crowded_attempts"  # attribute: attempts that other processes left no memory for
MOST_CROWDED = 5  # of these attempts: then what the others hold is to stay
DEVICE_ERROR = "device_error_epoch"  # attribute: epochs done when a GPU reported an error
SHARED = "trouble_beside_others"  # attribute: there was trouble while its worker held others, too


class SpentProcess(Exception):
    """This process should not train on, but a new one can: memory ran out, and part of it may
    still be taken."""


class BrokenDevice(SpentProcess):
    """This process cannot train on, but a new one can: its context on the GPU is broken."""


class OutOfMemoryAfterOthers(Exception):
    """Memory ran out, perhaps because of what earlier trials of this process left behind."""


class DeviceCrowded(Exception):
    """Memory of the GPU ran out because of other processes on it."""


def note_shared_trouble(queue: TrialQueue, trial: Trial) -> None:
    """Note that a device had trouble while ``trial`` and others were held."""
    queue.set_attributes(trial, {SHARED: True})


def has_been_in_trouble(trial: Trial) -> bool:
    """Whether a device had trouble with ``trial``: then it is trained with nothing beside it."""
    return not {CROWDED, DEVICE_ERROR, SHARED}.isdisjoint(trial.user_attrs)


class DeviceTrouble:
    """Decides how a trial ends, or moves, after trouble with its device. memory: of the attempt"""

    def __init__(self, context: WorkerContext, trial: Trial, memory: TrialMemory) -> None:
        self.context = context
        self.trial = trial
        self.memory = memory

    def end_out_of_memory(self, error: Exception) -> Ending:
        """Return the end as infeasible, if the trial would not fit alone in a new process either.

        Otherwise raises `DeviceCrowded` or `OutOfMemoryAfterOthers`. So the outcome depends on the
        trial alone, and not on trials before it or beside it.
        """
        if len(self.context.held) > 1:  # alone it may fit
            lift_limit(self.context.device)  # the process has only to give back what it holds
            note_shared_trouble(self.context.queue, self.trial)
            raise OutOfMemoryAfterOthers(describe_error(error)) from error
        taken = self.memory.taken_by_trial()
        budget = memory_budget(self.context.device)
        lift_limit(self.context.device)  # the process has only to say so
        is_first = self.context.begun == 1  # a new process would do no better
        if self.memory.left_behind and not is_first and taken + requested_bytes(error) <= budget:
            raise OutOfMemoryAfterOthers(describe_error(error)) from error
        others = held_by_others(self.context.device)
        if others and taken + requested_bytes(error) + OWN_CONTEXT <= budget:
            self._give_way(error, others)
            budget -= others
        return Ending.infeasible(error, taken=taken, budget=budget)

    def _give_way(self, error: Exception, others: int) -> None:
        """Raise `DeviceCrowded`, unless the trial has found too little memory several times."""
        attempts = self.trial.user_attrs.get(CROWDED)
        attempts = attempts + 1 if isinstance(attempts, int) else 1
        if attempts > MOST_CROWDED:
            return
        self.context.queue.set_attributes(self.trial, {CROWDED: attempts})
        self.context.tell(
            f"trial {self.trial.number} waits for memory: other processes hold "
            f"{others / 2**30:.1f} GiB of {self.context.device}"
        )
        raise DeviceCrowded(describe_error(error)) from error

    def is_at_fault(self, epoch: int) -> bool:
        """Whether the trial itself causes a GPU's error: it came no further in a new process.

        Before that is tried, the GPU may have failed without its fault.
        """
        before = self.trial.user_attrs.get(DEVICE_ERROR)
        if isinstance(before, int) and epoch <= before:
            return True
        self.context.queue.set_attributes(self.trial, {DEVICE_ERROR: epoch})
        return False
