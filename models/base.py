"""The contract between a model and everything around it.

A model *owns* its training step: its networks, losses and optimisers. The
training loop (`models/training.py`) knows only the order: step, step, ...,
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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

Shape = tuple[int, int, int]
"""(C, H, W) of one image."""

Metrics = dict[str, Tensor]
"""Name -> scalar tensor, a mean over the batch, on the model's device."""


class ConfigError(ValueError):
    """A configuration value is outside its range; the message says which and what fits."""


class DivergedError(ArithmeticError):
    """Training left the finite numbers: a metric is NaN or infinite. Lower the learning rate."""

    def __init__(self, epoch: int, metrics: Mapping[str, float]) -> None:
        self.epoch = epoch
        shown = ", ".join(f"{name} {value:g}" for name, value in metrics.items())
        super().__init__(f"diverged in epoch {epoch}: {shown}")


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What a step sees.

    images: (N, C, H, W) float32 in [0, 1], on the model's device
    labels: (N,) int64, or None where the set has no classes
    """

    images: Tensor
    labels: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What every configuration has. A family adds its own fields, all with defaults."""

    batch_size: int = 256

    def __post_init__(self) -> None:
        require("batch_size", self.batch_size, 1, 65536)


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
    `static_step`: every `train_step` runs the same operations on tensors of the same shapes,
    so that a GPU may replay one (`models.graphs`); False for a step that decides on the host.
    """

    metrics: ClassVar[tuple[str, ...]]
    config_type: ClassVar[type[ModelConfig]]
    static_step: ClassVar[bool] = True

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

    @abstractmethod
    def preview(self, images: Tensor) -> Tensor:
        """What the model makes of ``images``: (N, C, H, W) -> (N, C, H, W) in [0, 1]."""

    @abstractmethod
    def programs(self) -> dict[str, Program]:
        """The parts worth exporting by name, such as encoder and decoder."""

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device


def build(
    family: type[Model], config: ModelConfig, shape: Shape, *, seed: int, device: str = "cpu"
) -> Model:
    """The model with weights that follow from ``seed`` alone, whatever the device."""
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers go on undisturbed
        torch.manual_seed(seed)
        model = family(config, shape)
    return model.to(device)


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


def require(name: str, value: Any, low: float, high: float) -> None:
    """Raise `ConfigError` unless ``low <= value <= high`` (NaN never is)."""
    if not low <= value <= high:
        raise ConfigError(f"{name}={value!r} is outside [{low:g}, {high:g}]")
