"""Where trials run: what a worker has set up once, and what all its jobs do with it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from models.base import Model, ModelConfig, build
from models.data.images import ImageSplits
from search.run import StudyRun
from search.study import StudySpec
from search.trials.queue import TrialQueue

if TYPE_CHECKING:
    from models.evaluation.sample_evaluator import SampleEvaluator

Say = Callable[..., None]
"""``say(event, **values)``: tell the supervisor."""

log = logging.getLogger("genstudy")


@dataclass
class WorkerContext:
    """Where trials run: what a worker has set up once for all of them.

    taken_at_first: bytes of memory before the first trial
    """

    run: StudyRun
    spec: StudySpec
    queue: TrialQueue
    images: ImageSplits
    base: Model | None  # that every model starts from
    device: str
    device_name: str
    say: Say
    interrupted: Callable[[], bool]
    judge: SampleEvaluator | None = None  # of samples, in a study that is about them
    taken_at_first: int = 0


def make_model(context: WorkerContext, config: ModelConfig, seed: int) -> Model:
    """A fresh model on the worker's device, from the study's base if it has one."""
    return build(
        context.spec.model,
        context.spec.model.fitted(config, context.images),
        context.images.shape,
        seed=seed,
        device=context.device,
        base=context.base,
    )


def warn_once(context: WorkerContext, what: str, error: Exception) -> None:
    """Warn that ``what`` is not kept: in the log each time, to the user once."""
    log.warning("without %s: %s", what, error)
    context.say("warned", what=what, message=f"it goes on without {what}: {error}")
