"""Training steps of several kinds, one of which the host chooses before each step.

    choice = model.choose_step()
    measured = model.take_step(batch, choice)     # on the device alone: a GPU may record it
    model.note_step(measured)

A GAN with the adaptive rule is such a model: how many updates its generator gets depends on losses.
All steps of one choice run the same operations, so that each kind becomes a CUDA graph of its own
(`models.training.cuda_graph`).

Shape legend: N batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable

from models.base import Metrics, Model
from models.data.images import Batch


class ChoosesSteps(ABC):
    """The part of a model that chooses its steps; the model's class names it before `Model`."""

    @abstractmethod
    def choose_step(self) -> Hashable:
        """Return which kind of step comes next."""

    @abstractmethod
    def take_step(self, batch: Batch, choice: Hashable) -> Metrics:
        """Update the weights from one batch, as `Model.train_step` does; decide nothing."""

    @abstractmethod
    def note_step(self, measured: Metrics) -> None:
        """Take note of what a step has measured, for later choices. Never wait for the device."""

    def train_step(self, batch: Batch) -> Metrics:
        """Choose a step, take it and take note of it."""
        measured = self.take_step(batch, self.choose_step())
        self.note_step(measured)
        return measured


def find_choices(model: Model) -> ChoosesSteps | None:
    """Return the model as one that chooses its steps.

    None where it does not, or where its class has a `train_step` of its own, which may do more.
    """
    if not isinstance(model, ChoosesSteps) or "train_step" in vars(model):
        return None
    step: object = type(model).train_step
    return model if step is ChoosesSteps.train_step else None
