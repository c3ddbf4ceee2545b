"""One epoch of training, ready to be done: by its own model alone, or together with others'.

    task = training.begin_epoch()       # `models.training.loop.Training`
    trained = task.train()              # alone; or:

    orders = [task.begin() for task in tasks]      # together: the caller trains several models at
                                                   # once, and makes a `TrainedEpoch` for each

Before `begin` nothing of the epoch happens, and no random number is drawn. So tasks may wait, and
be done in any order.

Shape legend: N batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from models.base import Metrics, Model
from models.data.images import Batch, Images
from models.errors import StopRequested
from models.kernels.fast_convolution import fast_convolutions
from models.seeds import derive_seed
from models.training.cuda_graph import CapturedChoices, CapturedStep, capture_step
from models.training.precision import training_precision
from models.training.step_curve import SampledSteps, StepSampler


@dataclass(frozen=True, kw_only=True)
class TrainedEpoch:
    """The result of training an epoch.

    metrics: means over its images; sampled: the measures of some single steps
    seconds: that it took; if several models were trained at once, this one's share of them
    shared_by: how many models were trained at once
    """

    metrics: dict[str, float]
    seconds: float
    sampled: SampledSteps | None = None
    shared_by: int = 1


class OwnSteps:
    """The training step of one model, recorded anew when its learning rates change."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._rates: list[float] | None = None
        self._step: Callable[[Batch], Metrics] = model.train_step

    def step(self) -> Callable[[Batch], Metrics]:
        """Return the step for the present learning rates, which are part of a recorded step."""
        optimizers = self.model.optimizers.values()
        rates = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]
        if rates != self._rates:
            self._step, self._rates = capture_step(self.model), rates
        if isinstance(self._step, CapturedStep | CapturedChoices):
            self._step.begin_epoch()
        return self._step


@dataclass(frozen=True, kw_only=True)
class EpochTask:
    """Epoch ``number`` of ``epochs`` of a model.

    images: that the model trains on; seed: of all that the epoch draws at random
    interrupted: asked before every step
    """

    model: Model
    images: Images
    number: int
    epochs: int
    seed: int
    interrupted: Callable[[], bool]
    own: OwnSteps

    def begin(self) -> Tensor:
        """Set the rates of the epoch, and return the order of its images: (n,), on the device."""
        self.model.begin_epoch(self.number, self.epochs)
        torch.manual_seed(derive_seed(self.seed, "epoch", self.number))
        return self.model.order(len(self.images)).to(self.model.device)

    def train(self) -> TrainedEpoch:
        """Train the epoch alone. Raises `StopRequested` when asked to stop.

        Images that do not fill a batch at the end are left out, so that shapes are static.
        """
        began = time.perf_counter()
        order, model = self.begin(), self.model
        step = self.own.step()
        model.train()
        size = min(model.images_per_step, len(order))
        total, sampler = MeanMetrics(), StepSampler(model.step_metrics, len(order) // size)
        # a caller that measures without gradients may train another model to compare with
        with (
            torch.enable_grad(),
            fast_convolutions(model) as laid_out,
            training_precision(model),
        ):
            for number, first in enumerate(range(0, len(order) - size + 1, size), start=1):
                if self.interrupted():
                    raise StopRequested
                batch = laid_out(self.images.batch(order[first : first + size]))
                measured = step(batch)
                total.add(measured, size)
                sampler.add(number, measured)
        metrics, sampled = total.on_host(), sampler.on_host()
        return TrainedEpoch(metrics=metrics, sampled=sampled, seconds=time.perf_counter() - began)


class MeanMetrics:
    """A weighted mean of metrics that stays on the device until the epoch ends."""

    def __init__(self) -> None:
        self.sums: Metrics = {}
        self.weight = 0

    def add(self, metrics: Metrics, weight: int) -> None:
        """Take in the means over ``weight`` images."""
        for name, value in metrics.items():
            value = value.detach().double() * weight
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.weight += weight

    def on_host(self) -> dict[str, float]:
        """Return the means."""
        if not self.sums:
            return {}
        values = torch.stack(list(self.sums.values())).cpu()  # the epoch's one copy
        return {
            name: float(value) / self.weight
            for name, value in zip(self.sums, values.tolist(), strict=True)
        }
