"""How the trials of a study have ended, in one line.

    describe_ends([EndedTrial(outcome="diverged", epoch=1, parameters={"lr": 0.5}), ...])

gives ``3 complete, 4 diverged (epoch 1, lr 0.5 to 3)``: what a person changes next is the rate of
those that diverged. Optuna counts them among the pruned.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from search.words import format_value, show_text
from storage.database.trial_states import OUTCOMES

ALWAYS = ("complete", "pruned", "failed")  # also where no trial ended so
RATE = re.compile(r"(^|_)(lr|rate)(_|$)")  # names of learning rates
MOST_RATES = 3


@dataclass(frozen=True, kw_only=True)
class EndedTrial:
    """A trial that has ended, or that waits or runs.

    outcome: a word of `search.trials.outcomes.Outcome`, or of its state
    epoch: in which it diverged; None where that is not known
    """

    outcome: str
    epoch: int | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)


def describe_ends(trials: Iterable[EndedTrial], *, always: Collection[str] = ()) -> str:
    """Return how many trials ended in which way, and what those that diverged have in common.

    always: words that are counted where there is no such trial, too
    """
    found = list(trials)
    counts = Counter(trial.outcome for trial in found)
    diverged = [trial for trial in found if trial.outcome == "diverged"]
    parts = []
    for word in [*OUTCOMES, *(word for word in counts if word not in OUTCOMES)]:
        if counts[word] or word in always:
            about = f" ({describe_divergence(diverged)})" if word == "diverged" else ""
            parts.append(f"{counts[word]:,} {show_text(word)}{about}")
    return ", ".join(parts)


def describe_divergence(diverged: Sequence[EndedTrial]) -> str:
    """Return ``epoch 1 to 3, lr 0.5 to 3``: when trials diverged, and at which learning rates."""
    epochs = [trial.epoch for trial in diverged if trial.epoch is not None]
    names = dict.fromkeys(name for trial in diverged for name in trial.parameters)
    parts = [f"epoch {_describe_range(epochs)}"] if epochs else []
    for name in [name for name in names if RATE.search(name)][:MOST_RATES]:
        rates = [trial.parameters[name] for trial in diverged if name in trial.parameters]
        if all(isinstance(rate, int | float) for rate in rates):
            parts.append(f"{show_text(name)} {_describe_range(rates)}")
    return ", ".join(parts) or "a value was not finite"


def _describe_range(values: Sequence[float]) -> str:
    low, high = format_value(min(values)), format_value(max(values))
    return low if low == high else f"{low} to {high}"
