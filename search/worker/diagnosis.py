"""How the training of a GAN goes, epoch after epoch, and when it need not go on.

    diagnosis = GanDiagnosis(floor, prunes=True)
    diagnosis.add(result)
    if verdict := diagnosis.lost(steps=375):   # after each epoch: prune if there is one
        ...
    attributes = trial_attributes(diagnosis.final())

A training that has collapsed, or that one network has won for good, is pruned on its own
record, whatever other trials do (`models.evaluation.gan_diagnosis`). PRUNER=none lets it go on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from models.errors import DivergedError
from models.evaluation.gan_diagnosis import Health, Kind, Verdict, final_verdict, find_lost_game
from models.training.loop import EpochResult


class GanDiagnosis:
    """The health of a training's epochs so far.

    floor: measures of real images; None where samples are not measured: then nothing is diagnosed
    prunes: whether a lost training is to be ended early
    """

    def __init__(self, floor: Mapping[str, float] | None, *, prunes: bool) -> None:
        self.floor = floor
        self.prunes = prunes
        self.history: list[Health] = []

    def add(self, result: EpochResult) -> None:
        """Add the health of one more epoch."""
        if self.floor is not None:
            self.history.append(Health.of(result.number, result.train, result.valid))

    def lost(self, *, steps: int) -> Verdict | None:
        """Return why the training need not go on; None while there is hope. steps: of an epoch"""
        if self.floor is None or not self.prunes:
            return None
        return find_lost_game(self.history, self.floor, steps=steps)

    def final(self, history: Sequence[Health] | None = None) -> Verdict | None:
        """Return the verdict on a training that has ended; None where nothing was measured.

        history: of another training's epochs, or with an epoch more
        """
        epochs = self.history if history is None else history
        if self.floor is None or not epochs:
            return None
        return final_verdict(epochs, self.floor)

    def diverged(self, error: DivergedError) -> Verdict | None:
        """Return the verdict on a training that left the finite numbers."""
        if self.floor is None:
            return None
        return Verdict(kind=Kind.DIVERGED, epoch=error.epoch, reason=str(error))

    def to_plain(self) -> list[dict[str, Any]]:
        """Return the history as JSON takes it, for a checkpoint."""
        return [health.to_plain() for health in self.history]


def health_of_curve(curve: Sequence[Mapping[str, Any]]) -> list[Health]:
    """Return the health of a retraining's epochs, as its record has them."""
    return [Health.of(epoch["number"], epoch["train"], epoch["valid"]) for epoch in curve]


def trial_attributes(verdict: Verdict | None) -> dict[str, Any]:
    """Return a verdict as attributes of its trial."""
    if verdict is None:
        return {}
    about: dict[str, Any] = {
        "verdict": str(verdict.kind),
        "verdict_epoch": verdict.epoch,
        "verdict_reason": verdict.reason,
    }
    return about if verdict.modes is None else about | {"modes": verdict.modes}
