"""A setting is played over many random orders of the trials, because one order may be luck.

    played = play_orders(stored, Setting(pruner="asha", workers=4, trials=200, epochs=20), seed=0)
    for each in played:
        each.epochs, each.wall, each.best, each.rank, each.behind

With the same seed every setting gets the same orders, so that settings compare pair by pair.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from search.front import Costs, Vector, front_places, hypervolume
from search.simulation.front_simulation import FrontSimulation
from search.simulation.simulation import Plan, Simulation
from search.simulation.stored_curves import Curve, StoredCurves
from search.strategies.pruners import make_pruner

ORDERS = 20


@dataclass(frozen=True, kw_only=True)
class Setting:
    """pruner: as a user writes it; trials: of the full curves; epochs: most of a trial"""

    pruner: str
    workers: int
    trials: int
    epochs: int

    @property
    def title(self) -> str:
        words = "no pruner" if self.pruner == "none" else self.pruner
        return f"{words}, {self.workers} worker{'' if self.workers == 1 else 's'}"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The cost and the result of one order.

    epochs: of all trials; machine, wall: seconds, of all workers together and by the clock
    best: value of the winner; None: no trial was complete
    rank: of the winner among all full curves, at their full length; the best has 1
    behind: by which share of the best full curve's value the winner's is worse; below 0: better
    complete, pruned: how many trials ended so
    volume: with several goals, the share of the hypervolume of all full curves that the complete
        trials dominate; on_front: how many of them are on their front
    """

    epochs: int
    machine: float
    wall: float
    best: float | None
    rank: int | None
    behind: float | None
    complete: int
    pruned: int
    volume: float | None = None
    on_front: int | None = None


def play_orders(
    stored: StoredCurves, setting: Setting, *, seed: int, orders: int = ORDERS
) -> Iterator[Outcome]:
    """Yield the outcome of each order."""
    judge = _Judge(stored)
    kind = FrontSimulation if stored.about.goals else Simulation
    front = FrontJudge(stored) if stored.about.goals else None
    for number in range(orders):
        curves = stored.full
        random.Random(f"{seed}-{number}").shuffle(curves)
        plan = Plan(
            workers=setting.workers,
            epochs=setting.epochs,
            minimize=stored.about.minimize,
            word=f"{stored.about.study}-{seed}-{number}",
        )
        simulation = kind(curves[: setting.trials], plan, make_pruner(setting.pruner))
        played = simulation.run()
        outcome = Outcome(
            epochs=played.epochs,
            machine=played.machine,
            wall=played.wall,
            best=played.best,
            rank=judge.rank(played.winner),
            behind=judge.behind(played.best),
            complete=played.complete,
            pruned=played.pruned,
        )
        yield outcome if front is None else front.judge(outcome, simulation.complete_vectors())


def as_it_ran(stored: StoredCurves) -> Outcome:
    """Return what the study itself has cost and found, with its short curves."""
    about, every = stored.about, stored.curves
    ends = [curve.outcome for curve in every]
    complete = [_full_value(curve, stored) for curve in every if curve.outcome == "complete"]
    best = (min if about.minimize else max)(complete)
    outcome = Outcome(
        epochs=sum(len(curve.values) for curve in every),
        machine=sum(sum(curve.seconds) for curve in every),
        wall=about.wall,
        best=best,
        rank=1,
        behind=0.0,
        complete=ends.count("complete"),
        pruned=ends.count("pruned"),
    )
    if not about.goals:
        return outcome
    ended = [curve for curve in every if curve.outcome == "complete"]
    vectors = [each.vector(about.epochs, minimize=about.minimize) for each in ended]
    return FrontJudge(stored).judge(outcome, vectors)


def _full_value(curve: Curve, stored: StoredCurves) -> float:
    return curve.best(stored.about.epochs, minimize=stored.about.minimize)


class _Judge:
    """Compares the result of an order with all full curves."""

    def __init__(self, stored: StoredCurves) -> None:
        self.sign = 1 if stored.about.minimize else -1
        self.values = {curve.number: _full_value(curve, stored) for curve in stored.full}

    def rank(self, winner: int | None) -> int | None:
        if winner is None:
            return None
        own = self.sign * self.values[winner]
        return 1 + sum(self.sign * value < own for value in self.values.values())

    def behind(self, best: float | None) -> float | None:
        leader = min(self.sign * value for value in self.values.values())
        if best is None or leader == 0:
            return None
        return (self.sign * best - leader) / abs(leader)


class FrontJudge:
    """Compares the front of an order with the front of all full curves."""

    def __init__(self, stored: StoredCurves) -> None:
        about = stored.about
        vectors = [each.vector(about.epochs, minimize=about.minimize) for each in stored.full]
        self.front = _front_of(vectors, len(about.goals))

    def judge(self, outcome: Outcome, complete: Sequence[Vector]) -> Outcome:
        """Return the outcome with what its complete trials dominate; no trial is its best.

        Where every full curve violates constraints, no share is known.
        """
        found = _front_of(complete, self.front.shape[1])
        volume = None
        if len(self.front):
            whole = hypervolume(self.front, self.front)
            volume = hypervolume(found, self.front) / whole if len(found) else 0.0
        return replace(
            outcome, best=None, rank=None, behind=None, volume=volume, on_front=len(found)
        )


def _front_of(vectors: Sequence[Vector], goals: int) -> Costs:
    """Return the front of those vectors that violate nothing, (M, G)."""
    sound = [each.costs for each in vectors if each.violation <= 0]
    costs = np.array(sound, dtype=np.float64).reshape(-1, goals)
    return costs[front_places(costs)]
