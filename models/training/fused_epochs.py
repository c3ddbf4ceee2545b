"""Epochs of several trainings, done at once.

    together = FusedEpochs()
    for task, trained in zip(tasks, together.train(tasks)):      # a `TrainedEpoch`, or None
        ...

All models have the same `models.training.fused_steps.fusing_key`, and train on the same images.
A training that is interrupted while the others finish the epoch gets None instead of the epoch.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Hashable, Sequence

from models.errors import StopRequested
from models.training.epoch_task import EpochTask, TrainedEpoch
from models.training.fused_steps import FusedSteps, fusing_key

KEPT = 4  # programs: each holds memory for all of its models


class FusedEpochs:
    """Trains epochs together, and keeps the latest programs for the epochs that follow."""

    def __init__(self) -> None:
        self._programs: OrderedDict[Hashable, FusedSteps] = OrderedDict()

    def train(self, tasks: Sequence[EpochTask]) -> list[TrainedEpoch | None]:
        """Train the epochs of ``tasks``; their seconds are shared out evenly.

        An error leaves all models as they were when the epoch began.
        """
        began = time.perf_counter()
        dropped: set[int] = set()

        def is_wanted_no_more() -> bool:
            """Ask every task whose epoch is still wanted."""
            left = (k for k in range(len(tasks)) if k not in dropped)
            dropped.update([k for k in left if tasks[k].interrupted()])
            return len(dropped) == len(tasks)

        program = self._program_of(tasks)
        orders = [task.begin() for task in tasks]
        try:
            measured = program.train(
                [task.model for task in tasks], orders, interrupted=is_wanted_no_more
            )
        except StopRequested:
            return [None] * len(tasks)
        count = len(tasks)
        share = (time.perf_counter() - began) / count
        return [
            None if k in dropped else TrainedEpoch(metrics=metrics, seconds=share, shared_by=count)
            for k, metrics in enumerate(measured)
        ]

    def forget(self) -> None:
        """Give back the memory of all programs."""
        self._programs.clear()

    def _program_of(self, tasks: Sequence[EpochTask]) -> FusedSteps:
        """Return the program of such models: a kept one, or a new one."""
        first = tasks[0]
        key = fusing_key(first.model), id(first.images), len(tasks)
        program = self._programs.pop(key, None)
        if program is None or program.images is not first.images:  # an id may come again
            program = FusedSteps(first.model, first.images, count=len(tasks))
        self._programs[key] = program
        while len(self._programs) > KEPT:
            self._programs.popitem(last=False)
        return program
