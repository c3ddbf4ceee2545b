"""The front of a stored study with several goals: the trials that no other one beats.

    front = front_of(study.get_trials(deepcopy=False), goals)
    [trial.number for trial in front]          # who adds most to the hypervolume comes first

Only complete trials that violate no constraint can be on it. It loads no torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from search.front import as_costs, choose_spread, front_places, volumes_of_first
from search.goals import Goal

MOST_CHOSEN = 50  # whose order is by hypervolume; the others of a long front follow by number


def values_of(trial: FrozenTrial, goals: Sequence[Goal]) -> tuple[float, ...] | None:
    """Return the values of a complete trial, one for each goal; None: it has none."""
    values = trial.values
    if trial.state is not TrialState.COMPLETE or values is None or len(values) != len(goals):
        return None
    return tuple(values) if all(map(math.isfinite, values)) else None


def is_feasible(trial: FrozenTrial) -> bool:
    """Whether a trial violates no constraint."""
    values = trial.constraints.values()  # anybody may have written them
    return not any(isinstance(value, int | float) and value > 0 for value in values)


def front_of(trials: Iterable[FrozenTrial], goals: Sequence[Goal]) -> list[FrozenTrial]:
    """Return the front, in the order in which its trials add most to the hypervolume."""
    found = sorted(trials, key=lambda trial: trial.number)
    rows = [
        (trial, values)
        for trial in found
        if is_feasible(trial) and (values := values_of(trial, goals)) is not None
    ]
    costs = tuple(tuple(each) for each in as_costs([values for _, values in rows], goals).tolist())
    return [rows[place][0] for place in _order(costs)]


@lru_cache(maxsize=4)
def _order(costs: tuple[tuple[float, ...], ...]) -> tuple[int, ...]:
    """Return the places of the front in their order: it is asked for again and again."""
    if not costs:
        return ()
    found = np.array(costs)
    chosen = choose_spread(found, MOST_CHOSEN)
    return (*chosen, *(place for place in front_places(found) if place not in chosen))


def shares_of_volume(front: Sequence[FrozenTrial], goals: Sequence[Goal]) -> list[float]:
    """Return which share of the front's hypervolume its first trial dominates, its first two
    together, and so on, each 0 to 1."""
    volumes = volumes_of_first(as_costs([trial.values for trial in front], goals))
    return [volume / volumes[-1] for volume in volumes]
