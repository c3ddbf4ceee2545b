"""How a trial can end: its outcome, what Optuna is told, and what is kept of the reason.

    complete     all epochs were trained                          COMPLETE, the best epoch's value
    pruned       the pruner saw no hope                           PRUNED; ``bound`` it was held to
                 a game was lost for good (`models.evaluation.gan_diagnosis`)     PRUNED; ``reason``
    diverged     a metric became NaN or infinite                  PRUNED, constraint ``finite``
    infeasible   the memory did not suffice                       PRUNED, constraint ``memory``
    failed       an error in the model or the study               FAIL; ``traceback``
    interrupted  TRIAL_MINUTES were over                          FAIL

A constraint above zero tells the sampler that such parameters are no use, and by how much:
one that failed would teach it nothing, one that was merely pruned would look half good.
"""

from __future__ import annotations

import re
import traceback
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from optuna.trial import TrialState

from models.errors import DivergedError
from models.evaluation.gan_diagnosis import Verdict

LONGEST_ATTRIBUTE = 1900  # characters: Optuna's limit for MySQL, kept everywhere
MEBIBYTE = 2**20
UNITS = {"B": 1, "bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
ASKED = re.compile(r"(?:[Tt]ri?e?d?|Unable) to allocate ([\d.]+) (bytes|B|KiB|MiB|GiB|TiB)")


@dataclass(frozen=True, kw_only=True)
class Ending:
    """constraints: name -> by how much it is violated, above zero."""

    outcome: str
    state: TrialState
    value: float | None = None
    attributes: dict[str, Any] = field(default_factory=dict)
    constraints: dict[str, float] = field(default_factory=dict)

    def with_more(self, attributes: dict[str, Any]) -> Ending:
        """The same, with ``attributes`` beside its own."""
        return replace(self, attributes={**self.attributes, **attributes})


def complete(value: float | None, epochs: int) -> Ending:
    return Ending(
        outcome="complete", state=TrialState.COMPLETE, value=value, attributes={"epochs": epochs}
    )


def pruned(epochs: int, bound: float | None) -> Ending:
    """bound: what the pruner held the best value so far to, where it tells."""
    attributes: dict[str, Any] = {"epochs": epochs}
    if bound is not None:
        attributes["bound"] = bound
    return Ending(outcome="pruned", state=TrialState.PRUNED, attributes=attributes)


def lost(verdict: Verdict, epochs: int) -> Ending:
    """Pruned on its own record."""
    attributes = {"epochs": epochs, "reason": str(verdict)[:LONGEST_ATTRIBUTE]}
    return Ending(outcome="pruned", state=TrialState.PRUNED, attributes=attributes)


def diverged(error: DivergedError, epochs: int) -> Ending:
    """The earlier, the worse: the constraint is the share of the epochs that were never trained."""
    return Ending(
        outcome="diverged",
        state=TrialState.PRUNED,
        attributes={"reason": describe_error(error), "epochs": error.epoch - 1},
        constraints={"finite": max(1 - (error.epoch - 1) / epochs, 1 / epochs)},
    )


def infeasible(error: Exception, *, taken: float, budget: float) -> Ending:
    """taken, budget: bytes, taken before the one allocation too many, and available in all."""
    needed = taken + requested_bytes(error)
    over = max((needed - budget) / MEBIBYTE, 1.0)
    told = {"needed_memory_mib": round(needed / MEBIBYTE, 1)}
    told["memory_budget_mib"] = round(budget / MEBIBYTE, 1)
    return Ending(
        outcome="infeasible",
        state=TrialState.PRUNED,
        attributes={"reason": describe_error(error), **told},
        constraints={"memory": over},
    )


def failed(error: Exception) -> Ending:
    trace = "".join(traceback.format_exception(error))
    return Ending(
        outcome="failed",
        state=TrialState.FAIL,
        attributes={"reason": describe_error(error), "traceback": trace[-LONGEST_ATTRIBUTE:]},
    )


def interrupted(minutes: float, epochs: int) -> Ending:
    reason = f"TRIAL_MINUTES={minutes:g} were over after {epochs} epochs"
    return Ending(
        outcome="interrupted",
        state=TrialState.FAIL,
        attributes={"reason": reason, "epochs": epochs},
    )


def describe_error(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:LONGEST_ATTRIBUTE]


def requested_bytes(error: Exception) -> float:
    """Bytes of the allocation that did not fit, as far as the message says; else 0."""
    found = ASKED.search(str(error))
    return float(found[1]) * UNITS[found[2]] if found else 0.0


def is_out_of_memory(error: Exception) -> bool:
    """PyTorch has a class for its GPU allocator only; others raise a plain RuntimeError."""
    said = ("can't allocate memory", "out of memory", "ALLOC_FAILED", "bad_alloc")
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in said)
    )
