"""A simulated study with several goals: trials are pruned by domination, at equal epochs.

    played = FrontSimulation(curves, plan, make_pruner("front"))
    played.run()
    played.complete_vectors()

`PRUNER=front` reads the vectors of other trials from the trial database. Here they come from the
stored curves; the rule is the same.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from optuna.pruners import BasePruner, NopPruner

from search.front import Vector
from search.simulation.simulation import Plan, PlayedTrial, Simulation
from search.simulation.stored_curves import Curve
from search.strategies.front_pruner import FrontPruner


class FrontSimulation(Simulation):
    """One run over curves that have vectors."""

    def __init__(self, curves: Sequence[Curve], plan: Plan, pruner: BasePruner) -> None:
        super().__init__(curves, plan, NopPruner())  # Optuna's study in memory has one goal
        self.rule = pruner if isinstance(pruner, FrontPruner) else None
        self.vectors: defaultdict[int, list[Vector]] = defaultdict(list)  # by epoch

    def _is_pruned(self, played: PlayedTrial) -> bool:
        others, own = self.vectors[played.epoch], played.curve.vectors[played.epoch - 1]
        ends = self.rule is not None and self.rule.ends(own, others, played.epoch - 1)
        others.append(own)
        return ends
