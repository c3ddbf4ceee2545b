"""Pause and promote: trials pause at rungs, and the best of each rung go on (ASHA).

    PRUNER=asha                                       # rungs after 1, 3, 9, 27, ... epochs
    PRUNER='asha(min_resource=2, reduction_factor=4)'  # after 2, 8, 32, ...
    PRUNER='asha(brackets=3)'                         # Hyperband: some trials pause later

Optuna's successive halving ends a trial that is not among the best at its rung, for good, though
better ones may be few in the end. Here it pauses: its checkpoint stays, and it goes on from there
as soon as enough others have come as far that it is among their best (Li et al. 2020). Trials that
are never promoted end as pruned when nothing else is left to do; where no trial is complete by
then, the best goes on first, so that a study has a winner.

What is good in the end may be bad after one epoch. Brackets hedge against it, as Hyperband does: in
bracket 0 a trial pauses at every rung, in bracket 1 not at the first one, in bracket 2 not at the
first two. Trials compare within their bracket. Each number has its bracket for good, and the
brackets have the shares of Optuna's `HyperbandPruner`: 9, 5 and 3 of 17 trials with three of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import ceil

from optuna import Study
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial

MOST_BRACKETS = 10
MOST_TURNS = 100_000


@dataclass(frozen=True)
class AshaPruner(BasePruner):
    """Says where trials pause, and how many go on. For Optuna it is a pruner that ends no trial.

    min_resource: epochs until the first rung, >= 1
    reduction_factor: each rung has so many times the epochs of the one before, and one trial in so
        many goes on from it, >= 2
    brackets: how many there are, 1 to 10; trials of bracket b do not pause at the first b rungs
    """

    min_resource: int = 1
    reduction_factor: int = 3
    brackets: int = 1

    def __post_init__(self) -> None:
        for name, least in (("min_resource", 1), ("reduction_factor", 2), ("brackets", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name}={value!r} is not a whole number of at least {least}")
        if self.brackets > MOST_BRACKETS:
            raise ValueError(f"brackets={self.brackets} is more than {MOST_BRACKETS}")
        if self.reduction_factor**self.brackets > MOST_TURNS:
            raise ValueError(
                f"brackets={self.brackets} with reduction_factor={self.reduction_factor} has its "
                f"last rung beyond {MOST_TURNS} epochs: take fewer brackets"
            )

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Return False: a trial that is not among the best pauses."""
        return False

    def rung_epochs(self, epochs: int, number: int) -> tuple[int, ...]:
        """Return the epochs after which trial ``number`` of ``epochs`` may pause, in order."""
        found = []
        epoch = self.min_resource * self.reduction_factor ** self.bracket_of(number)
        while epoch < epochs:
            found.append(epoch)
            epoch *= self.reduction_factor
        return tuple(found)

    def bracket_of(self, number: int) -> int:
        """Return the bracket of a trial, from 0."""
        return self._turns[number % len(self._turns)]

    def count_alike(self, numbers: range) -> list[tuple[int, int]]:
        """Return the first of the trials ``numbers``, until their brackets repeat, each with how
        many of all it stands for: there may be a billion."""
        turns = len(self._turns)
        return [(number, 1 + (numbers[-1] - number) // turns) for number in numbers[:turns]]

    @cached_property
    def _turns(self) -> list[int]:
        """The brackets of successive trials, until they repeat: each comes as evenly as it can."""
        last = self.brackets - 1
        shares = [
            ceil(self.brackets * self.reduction_factor**early / (early + 1))
            for early in range(last, -1, -1)
        ]
        due, turns = [0] * self.brackets, list[int]()
        for _ in range(sum(shares)):
            due = [waits + share for waits, share in zip(due, shares, strict=True)]
            turns.append(due.index(max(due)))
            due[turns[-1]] -= sum(shares)
        return turns
