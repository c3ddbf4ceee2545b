"""The Pareto front: the trials that no other one beats in every goal.

    costs = as_costs([(0.02, 27), (0.03, 14)], goals)
    front_places(costs)                       # those on the front
    choose_spread(costs, 3)                   # three of them that stand for the whole front
    is_beyond(own, others, keep=0.5)          # whether half of the others are clearly better

A vector has a number for each goal. As *costs* they are turned so that less is better.

Of a front, a few points stand for the whole if the volume that they dominate together, the
hypervolume, is large. It is measured where the front spans 0 to 1 in each goal, up to the reference
point (1.1, 1.1, ...). Points are taken one by one, each time the one that adds most, so that the
first three of five are the three. Optuna's code computes ranks and volumes.

Shape legend: M vectors, G goals.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from optuna._hypervolume import compute_hypervolume
from optuna.study._multi_objective import _fast_non_domination_rank

from search.goals import Goal

Costs = npt.NDArray[np.float64]  # (M, G), less is better
REFERENCE = 1.1  # in each goal, where the front spans 0 to 1


@dataclass(frozen=True, kw_only=True)
class Vector:
    """A trial after some epoch.

    costs: a number for each goal, less is better
    violation: by how much constraints are violated, in all; 0: none is
    """

    costs: tuple[float, ...]
    violation: float = 0.0


def as_costs(vectors: Sequence[Sequence[float]], goals: Sequence[Goal]) -> Costs:
    """Return vectors (M, G) so that less is better in each goal."""
    signs = [1.0 if goal.minimize else -1.0 for goal in goals]
    return np.array(vectors, dtype=np.float64).reshape(-1, len(goals)) * signs


def ranks_of(costs: Costs) -> npt.NDArray[np.int64]:
    """Return the rank of each vector by domination, (M,): 0 on the front, 1 on the front of the
    others, and so on."""
    if not len(costs):
        return np.empty(0, dtype=np.int64)
    return np.asarray(_fast_non_domination_rank(costs), dtype=np.int64)


def front_places(costs: Costs) -> list[int]:
    """Return the places of those vectors that no other one dominates, in their order."""
    return [int(place) for place in np.flatnonzero(ranks_of(costs) == 0)]


def is_beyond(own: Vector, others: Sequence[Vector], *, keep: float) -> bool:
    """Whether at least a share ``keep`` of all vectors, ``own`` among them, rank before ``own``.

    Who violates no constraint ranks before all that do; of those, the smaller violation does.
    """
    if own.violation > 0:
        before = sum(other.violation < own.violation for other in others)
        return before >= keep * (len(others) + 1)
    sound = [other.costs for other in others if other.violation <= 0]
    ranks = ranks_of(np.array([*sound, own.costs], dtype=np.float64))
    return int((ranks < ranks[-1]).sum()) >= keep * (len(others) + 1)


def scale_to_front(costs: Costs, front: Costs) -> Costs:
    """Return costs scaled so that ``front`` spans 0 to 1 in each goal; a goal in which all of the
    front are equal stays 0 there."""
    low, high = front.min(axis=0), front.max(axis=0)
    span = np.where(high > low, high - low, 1.0)
    scaled: Costs = (costs - low) / span
    return scaled


def hypervolume(costs: Costs, front: Costs) -> float:
    """Return the volume that ``costs`` dominate, on the scale of ``front``."""
    scaled = scale_to_front(costs, front)
    inside = scaled[(scaled < REFERENCE).all(axis=1)]
    if not len(inside):
        return 0.0
    return float(compute_hypervolume(inside, np.full(costs.shape[1], REFERENCE)))


def added_volume(own: Costs, others: Costs) -> float:
    """Return the volume that ``own`` dominates and none of ``others`` does, up to the reference.

    own: (G,), others: (M, G), scaled to the front, and before the reference in each goal

    What an other one has in common with it is the box of the larger of both in each goal. These
    boxes overlap, and few of them are not within another (While, Bradstreet and Barone 2012): so
    this is much less work than the volume of all together.
    """
    if (others == own).all(axis=1).any():
        return 0.0
    reference = np.full(len(own), REFERENCE)
    common = compute_hypervolume(np.maximum(others, own), reference) if len(others) else 0.0
    return max(0.0, float(np.prod(reference - own)) - float(common))


def volumes_of_first(front: Costs) -> list[float]:
    """Return the volumes that the first vector of a front dominates, the first two together, and
    so on."""
    scaled = scale_to_front(front, front)
    added = [added_volume(own, scaled[:place]) for place, own in enumerate(scaled)]
    return [float(volume) for volume in np.cumsum(added)]


def choose_spread(costs: Costs, count: int) -> list[int]:
    """Return the places of at most ``count`` vectors of the front, the one that adds most first.

    Of vectors that are equal, the first one stands for all until every other one is taken.

    A vector never adds more later than it would now. So most of them need not be looked at again
    when one is taken.
    """
    places = front_places(costs)
    front = scale_to_front(costs[places], costs[places]) if places else costs
    most = [(-math.inf, place) for place in range(len(places))]  # less what it adds at most, place
    chosen: list[int] = []
    while len(chosen) < min(count, len(places)):
        _, place = heapq.heappop(most)
        adds = -added_volume(front[place], front[chosen]), place
        if most and adds > most[0]:
            heapq.heappush(most, adds)
            continue
        chosen.append(place)
    return [places[place] for place in chosen]


class RunningFront:
    """The front of the trials that have ended so far, as a display follows it."""

    def __init__(self, goals: Sequence[Goal]) -> None:
        self.goals = goals
        self.values: dict[int, tuple[float, ...]] = {}  # by trial

    def add(self, number: int, values: Sequence[float]) -> bool:
        """Add a trial that violates nothing; return whether it is on the front."""
        known = {**self.values, number: tuple(values)}
        numbers = [*known]
        places = front_places(as_costs([*known.values()], self.goals))
        self.values = {numbers[place]: known[numbers[place]] for place in places}
        return number in self.values

    def describe(self) -> str:
        """Return ``front of 5: mse 0.0156 to 0.142, code 10 to 33``."""
        columns = zip(*self.values.values(), strict=True)
        ranges = [
            f"{goal.name} {min(column):.6g} to {max(column):.6g}"
            for goal, column in zip(self.goals, columns, strict=True)
        ]
        return f"front of {len(self.values)}: {', '.join(ranges)}"
