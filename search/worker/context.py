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
from search.trials.queue import Claims

if TYPE_CHECKING:
    from models.evaluation.sample_evaluator import Judge

Say = Callable[..., None]
"""``say(event, **values)``: tell the supervisor."""

log = logging.getLogger("genstudy")


@dataclass
class Bench:
    """Where trials run: what a worker has set up once for all of them.

    taken_at_first: bytes of memory before the first trial
    """

    run: StudyRun
    spec: StudySpec
    claims: Claims
    images: ImageSplits
    base: Model | None  # that every model starts from
    device: str
    device_name: str
    say: Say
    interrupted: Callable[[], bool]
    judge: Judge | None = None  # of samples, in a study that is about them
    taken_at_first: int = 0


def make_model(bench: Bench, config: ModelConfig, seed: int) -> Model:
    """A fresh model on the worker's device, from the study's base if it has one."""
    return build(
        bench.spec.model,
        bench.spec.model.fitted(config, bench.images),
        bench.images.shape,
        seed=seed,
        device=bench.device,
        base=bench.base,
    )


def go_without(bench: Bench, what: str, error: Exception) -> None:
    """Warn that ``what`` is not kept: in the log each time, to the user once."""
    log.warning("without %s: %s", what, error)
    bench.say("warned", what=what, message=f"it goes on without {what}: {error}")
