"""The training loop of every model, as a generator of epochs.

    for epoch in fit(model, images, epochs=20, seed=0):
        print(epoch.number, epoch.valid)

The caller decides what an epoch means: a trial reports it and may prune, a retraining watches its
patience, a test just counts. Pruning therefore stays outside `models`, and two trials can take
turns in one process.

An epoch is a function of (weights and optimiser state, seed, epoch number) and of nothing else:
its data order and its noise are drawn from seeds derived from the last two, and what is trained on
(`Model.training_set`) follows from the seed. A checkpoint after epoch k is therefore all that is
needed to go on with k + 1, bit for bit the same on a CPU.

Shape legend: N batch, C channels, H/W pixels.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from models.base import Metrics, Model, evaluating
from models.data.images import Batch, Images, ImageSplits
from models.errors import DivergedError, StopRequested
from models.kernels.fast_convolution import fast_convolutions
from models.seeds import derive_seed, same_draws
from models.training.cuda_graph import capture_step
from models.training.step_curve import SampledSteps, StepSampler


class MeasuresSamples(Protocol):
    """What `fit` asks of an evaluator of samples, such as
    `models.evaluation.sample_evaluator.SampleEvaluator`."""

    def measure_model(self, model: Model, images: ImageSplits) -> dict[str, float]:
        """Return measures of the samples that ``model`` makes, by name."""


@dataclass(frozen=True, kw_only=True)
class EpochResult:
    """One epoch: number counts from 1; train and valid are means over images; wall seconds.

    judging: how many of the seconds the evaluator took for samples
    sampled: what some steps measured, for a model that has `Model.step_metrics`
    """

    number: int
    train: dict[str, float]
    valid: dict[str, float]
    seconds: float
    judging: float = 0.0
    sampled: SampledSteps | None = None


def fit(
    model: Model,
    images: ImageSplits,
    *,
    epochs: int,
    seed: int,
    start: int = 0,
    judge: MeasuresSamples | None = None,
    interrupted: Callable[[], bool] = lambda: False,
) -> Iterator[EpochResult]:
    """Train ``model`` in place, and yield an `EpochResult` for each epoch.

    images: splits that lie on the model's device already; the model trains on what it makes of
        them (`Model.training_set`), and is measured on all validation images
    start: epochs that the loaded checkpoint has already been trained for
    judge: the evaluator of the model's samples; its measures join the validation metrics
    interrupted: asked before every step, and while the model prepares what it trains on

    Raises `DivergedError` when a metric is not finite, `StopRequested` when asked to stop.
    """
    if start >= epochs:
        return  # before anything is prepared, which may be expensive
    seen = model.training_set(images, seed=derive_seed(seed, "set"), interrupted=interrupted)
    step, rates = capture_step(model), _rates(model)
    for number in range(start + 1, epochs + 1):
        began = time.perf_counter()
        model.begin_epoch(number, epochs)
        if rates != _rates(model):  # a captured step contains them
            step, rates = capture_step(model), _rates(model)
        torch.manual_seed(derive_seed(seed, "epoch", number))
        order = model.order(len(seen)).to(model.device)
        train, sampled = _train(model, step, seen, order, interrupted)
        with same_draws(model.device), evaluating(model), fast_convolutions(model):
            model.end_epoch(seen)
        valid = evaluate(model, images.valid)
        trained = time.perf_counter()
        valid |= judge.measure_model(model, images) if judge else {}
        ended = time.perf_counter()
        result = EpochResult(
            number=number,
            train=train,
            valid=valid,
            seconds=ended - began,
            judging=ended - trained if judge else 0.0,
            sampled=sampled,
        )
        _check_finite(result)
        yield result


def _rates(model: Model) -> list[float]:
    """Return the learning rates of all parameter groups."""
    groups = [group for optimizer in model.optimizers.values() for group in optimizer.param_groups]
    return [group["lr"] for group in groups]


def evaluate(model: Model, images: Images) -> dict[str, float]:
    """Return the metrics over all ``images``: means weighted by batch size.

    What a model draws at random to evaluate (noise, latent codes) is the same every time, so
    that epochs and trials are measured alike.
    """
    total = _Mean()
    with same_draws(model.device), evaluating(model), fast_convolutions(model) as laid_out:
        for batch in images.batches(least=model.config.smallest_batch):
            total.add(model.evaluate(laid_out(batch)), len(batch.images))
    return total.on_host()


def _train(
    model: Model,
    step: Callable[[Batch], Metrics],
    images: Images,
    order: Tensor,
    interrupted: Callable[[], bool],
) -> tuple[dict[str, float], SampledSteps | None]:
    """Train on the images at ``order`` (n,); return mean metrics, and those of some steps.

    Images that do not fill a batch at the end are left out, so that shapes are static.
    """
    model.train()
    size = min(model.images_per_step, len(order))
    total, sampler = _Mean(), StepSampler(model.step_metrics, len(order) // size)
    # a caller that measures without gradients may train another model to compare with
    with torch.enable_grad(), fast_convolutions(model) as laid_out:
        for number, first in enumerate(range(0, len(order) - size + 1, size), start=1):
            if interrupted():
                raise StopRequested
            batch = laid_out(images.batch(order[first : first + size]))
            measured = step(batch)
            total.add(measured, size)
            sampler.add(number, measured)
    return total.on_host(), sampler.on_host()


class _Mean:
    """A weighted mean of metrics that stays on the device until the epoch ends."""

    def __init__(self) -> None:
        self.sums: Metrics = {}
        self.weight = 0

    def add(self, metrics: Metrics, weight: int) -> None:
        for name, value in metrics.items():
            value = value.detach().double() * weight
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.weight += weight

    def on_host(self) -> dict[str, float]:
        if not self.sums:
            return {}
        values = torch.stack(list(self.sums.values())).cpu()  # the epoch's one copy
        return {
            name: float(value) / self.weight
            for name, value in zip(self.sums, values.tolist(), strict=True)
        }


def _check_finite(result: EpochResult) -> None:
    """Raise `DivergedError` for a metric that is not finite."""
    measured = {f"train {name}": value for name, value in result.train.items()}
    measured |= {f"valid {name}": value for name, value in result.valid.items()}
    broken = {name: value for name, value in measured.items() if not math.isfinite(value)}
    if broken:
        raise DivergedError(result.number, broken)
