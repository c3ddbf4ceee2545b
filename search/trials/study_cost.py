"""What a study has cost, and what it saved by trials that did not train to their end.

    cost = measure_cost(study.get_trials(deepcopy=False), epochs=20)
    cost.seconds, cost.saved_epochs, cost.share
    describe_cost(cost)         # "machine time: 3 h 05 min in 50 trials; stopping 31 trials ..."

A trial that was pruned, or paused and never promoted, has saved the epochs that it did not train,
each at its own pace. One that failed, diverged or found no memory has saved nothing: it would not
have come to an end.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from optuna.trial import FrozenTrial

from search.trials.trial_attributes import is_sound
from search.words import format_count, format_duration

STOPPED = "pruned"  # also by a rung


@dataclass(frozen=True, kw_only=True)
class StudyCost:
    """The cost of all trials that have ended.

    trials, epochs: how many, and what they trained together; seconds: of all machines together
    stopped: how many trials stopped early
    saved_epochs, saved_seconds: what these would have taken beyond that, to their end
    """

    trials: int = 0
    epochs: int = 0
    seconds: float = 0.0
    stopped: int = 0
    saved_epochs: int = 0
    saved_seconds: float = 0.0

    @property
    def all_epochs(self) -> int:
        """What all trials to the end would have taken."""
        return self.epochs + self.saved_epochs

    @property
    def share(self) -> float:
        """Which part of them was saved, from 0 to 1."""
        return self.saved_epochs / self.all_epochs if self.all_epochs else 0.0


def measure_cost(trials: Iterable[FrozenTrial], epochs: int) -> StudyCost:
    """Return what the trials that have ended cost. epochs: of a trial that trains to its end"""
    count = trained = stopped = saved = 0
    seconds = saved_seconds = 0.0
    for trial in trials:
        if not trial.state.is_finished():
            continue
        took, own = seconds_of(trial) or 0.0, len(trial.intermediate_values)
        count, trained, seconds = count + 1, trained + own, seconds + took
        left = epochs - own
        if (
            trial.user_attrs.get("outcome", trial.state.name.lower()) == STOPPED
            and own
            and left > 0
        ):
            stopped, saved = stopped + 1, saved + left
            saved_seconds += left * took / own
    return StudyCost(
        trials=count,
        epochs=trained,
        seconds=seconds,
        stopped=stopped,
        saved_epochs=saved,
        saved_seconds=saved_seconds,
    )


def seconds_of(trial: FrozenTrial) -> float | None:
    """Return how long a trial took, without the time between two attempts where that is known."""
    seconds = trial.user_attrs.get("seconds")
    if seconds is not None and is_sound("seconds", seconds):
        return float(seconds)
    return None if trial.duration is None else trial.duration.total_seconds()


def describe_savings(cost: StudyCost) -> str:
    """Return what stopping early saved; empty where no trial did."""
    if not cost.stopped:
        return ""
    which = format_count(cost.stopped, "trial")
    return (
        f"stopping {which} early saved {cost.saved_epochs:,} of {cost.all_epochs:,} trial-epochs "
        f"({100 * cost.share:.0f} %), about {format_duration(cost.saved_seconds)}"
    )


def describe_cost(cost: StudyCost, retrained: float = 0.0) -> str:
    """Return the cost of a study in a line. retrained: seconds that its best were trained again"""
    words = f"machine time: {format_duration(cost.seconds)} in {format_count(cost.trials, 'trial')}"
    if retrained:
        words += f", {format_duration(retrained)} to train the best again"
    savings = describe_savings(cost)
    return f"{words}; {savings}" if savings else words
