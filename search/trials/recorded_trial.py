"""A trial that has ended, as the trial database keeps it: what it was trained with, and its curve.

    recorded = read_recorded(opened, 7, metric="mse")    # raises `NotRecorded` without a curve
    compared = recorded.compare({1: 0.31, 2: 0.27})
    compared.is_equal, compared.line           # bit for bit; one line with epoch and difference

`make replay` trains such a trial again (`search.worker.replaying`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from search.errors import SearchError
from search.trials.trial_attributes import sound_attributes
from search.words import format_count
from storage.errors import short

FUSED_EPOCHS = "fused_epochs"  # attribute: epochs trained as one program with other trials
FAILED = ("failed", "infeasible")  # outcomes that follow from an error


class NotRecorded(SearchError):
    """A trial has no curve that another training could be compared with."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What another training of a trial gave, beside what is stored.

    is_equal: whether every epoch's value, and how the trial ends, are the same bit for bit
    line: for a person; where it differs, since which epoch and by how much
    """

    is_equal: bool
    line: str


@dataclass(frozen=True, kw_only=True)
class RecordedTrial:
    """A trial that has ended, or pauses, with all that it was trained with.

    curve: reported value by epoch, from 1; value: of a complete trial; minimize: whether less is
        better
    outcome: in a word; diverged: epoch that gave a value that is not finite; None: none did
    attributes: of the trial, those that can be read as ours
    """

    study: str
    number: int
    metric: str
    minimize: bool
    parameters: Mapping[str, Any]
    curve: Mapping[int, float]
    value: float | None
    outcome: str
    diverged: int | None
    attributes: Mapping[str, Any]

    @property
    def epochs(self) -> int:
        """How many epochs another training has to reach."""
        return max(*self.curve, self.diverged or 0) if self.curve else self.diverged or 0

    @property
    def title(self) -> str:
        return f"trial {self.number} of study {self.study}"

    def compare(self, again: Mapping[int, float], diverged: int | None = None) -> Comparison:
        """Return how another training differs.

        again: its value by epoch; diverged: its epoch with a value that is not finite
        """
        steps = [epoch for epoch in sorted(self.curve) if again.get(epoch) != self.curve[epoch]]
        if steps or diverged != self.diverged:
            return Comparison(is_equal=False, line=self._describe_difference(again, diverged))
        single = len(self.curve) == 1
        words = f"{'its' if single else 'all'} {format_count(len(self.curve), 'epoch')}"
        words = words if self.curve else ""
        if self.outcome == "complete" and self.value is not None:
            best = (min if self.minimize else max)(again.values())
            if best != self.value:
                line = (
                    f"the epochs come out again, but the best of them is {self.metric} {best!r}, "
                    f"and the trial's stored value {self.value!r}"
                )
                return Comparison(is_equal=False, line=line)
            words += f" and its value {self.value:.6g}"
        elif self.diverged:
            words += f"{' and ' if words else ''}no finite value in epoch {self.diverged}"
        else:
            words += f", after which it was {self.outcome},"
        come = "comes" if single and " and " not in words else "come"
        return Comparison(is_equal=True, line=f"equal: {words} {come} out again, bit for bit")

    def _describe_difference(self, again: Mapping[int, float], diverged: int | None) -> str:
        """Return since which epoch another training differs, and by how much."""
        both = [epoch for epoch in sorted(self.curve) if epoch in again]
        apart = {epoch: abs(again[epoch] - self.curve[epoch]) for epoch in both}
        first = next((epoch for epoch in both if again[epoch] != self.curve[epoch]), None)
        parts = []
        if first is not None:
            most = max(apart, key=lambda epoch: apart[epoch])
            share = apart[first] / max(abs(self.curve[first]), 1e-300)
            parts.append(
                f"since epoch {first}: {self.metric} {again[first]!r}, stored "
                f"{self.curve[first]!r} ({share:.1e} of it)"
            )
            if most != first:
                parts.append(f"most in epoch {most}, by {apart[most]:.3g}")
        if diverged != self.diverged:
            here = f"not finite in epoch {diverged}" if diverged else "finite in every epoch"
            there = f"not finite in epoch {self.diverged}" if self.diverged else "finite"
            parts.append(f"it is {here}, and the stored one {there}")
        if self.value is not None and again and diverged is None and self.outcome == "complete":
            best = (min if self.minimize else max)(again.values())
            parts.append(f"its value is {best:.8g}, stored {self.value:.8g}")
        return "differs " + "; ".join(parts)


def read_recorded(study: optuna.Study, number: int, *, metric: str) -> RecordedTrial:
    """Return trial ``number`` of a stored study; raises `NotRecorded` where there is no curve.

    metric: the study's
    """
    trials = {trial.number: trial for trial in study.get_trials(deepcopy=False)}
    if number not in trials:
        there = f"trials 0 to {max(trials)}" if trials else "none yet"
        raise NotRecorded(
            f"study {short(repr(study.study_name))} has no trial {number}; it has {there}"
        )
    trial = trials[number]
    attributes = sound_attributes(trial.user_attrs)
    outcome = str(attributes.get("outcome", trial.state.name.lower()))
    reason = short(str(attributes.get("reason", ""))) or "without a reason that was kept"
    title = f"trial {number} of study {study.study_name}"
    if outcome in FAILED or (trial.state == TrialState.FAIL and outcome != "interrupted"):
        raise NotRecorded(f"{title} is {outcome}: {reason}; take a trial that was trained")
    if not trial.state.is_finished() and not trial.intermediate_values:
        raise NotRecorded(f"{title} has not been trained yet; take one that was")
    if trial.state == TrialState.RUNNING:
        raise NotRecorded(f"{title} still runs; train it again when it has ended")
    curve = {step + 1: value for step, value in sorted(trial.intermediate_values.items())}
    diverged = None
    if outcome == "diverged":
        diverged = int(attributes.get("epochs", len(curve))) + 1
    if not curve and diverged is None:
        raise NotRecorded(f"{title} was {outcome} before its first epoch: {reason}")
    return RecordedTrial(
        study=study.study_name,
        number=number,
        metric=metric,
        minimize=study.directions[0] == optuna.study.StudyDirection.MINIMIZE,
        parameters=trial.params,
        curve=curve,
        value=_value_of(trial),
        outcome=outcome if trial.state.is_finished() else "paused",
        diverged=diverged,
        attributes=attributes,
    )


def _value_of(trial: FrozenTrial) -> float | None:
    return trial.values[0] if trial.state == TrialState.COMPLETE and trial.values else None
