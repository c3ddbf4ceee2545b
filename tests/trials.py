"""One trial in this process for tests: contexts, models with one flaw each, and how to run them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from models.base import Metrics, Model, Program
from models.cae import CAE
from models.data.images import Batch, ImageSplits
from models.evaluation.sample_evaluator import SampleEvaluator
from models.gan import GAN, GANConfig
from search.events import Warned
from search.jobs import Export
from search.run import StudyRun
from search.trials.queue import TrialQueue
from search.worker.context import WorkerContext
from search.worker.evaluator import ATTRIBUTE, StudyEvaluators
from search.worker.exporting import export
from search.worker.trial import run_trial
from storage import trials
from storage.database.finishes import claim_finish, read_finish

MakeContext = Callable[..., WorkerContext]


def known_evaluators(
    run: StudyRun, images: ImageSplits, queue: TrialQueue, judge: SampleEvaluator
) -> StudyEvaluators:
    """The evaluators of a study whose own one is made already."""

    class Known(StudyEvaluators):
        def _agree_on(
            self, attribute: str, *, seed: int, encoder: Model | None = None
        ) -> SampleEvaluator:
            if attribute == ATTRIBUTE:
                return judge
            return super()._agree_on(attribute, seed=seed, encoder=encoder)

    return Known(run, images, queue)


def run_one(context: WorkerContext) -> dict[str, Any]:
    """Claim and run a trial; its row of the table."""
    trial = context.queue.claim(context.run.trials)
    assert trial is not None
    run_trial(context, trial)
    frame = trials("small", storage=context.run.storage)
    row: Any = frame[frame["number"] == trial.number].to_dict("records")[0]
    return row


def export_now(context: WorkerContext, number: int, rank: int) -> None:
    """Export a retraining as the one supervisor that finishes the study would have it done."""
    engine, token = context.queue.engine, context.run.token
    before = read_finish(engine, token)
    if before is None:
        claim_finish(engine, token, owner="o", runs="r", place="p", seen=0)
    claim = 1 if before is None else before.fence
    export(context, Export(number=number, rank=rank, claim=claim))


def said_by(context: WorkerContext) -> list[str]:
    """What a worker said that a person has to know."""
    heard = context.heard  # type: ignore[attr-defined]
    return [event.message for event in heard if isinstance(event, Warned)]


class Diverging(CAE):
    """Finite in its first epoch, NaN from then on."""

    def train_step(self, batch: Batch) -> Metrics:
        metrics = super().train_step(batch)
        self.steps = getattr(self, "steps", 0) + 1
        return {"mse": metrics["mse"] * float("nan")} if self.steps > 4 else metrics


class OneProgram(CAE):
    """Its export has one program instead of two: most of its time."""

    def programs(self) -> dict[str, Program]:
        return {"encoder": super().programs()["encoder"]}


class Greedy(CAE):
    """Asks for more memory than any machine has."""

    def train_step(self, batch: Batch) -> Metrics:
        torch.empty(2**50)
        return super().train_step(batch)


class OutOfMemory(CAE):
    """Says that memory ran out, and not how much it asked for."""

    def train_step(self, batch: Batch) -> Metrics:
        raise MemoryError


class Broken(CAE):
    def train_step(self, batch: Batch) -> Metrics:
        raise KeyError("a mistake in the model")


SMALL = GANConfig(architecture="dropout-28", width=0.03, latent=6, batch_size=64)


class Repeating(GAN):
    """Makes the same image over and over."""

    def samples(self, count: int, images: ImageSplits, part: str) -> Tensor:
        return images.train.batch(slice(0, 1)).images.expand(count, -1, -1, -1)


class ThreeModes(GAN):
    """Makes real images, but only of three classes."""

    def samples(self, count: int, images: ImageSplits, part: str) -> Tensor:
        labels = images.train.labels
        assert labels is not None
        rows = torch.nonzero(labels < 3).flatten()
        return images.train.batch(rows[torch.arange(count) % len(rows)]).images


class Perfect(GAN):
    """Makes the real images."""

    def samples(self, count: int, images: ImageSplits, part: str) -> Tensor:
        return images.train.batch(slice(0, count)).images


class Breaking(GAN):
    """Its second epoch's samples are not finite."""

    def begin_epoch(self, number: int, epochs: int) -> None:
        super().begin_epoch(number, epochs)
        self.number = number

    def samples(self, count: int, images: ImageSplits, part: str) -> Tensor:
        drawn = super().samples(count, images, part)
        return drawn * float("nan") if self.number > 1 else drawn
