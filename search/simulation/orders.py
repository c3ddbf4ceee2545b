"""A setting is played over many random orders of the trials, since one order is luck.

    played = play_orders(stored, Setting(pruner="asha", workers=4, trials=200, epochs=20), seed=0)
    for each in played:
        each.epochs, each.wall, each.best, each.rank, each.behind

The same seed gives every setting the same orders, so that settings compare pair by pair.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from search.simulation.clock import Plan, Simulation
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
    """One order's cost and find.

    epochs: of all trials; machine, wall: seconds, of all workers together and by the clock
    best: value of the winner; None: no trial was complete
    rank: of the winner among all full curves, at their full length; the best has 1
    behind: by which share of the best full curve's value the winner's is worse; below 0: better
    complete, pruned: how many trials ended so
    """

    epochs: int
    machine: float
    wall: float
    best: float | None
    rank: int | None
    behind: float | None
    complete: int
    pruned: int


def play_orders(
    stored: StoredCurves, setting: Setting, *, seed: int, orders: int = ORDERS
) -> Iterator[Outcome]:
    """Yield the outcome of each order."""
    judge = _Judge(stored)
    for number in range(orders):
        curves = stored.full
        random.Random(f"{seed}-{number}").shuffle(curves)
        plan = Plan(
            workers=setting.workers,
            epochs=setting.epochs,
            minimize=stored.about.minimize,
            word=f"{stored.about.study}-{seed}-{number}",
        )
        played = Simulation(curves[: setting.trials], plan, make_pruner(setting.pruner)).run()
        yield Outcome(
            epochs=played.epochs,
            machine=played.machine,
            wall=played.wall,
            best=played.best,
            rank=judge.rank(played.winner),
            behind=judge.behind(played.best),
            complete=played.complete,
            pruned=played.pruned,
        )


def as_it_ran(stored: StoredCurves) -> Outcome:
    """Return what the study itself has cost and found, with its short curves."""
    about, every = stored.about, stored.curves
    ends = [curve.outcome for curve in every]
    complete = [_full_value(curve, stored) for curve in every if curve.outcome == "complete"]
    best = (min if about.minimize else max)(complete)
    return Outcome(
        epochs=sum(len(curve.values) for curve in every),
        machine=sum(sum(curve.seconds) for curve in every),
        wall=about.wall,
        best=best,
        rank=1,
        behind=0.0,
        complete=ends.count("complete"),
        pruned=ends.count("pruned"),
    )


def _full_value(curve: Curve, stored: StoredCurves) -> float:
    return curve.best(stored.about.epochs, minimize=stored.about.minimize)


class _Judge:
    """Says how good what was found is, beside all full curves."""

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
