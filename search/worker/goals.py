"""The goals of one trial beside its quality: costs, other metrics, and the study's constraints.

    goals = TrialGoals(context, trial)
    goals.measure_costs(model)                    # before its first epoch, once in its life
    goals.measured(result)                        # after each epoch
    goals.end_complete(reported, epochs)          # at its end, with a value for each goal

A trial's values are those of one epoch, the best by the quality. One set of weights has them all;
the best of each goal over all epochs would be a point that no model reaches.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from optuna.trial import Trial, TrialState

from models.base import Model
from models.costs import measure_costs
from models.training.loop import EpochResult
from search.goals import TrialResult
from search.trials.outcomes import Ending
from search.worker.context import WorkerContext
from storage.database.vectors import VIOLATION, cost_attribute
from storage.errors import short

UNTRAINED = "untrained"  # constraint of a trial that ended early: the share that it did not train


class TrialGoals:
    """The goals of one trial; nothing happens here in a study with one goal."""

    def __init__(self, context: WorkerContext, trial: Trial) -> None:
        self.spec = context.spec
        self.epochs = context.run.epochs
        self.queue = context.queue
        self.trial = trial
        self.costs: dict[str, float] = {}

    def measure_costs(self, model: Model) -> None:
        """Note what the model costs. A trial that goes on keeps its earlier measurement."""
        names = [goal.name for goal in self.spec.goals if goal.is_cost]
        known = self.trial.user_attrs
        self.costs = {
            name: float(known[cost_attribute(name)])
            for name in names
            if cost_attribute(name) in known
        }
        missing = [name for name in names if name not in self.costs]
        found = measure_costs(model, missing)
        if found:
            self.costs |= found
            attributes = {cost_attribute(name): value for name, value in found.items()}
            self.queue.set_attributes(self.trial, attributes)

    def measured(self, result: EpochResult) -> dict[str, float]:
        """Return what is kept of an epoch beside its metrics: by how much it violates constraints;
        nothing of a study without any."""
        if self.spec.constraints is None:
            return {}
        found = self._check(result.valid, result.number)
        return {VIOLATION: sum(max(0.0, each) for each in found)}

    def end_complete(self, reported: Mapping[int, float], epochs: int) -> Ending:
        """Return the end of a trial whose reports the database has, with a value for each goal.

        reported: the quality by Optuna's step, from 0
        """
        if not self.spec.has_several_goals:
            return Ending.complete(self._best_of(reported)[1], epochs)
        step, quality = self._best_of(reported)
        known = self.queue.read_measured(self.trial, step + 1) | {self.spec.quality: quality}
        everything = known | self.costs
        ending = Ending.complete([everything[goal.name] for goal in self.spec.goals], epochs)
        if self.spec.constraints is None:
            return ending
        found = self._check(known, step + 1)
        violation = sum(max(0.0, each) for each in found)
        about = {VIOLATION: violation} if violation else {}
        constraints = {f"{place}": each for place, each in enumerate(found)}
        return ending.with_attributes(about).with_constraints(constraints)

    def end_early(self, ending: Ending) -> Ending:
        """Return an early end from which samplers can learn: they know one value of a pruned trial
        at most.

        With several goals it counts as violating a constraint, the more the earlier it ended.
        """
        is_pruned = self.spec.has_several_goals and ending.state is TrialState.PRUNED
        if not is_pruned or ending.constraints:
            return ending
        done = ending.attributes.get("epochs", 0)
        share = max(1 - done / self.epochs, 1 / self.epochs)
        return ending.with_constraints({UNTRAINED: share})

    def _best_of(self, reported: Mapping[int, float]) -> tuple[int, float]:
        """Return the step with the best quality, the first of several, and that."""
        sign = 1 if self.spec.minimizes else -1
        step = min(reported, key=lambda step: (sign * reported[step], step))
        return step, reported[step]

    def _check(self, measured: Mapping[str, float], epoch: int) -> Sequence[float]:
        """Return what the study's constraints say; raises `ValueError` for no numbers."""
        assert self.spec.constraints is not None
        values = {**measured, **self.costs}
        asked = TrialResult(parameters=self.trial.params, values=values, epoch=epoch)
        found = self.spec.constraints(asked)
        is_good = isinstance(found, tuple | list) and all(
            isinstance(each, int | float) and math.isfinite(each) for each in found
        )
        if not is_good:
            raise ValueError(
                f"constraints returned {short(repr(found))}; return a list of finite numbers, of "
                "which each above zero says by how much something is violated"
            )
        return [float(each) for each in found]
