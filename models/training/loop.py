"""The training loop of every model, as a generator of epochs.

    for epoch in fit(model, images, epochs=20, seed=0):
        print(epoch.number, epoch.valid)

The caller decides what an epoch means: a trial reports it and may prune, a retraining watches its
patience, a test just counts. Pruning therefore stays outside `models`, and two trials can take
turns in one process. A caller that trains several models at once asks each `Training` for its next
epoch, and tells it what that gave.

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

from models.base import Model, evaluating
from models.data.images import Images, ImageSplits
from models.errors import DivergedError
from models.kernels.fast_convolution import fast_convolutions
from models.seeds import derive_seed, same_draws
from models.training.epoch_task import EpochTask, MeanMetrics, OwnSteps, TrainedEpoch
from models.training.step_curve import SampledSteps


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


class Training:
    """Trains ``model`` in place, epoch by epoch. The caller takes the steps of an epoch.

        while (task := training.begin_epoch()) is not None:
            result = training.end_epoch(task.train())

    images: splits that lie on the model's device already; the model trains on what it makes of
        them (`Model.training_set`), and is measured on all validation images
    start: epochs that the loaded checkpoint has already been trained for
    judge: the evaluator of the model's samples; its measures join the validation metrics
    interrupted: asked before every step, and while the model prepares what it trains on
    """

    def __init__(
        self,
        model: Model,
        images: ImageSplits,
        *,
        epochs: int,
        seed: int,
        start: int = 0,
        judge: MeasuresSamples | None = None,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        self.model, self.images, self.judge = model, images, judge
        self.epochs, self.seed, self.interrupted = epochs, seed, interrupted
        self.number = start  # of the epoch that was begun last
        self._seen: Images | None = None
        self._own = OwnSteps(model)

    def begin_epoch(self) -> EpochTask | None:
        """Return the next epoch, which is to be trained; None after the last.

        Raises `StopRequested` when asked to stop.
        """
        if self.number >= self.epochs:
            return None  # before anything is prepared, which may be expensive
        self.number += 1
        return EpochTask(
            model=self.model,
            images=self._prepare(),
            number=self.number,
            epochs=self.epochs,
            seed=self.seed,
            interrupted=self.interrupted,
            own=self._own,
        )

    def end_epoch(self, trained: TrainedEpoch) -> EpochResult:
        """Measure the model after the epoch that was begun last.

        Raises `DivergedError` when a metric is not finite.
        """
        began, model = time.perf_counter(), self.model
        with same_draws(model.device), evaluating(model), fast_convolutions(model):
            model.end_epoch(self._prepare())
        valid = evaluate(model, self.images.valid)
        measured = time.perf_counter()
        valid |= self.judge.measure_model(model, self.images) if self.judge else {}
        ended = time.perf_counter()
        result = EpochResult(
            number=self.number,
            train=trained.metrics,
            valid=valid,
            seconds=trained.seconds + ended - began,
            judging=ended - measured if self.judge else 0.0,
            sampled=trained.sampled,
        )
        _check_finite(result)
        return result

    def _prepare(self) -> Images:
        """Return what the model trains on; it is made once."""
        if self._seen is None:
            self._seen = self.model.training_set(
                self.images, seed=derive_seed(self.seed, "set"), interrupted=self.interrupted
            )
        return self._seen


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
    """Train ``model`` in place, and yield an `EpochResult` for each epoch; see `Training`.

    Raises `DivergedError` when a metric is not finite, `StopRequested` when asked to stop.
    """
    training = Training(
        model, images, epochs=epochs, seed=seed, start=start, judge=judge, interrupted=interrupted
    )
    while (task := training.begin_epoch()) is not None:
        yield training.end_epoch(task.train())


def evaluate(model: Model, images: Images) -> dict[str, float]:
    """Return the metrics over all ``images``: means weighted by batch size.

    What a model draws at random to evaluate (noise, latent codes) is the same every time, so
    that epochs and trials are measured alike.
    """
    total = MeanMetrics()
    with same_draws(model.device), evaluating(model), fast_convolutions(model) as laid_out:
        for batch in images.batches(least=model.config.smallest_batch):
            total.add(model.evaluate(laid_out(batch)), len(batch.images))
    return total.on_host()


def _check_finite(result: EpochResult) -> None:
    """Raise `DivergedError` for a metric that is not finite."""
    measured = {f"train {name}": value for name, value in result.train.items()}
    measured |= {f"valid {name}": value for name, value in result.valid.items()}
    broken = {name: value for name, value in measured.items() if not math.isfinite(value)}
    if broken:
        raise DivergedError(result.number, broken)
