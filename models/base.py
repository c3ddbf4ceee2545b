"""The contract between a model and everything around it.

A model *owns* its training step: its networks, losses and optimisers. The
training loop (`models/training/loop.py`) knows only the order: step, step, ...,
evaluate. So an autoencoder with one optimiser and a GAN with two and several
steps a batch are the same thing to it.

Shape legend: N batch, C channels, H/W pixels, Z latent width.

A step never waits for the device: `train_step` and `evaluate` return tensors,
have static shapes and never branch on values. The loop copies an epoch's
metrics to the host once.

    python -c "from models.cae import CAE, CAEConfig; print(CAE(CAEConfig(), (1, 28, 28)))"
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from models.data.images import Batch, Images, ImageSplits, Shape
from models.errors import ConfigError, require, require_one_of
from models.optimizers import SCHEDULES, set_rates
from models.results import Picture, Table
from models.seeds import drawing

__all__ = [
    "Batch", "ConfigError", "Metrics", "Model", "ModelConfig", "Note", "Program", "Shape", "build",
    "evaluating", "parameter_count", "require", "require_one_of",
]  # fmt: skip

Metrics = dict[str, Tensor]
"""Name -> scalar tensor, a mean over the batch, on the model's device."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What every configuration has. A family adds its own fields, all with defaults.

    schedule: of the learning rates, by name (`models.optimizers`)
    """

    batch_size: int = 256
    schedule: str = "constant"

    def __post_init__(self) -> None:
        require("batch_size", self.batch_size, 1, 65536)
        require_one_of("schedule", self.schedule, SCHEDULES)


@dataclass(frozen=True, kw_only=True)
class Program:
    """A part of a model that can be exported alone: a module and an input it takes.

    example: (N, ...) with N >= 2; the first dimension stays free in the export
    """

    module: nn.Module
    example: Tensor


class Model(nn.Module, ABC):
    """A family of networks with its losses and optimisers.

    Subclasses are built as ``Family(config, shape)`` and fill `optimizers`.
    `metrics` names what `evaluate` returns, so that a study's metric can be checked early.
    `judged` says that `samples` makes new images, whose quality (`models.evaluation.measures`) is
    measured each epoch beside `metrics`, and may be a study's metric.
    `usage` is what a loaded export is for, as one line of Python, for its model card.
    `static_step`: every `train_step` runs the same operations on tensors of the same shapes,
    so that a GPU may replay one (`models.training.cuda_graph`); False for a step that decides on
    the host.
    """

    metrics: ClassVar[tuple[str, ...]]
    config_type: ClassVar[type[ModelConfig]]
    usage: ClassVar[str] = "made = model(images)"
    judged: ClassVar[bool] = False
    static_step: bool = True

    def __init__(self, config: ModelConfig, shape: Shape) -> None:
        super().__init__()
        self.config = config
        self.shape = shape
        self.optimizers: dict[str, Optimizer] = {}

    @abstractmethod
    def train_step(self, batch: Batch) -> Metrics:
        """One update from one batch. Returns tensors; never waits for the device."""

    @abstractmethod
    def evaluate(self, batch: Batch) -> Metrics:
        """The metrics of one batch, weights untouched. Called in eval mode, without gradients."""

    def descend(self, loss: Callable[[Batch], tuple[Tensor, Metrics]], batch: Batch) -> Metrics:
        """Take one step of ``optimizers["all"]`` down the gradient of a loss.

        loss: computes from ``batch`` the loss and what is measured on the way, which is returned
        """
        optimizer = self.optimizers["all"]
        optimizer.zero_grad(set_to_none=True)  # first, so that their memory is free for the loss
        value, measured = loss(batch)
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return detached(measured)

    def preview(self, images: ImageSplits, part: str, count: int) -> Picture | None:
        """One quick picture of what the model does with ``count`` images of ``part`` ("valid" or
        "test"): a trial's picture in the dashboard. In eval mode, without gradients."""
        return None

    def fixed_samples(self, images: ImageSplits, part: str, count: int) -> Tensor | None:
        """At most ``count`` images (N, C, H, W) in [0, 1] that the model makes of what stays the
        same in every epoch: standing under each other they show how it learned. None: it makes
        none. In eval mode, without gradients; the caller's random numbers go on undisturbed.

        images: whoever makes images of images takes those of ``part`` ("valid" or "test")
        """
        return None

    def samples(self, count: int, images: ImageSplits, part: str) -> Tensor:
        """Images of its own making, to be judged: (count, C, H, W) in [0, 1]. In eval mode,
        without gradients, the same random draws each time.

        images, part: for families that make theirs from real images
        """
        raise NotImplementedError(f"{type(self).__name__} makes no new images; it cannot be judged")

    @abstractmethod
    def programs(self) -> dict[str, Program]:
        """The parts worth exporting by name, such as encoder and decoder."""

    def begin_epoch(self, number: int, epochs: int) -> None:
        """Called before epoch ``number`` (from 1) of ``epochs``: rates and whatever else follows
        from these two alone."""
        set_rates(self.optimizers.values(), SCHEDULES[self.config.schedule](number, epochs))

    def training_set(
        self,
        images: ImageSplits,
        *,
        seed: int,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> Images:
        """What the model trains on, on its device: ``images.train``, a part of it, or more.

        Called once by `models.training.loop.fit` when it starts, also when a training is taken up
        again: it must follow from ``images``, the configuration and ``seed`` alone. It leaves
        torch's global random numbers as they are, and where it takes long it asks
        ``interrupted``, to raise `models.errors.StopRequested`.
        """
        return images.train

    def order(self, count: int) -> Tensor:
        """Which of ``count`` training images an epoch sees, and when: (n,) int64, drawn on the
        CPU from torch's global random numbers, so that it is the same on every device."""
        return torch.randperm(count)

    @classmethod
    def fitted(cls, config: ModelConfig, images: ImageSplits) -> ModelConfig:
        """``config`` for these images: what follows from their classes or attributes. Raises
        `ConfigError` when the family has no use for them."""
        return config

    @classmethod
    def based_on(cls, config: ModelConfig, base: Model) -> ModelConfig:
        """``config`` for a model that starts from the exported model ``base``."""
        raise ConfigError(f"{cls.__name__} starts from no other model; remove starts_from")

    def start_from(self, base: Model) -> None:
        """Take over the weights of ``base``; called once, on the CPU, after `based_on`."""

    def pictures(self, images: ImageSplits, part: str) -> Iterator[Picture]:
        """Pictures for an export, of ``part`` ("valid" or "test") of ``images``. In eval mode,
        without gradients, on the model's device."""
        return iter(())

    def tables(self, images: ImageSplits, progress: Note) -> Iterator[Table]:
        """What is measured of a study's winner on the test images, beyond `metrics`: baselines,
        matrices, bounds. Called once, in eval mode; whoever trains here says how far it is."""
        return iter(())

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def images_per_step(self) -> int:
        """Of a `train_step`: more than the batch size where a step makes several updates."""
        return self.config.batch_size


Note = Callable[[str], None]
"""Called with one line on what is being done."""


def build(
    family: type[Model],
    config: ModelConfig,
    shape: Shape,
    *,
    seed: int,
    device: str | torch.device = "cpu",
    base: Model | None = None,
) -> Model:
    """The model with weights that follow from ``seed`` (and ``base``) alone, whatever the device.

    base: the exported model that it starts from
    """
    with drawing("cpu", seed):
        model = family(config if base is None else family.based_on(config, base), shape)
    if base is not None:
        model.start_from(base)
    return model.to(device)


def detached(metrics: Metrics) -> Metrics:
    """Return the same values without the graph that computed them."""
    return {name: value.detach() for name, value in metrics.items()}


@contextmanager
def evaluating(model: Model) -> Iterator[Model]:
    """The model in eval mode and without gradients; back to its former mode after."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield model
    finally:
        model.train(was_training)


def parameter_count(module: nn.Module) -> int:
    """Weights, biases and batch-norm affine parameters, as the reference systems count them."""
    return sum(parameter.numel() for parameter in module.parameters())
