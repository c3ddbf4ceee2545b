"""Pruning with two goals, played from stored curves: MSE against code size, with no training.

    python -m tests.benchmarks.fronts          # the table below, in a minute

The curves are those of 200 random trials of `cae` on the digits. The file holds no parameters;
those of a random search follow from its seed and the trial's number, and so does the code size.
Each rule is played in `ORDERS` random orders with 1, 4 and 16 workers. What counts is which share
of the hypervolume of all 200 full curves the complete trials have, and how many of its epochs they
took.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import optuna

from search.front import Costs, Vector, front_places, hypervolume, is_beyond
from search.setup.checks import probe
from search.simulation.curve_file import read_curve_file
from search.simulation.simulation import Plan, PlayedTrial, Simulation
from search.simulation.stored_curves import Curve
from search.strategies.samplers import make_sampler
from search.studies import cae

FILE = Path(__file__).parent / "curves" / "cae-digits.parquet"
EPOCHS, ORDERS, STARTUP = 20, 20, 5
WORKERS = (1, 4, 16)
Rule = Callable[[Vector, Sequence[Vector]], bool]


def is_dominated_by(own: Vector, others: Sequence[Vector], *, share: float) -> bool:
    """Whether so many of the others are as good or better in every goal: a simpler rule."""
    found = sum(
        other.costs != own.costs
        and all(a <= b for a, b in zip(other.costs, own.costs, strict=True))
        for other in others
    )
    return found >= share * len(others)


def is_worse_than_half(own: Vector, others: Sequence[Vector]) -> bool:
    """Whether its MSE is behind the median, as a pruner of one goal sees it."""
    return own.costs[0] > float(np.median([other.costs[0] for other in others]))


RULES: Mapping[str, Rule] = {
    "`front`": lambda own, others: is_beyond(own, others, keep=0.5),
    "`front(keep=0.3)`": lambda own, others: is_beyond(own, others, keep=0.3),
    "a fifth of the others dominate it": lambda own, others: is_dominated_by(
        own, others, share=0.2
    ),
    "behind the median in MSE alone": is_worse_than_half,
}


def code_sizes(count: int) -> list[int]:
    """Return the code sizes of the first trials of a random search of `cae` with seed 0."""
    space, _ = probe(cae.STUDY)
    study = optuna.create_study(sampler=make_sampler("random", seed=0, space=space))
    return [cae.suggest(study.ask()).latent for _ in range(count)]


class FrontSimulation(Simulation):
    """A study of two goals that is played: a rule prunes by the vectors of equal epochs."""

    def __init__(
        self, curves: Sequence[Curve], plan: Plan, rule: Rule, sizes: Sequence[int]
    ) -> None:
        super().__init__(curves, plan, optuna.pruners.NopPruner())
        self.rule = rule
        self.sizes = sizes
        self.vectors: dict[int, list[Vector]] = {}  # by epoch

    def vector_of(self, played: PlayedTrial) -> Vector:
        """Return the vector of a trial after its last epoch."""
        mse = played.curve.values[played.epoch - 1]
        return Vector(costs=(mse, float(self.sizes[played.curve.number])))

    def _is_pruned(self, played: PlayedTrial) -> bool:
        others = self.vectors.setdefault(played.epoch, [])
        own = self.vector_of(played)
        is_ended = len(others) >= STARTUP and self.rule(own, others)
        others.append(own)
        return is_ended


@dataclass(frozen=True, kw_only=True)
class FrontOutcome:
    """What one order came to: epochs, share of the whole hypervolume, trials on the front."""

    epochs: int
    volume: float
    on_front: int


def play(
    curves: Sequence[Curve], rule: Rule, sizes: Sequence[int], *, workers: int, order: int
) -> FrontOutcome:
    """Play one order."""
    shuffled = list(curves)
    random.Random(f"0-{order}").shuffle(shuffled)
    plan = Plan(workers=workers, epochs=EPOCHS, minimize=True, word=f"{order}")
    played = FrontSimulation(shuffled, plan, rule, sizes)
    ended = played.run()
    complete = [each.curve for each in played.trials if each.state == "COMPLETE"]
    found, whole = (_costs_of(each, sizes) for each in (complete, curves))
    best = whole[front_places(whole)]
    return FrontOutcome(
        epochs=ended.epochs,
        volume=hypervolume(found, best) / hypervolume(whole, best),
        on_front=len(front_places(found)),
    )


def _costs_of(curves: Sequence[Curve], sizes: Sequence[int]) -> Costs:
    return np.array([(min(curve.values), sizes[curve.number]) for curve in curves], dtype=float)


def main() -> int:
    """Print the table."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    curves = read_curve_file(FILE).full
    sizes = code_sizes(len(curves))
    whole = EPOCHS * len(curves)
    print("| pruned if | workers | epochs | of all | hypervolume: mean, least | on the front |")
    print("|---|---|---|---|---|---|")
    for words, rule in RULES.items():
        for workers in WORKERS:
            found = [
                play(curves, rule, sizes, workers=workers, order=order) for order in range(ORDERS)
            ]
            epochs = [each.epochs for each in found]
            volumes = [each.volume for each in found]
            print(
                f"| {words} | {workers} | {fmean(epochs):,.0f} ± {stdev(epochs):.0f} | "
                f"{fmean(epochs) / whole:.0%} | {fmean(volumes):.1%}, {min(volumes):.1%} | "
                f"{fmean(each.on_front for each in found):.1f} |",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
