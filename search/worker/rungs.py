"""The rungs of one trial: epochs after which it may pause until it is promoted.

    rungs = TrialRungs(context, trial)
    rungs.reach(epoch, reported)       # False: it pauses after this epoch
    rungs.reach_until(epoch, reported) # the same for all rungs up to an epoch

The trial database decides which trials go on (`search.trials.paused`). If the pruner does not let
trials pause, there are no rungs.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from optuna.trial import Trial

from search.worker.context import WorkerContext


class PausedAtRung(Exception):
    """The trial waits until it is among the best of its rung."""


class TrialRungs:
    """The rungs of one trial."""

    def __init__(self, context: WorkerContext, trial: Trial) -> None:
        self.queue = context.queue
        self.trial = trial
        self.most = context.run.epochs
        self.best = min if context.spec.minimizes else max

    @cached_property
    def epochs(self) -> tuple[int, ...]:
        """The epochs after which the trial may pause, as the database knows it."""
        return self.queue.rung_epochs(self.most, self.trial)

    def reach(self, epoch: int, reported: Mapping[int, float]) -> bool:
        """Return whether the trial goes on after ``epoch``. reported: values by step, from 0"""
        if epoch not in self.epochs:
            return True
        best = self.best(value for step, value in reported.items() if step < epoch)
        return self.queue.reach_rung(self.trial, rung=epoch, value=best)

    def reach_until(self, epoch: int, reported: Mapping[int, float]) -> bool:
        """Return whether a trial that was resumed after ``epoch`` goes on.

        A kill may have come between a checkpoint and its rung.
        """
        return all(self.reach(each, reported) for each in self.epochs if each <= epoch)
