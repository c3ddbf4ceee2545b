"""How a trial can end: its outcome, what Optuna is told, and what is kept of the reason.

    complete     all epochs were trained                          COMPLETE, the best epoch's value
    pruned       the pruner gave it up                            PRUNED; ``bound`` it was held to
                 the study's own code raised TrialPruned          PRUNED; ``reason``
                 the training of a GAN is lost for good           PRUNED; ``reason``
    diverged     a metric became NaN or infinite                  PRUNED, constraint ``finite``
    infeasible   the memory did not suffice                       PRUNED, constraint ``memory``
    failed       an error in the model or the study               FAIL; ``traceback``
    interrupted  TRIAL_MINUTES were over                          FAIL

A constraint above zero tells the sampler that these parameters are no use, and by how much. A
failed trial would teach it nothing, and a pruned one would look half good.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Self

import torch
from optuna.exceptions import TrialPruned
from optuna.trial import TrialState

from models.errors import DivergedError
from models.evaluation.gan_diagnosis import Verdict
from search.words import format_count

LONGEST_ATTRIBUTE = 1900  # characters: Optuna's limit for MySQL, kept everywhere
MEBIBYTE = 2**20
UNITS = {"B": 1, "bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
REQUEST = re.compile(r"(?:[Tt]ri?e?d?|Unable) to allocate ([\d.]+) (bytes|B|KiB|MiB|GiB|TiB)")


class Outcome(StrEnum):
    """The ways in which a trial ends. Each value is the word that the trial database keeps."""

    COMPLETE = "complete"
    PRUNED = "pruned"
    DIVERGED = "diverged"
    INFEASIBLE = "infeasible"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, kw_only=True)
class Ending:
    """The end of one trial.

    state: what Optuna is told; values: of a complete trial, one for each goal
    attributes: user attributes of the trial, JSON values
    constraints: name -> by how much it is violated, if above zero
    """

    outcome: Outcome
    state: TrialState
    values: tuple[float, ...] | None = None
    attributes: dict[str, Any] = field(default_factory=dict)
    constraints: dict[str, float] = field(default_factory=dict)

    def with_attributes(self, attributes: dict[str, Any]) -> Self:
        """Return the same end with ``attributes`` beside its own."""
        return replace(self, attributes={**self.attributes, **attributes})

    def with_constraints(self, constraints: Mapping[str, float]) -> Self:
        """Return the same end with ``constraints`` beside its own."""
        return replace(self, constraints={**constraints, **self.constraints})

    @property
    def value(self) -> float | None:
        """The quality of a complete trial; None: the trial ended early."""
        return None if self.values is None else self.values[0]

    @property
    def reason(self) -> str:
        """Why the trial ended early; empty where nothing is to be said."""
        return str(self.attributes.get("reason", ""))

    @classmethod
    def complete(cls, values: float | Sequence[float], epochs: int) -> Self:
        """The end after all ``epochs``, with the best epoch's ``values``, one for each goal."""
        return cls(
            outcome=Outcome.COMPLETE,
            state=TrialState.COMPLETE,
            values=tuple(values) if isinstance(values, Sequence) else (values,),
            attributes={"epochs": epochs},
        )

    @classmethod
    def pruned(cls, epochs: int, bound: float | None) -> Self:
        """The end by the pruner after ``epochs``.

        bound: what the pruner held the best value to; None where it does not tell
        """
        attributes: dict[str, Any] = {"epochs": epochs}
        if bound is not None:
            attributes["bound"] = bound
        return cls(outcome=Outcome.PRUNED, state=TrialState.PRUNED, attributes=attributes)

    @classmethod
    def turned_down(cls, error: TrialPruned, epochs: int) -> Self:
        """The end by the user's own code, which raises Optuna's `TrialPruned` after ``epochs``."""
        reason = f"TrialPruned: {error}" if str(error) else "the study's code raised TrialPruned"
        attributes = {"epochs": epochs, "reason": reason[:LONGEST_ATTRIBUTE]}
        return cls(outcome=Outcome.PRUNED, state=TrialState.PRUNED, attributes=attributes)

    @classmethod
    def lost(cls, verdict: Verdict, epochs: int) -> Self:
        """The end of a GAN whose training cannot recover, whatever other trials do."""
        attributes = {"epochs": epochs, "reason": str(verdict)[:LONGEST_ATTRIBUTE]}
        return cls(outcome=Outcome.PRUNED, state=TrialState.PRUNED, attributes=attributes)

    @classmethod
    def diverged(cls, error: DivergedError, epochs: int) -> Self:
        """The end by a value that is not finite.

        The constraint is the share of the ``epochs`` that were never trained: earlier is worse.
        """
        return cls(
            outcome=Outcome.DIVERGED,
            state=TrialState.PRUNED,
            attributes={"reason": describe_error(error), "epochs": error.epoch - 1},
            constraints={"finite": max(1 - (error.epoch - 1) / epochs, 1 / epochs)},
        )

    @classmethod
    def infeasible(cls, error: Exception, *, taken: float, budget: float) -> Self:
        """The end by a lack of memory.

        taken: bytes before the allocation that failed; budget: bytes available in all
        """
        needed = taken + requested_bytes(error)
        memory = {
            "needed_memory_mib": round(needed / MEBIBYTE, 1),
            "memory_budget_mib": round(budget / MEBIBYTE, 1),
        }
        return cls(
            outcome=Outcome.INFEASIBLE,
            state=TrialState.PRUNED,
            attributes={"reason": describe_error(error), **memory},
            constraints={"memory": max((needed - budget) / MEBIBYTE, 1.0)},
        )

    @classmethod
    def failed(cls, error: Exception) -> Self:
        """The end by an error in the model or the study."""
        trace = "".join(traceback.format_exception(error))
        return cls(
            outcome=Outcome.FAILED,
            state=TrialState.FAIL,
            attributes={"reason": describe_error(error), "traceback": trace[-LONGEST_ATTRIBUTE:]},
        )

    @classmethod
    def interrupted(cls, minutes: float, epochs: int) -> Self:
        """The end by TRIAL_MINUTES after ``epochs``."""
        reason = f"TRIAL_MINUTES={minutes:g} were over after {format_count(epochs, 'epoch')}"
        return cls(
            outcome=Outcome.INTERRUPTED,
            state=TrialState.FAIL,
            attributes={"reason": reason, "epochs": epochs},
        )


def describe_error(error: Exception) -> str:
    """Return ``ValueError: its message``, as long as the database keeps it."""
    return f"{type(error).__name__}: {error}"[:LONGEST_ATTRIBUTE]


def requested_bytes(error: Exception) -> float:
    """Return the size of the allocation that failed; 0 where the message does not say."""
    found = REQUEST.search(str(error))
    return float(found[1]) * UNITS[found[2]] if found else 0.0


OF_CUDA = ("ALLOC_FAILED", "ALLOCATION_FAILED")  # ends of statuses of CUDA's libraries


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out. PyTorch has a class for its GPU allocator only; elsewhere it raises
    a plain RuntimeError."""
    words = ("can't allocate memory", "out of memory", "bad_alloc", *OF_CUDA)
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    )
