"""Pause and promote: trials pause at rungs, and the best of each rung go on (ASHA).

    PRUNER=asha                                       # rungs after 1, 3, 9, 27, ... epochs
    PRUNER='asha(min_resource=2, reduction_factor=4)'  # after 2, 8, 32, ...

Optuna's successive halving ends a trial that is not among the best at its rung, for good, though
better ones may be few in the end. Here it pauses: its checkpoint stays, and it goes on from there
as soon as enough others have come as far that it is among their best (Li et al. 2020). Trials that
are never promoted end as pruned when nothing else is left to do; where no trial is complete by
then, the best goes on first, so that a study has a winner.
"""

from __future__ import annotations

from dataclasses import dataclass

from optuna import Study
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial


@dataclass(frozen=True)
class AshaPruner(BasePruner):
    """Where trials pause, and how many go on. To Optuna it is a pruner that ends no trial.

    min_resource: epochs until the first rung, >= 1
    reduction_factor: a rung has so many times the epochs of the one before, and one trial in so
        many goes on from it, >= 2
    """

    min_resource: int = 1
    reduction_factor: int = 3

    def __post_init__(self) -> None:
        for name, least in (("min_resource", 1), ("reduction_factor", 2)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name}={value!r} is not a whole number of at least {least}")

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Return False: a trial that is not among the best pauses."""
        return False

    def rung_epochs(self, epochs: int) -> dict[int, int]:
        """Return the rung, from 1, of each epoch after which trials of ``epochs`` may pause."""
        found: dict[int, int] = {}
        epoch = self.min_resource
        while epoch < epochs:
            found[epoch] = len(found) + 1
            epoch *= self.reduction_factor
        return found
