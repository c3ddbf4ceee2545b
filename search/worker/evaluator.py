"""The judge of a study whose models are judged by their samples.

    judge = open_study_judge(run, spec, images, claims, say, interrupted)

It is opened once a worker, before its first trial: the extractor behind it is trained by the
first worker that needs it, and read by all others. The study remembers which extractor its
values were measured with, and the database keeps that for its other machines; another one's values
would not compare, and are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from models.base import Model
from models.data.images import ImageSplits
from models.evaluation.gan_diagnosis import Health
from search.run import StudyRun
from search.setup.inputs import open_base
from search.study import StudySpec
from search.trials.queue import TrialQueue
from search.worker.context import WorkerContext
from storage.database.connection import study_lock
from storage.database.extractors import keep_extractor, read_extractor

if TYPE_CHECKING:
    from models.evaluation.sample_evaluator import SampleEvaluator

ATTRIBUTE, SECOND_ATTRIBUTE = "judge", "second_judge"  # of the study
SECOND = 1  # seed of the extractor that a study's own one is checked with


def open_study_judge(
    run: StudyRun,
    spec: StudySpec,
    images: ImageSplits,
    queue: TrialQueue,
    say: Callable[..., None],
    interrupted: Callable[[], bool],
) -> SampleEvaluator | None:
    """None for a study that needs none.

    Raises `ExtractorError` when the study's values were measured with another extractor,
    `Interrupted` when asked to stop while one is trained.
    """
    if not spec.judges_samples:
        return None
    encoder = open_base(run.encoder_folder)
    return _agreed(run, images, queue, say, interrupted, encoder=encoder)


def _agreed(
    run: StudyRun,
    images: ImageSplits,
    queue: TrialQueue,
    say: Callable[..., None],
    interrupted: Callable[[], bool],
    *,
    attribute: str = ATTRIBUTE,
    seed: int = 0,
    encoder: Model | None = None,
) -> SampleEvaluator:
    """The judge that all machines of the study have: whoever comes first decides."""
    from models.evaluation.sample_evaluator import (
        open_evaluator,  # what other studies need not wait for
    )

    wait_for = queue.retry.wait_for
    while True:
        known = wait_for(lambda: queue.study.user_attrs.get(attribute))
        judge = open_evaluator(
            images,
            run.paths.cache,
            encoder=encoder,
            expected=known and known["hash"],
            kept=lambda digest: wait_for(lambda: read_extractor(queue.engine, digest)),
            seed=seed,
            progress=lambda line: say("preparing", line=line),
            interrupted=interrupted,
        )
        if wait_for(partial(_remember, queue, attribute, judge)):
            return judge


def _remember(queue: TrialQueue, attribute: str, judge: SampleEvaluator) -> bool:
    """False where another machine was first, with one of its own."""
    extractor = judge.extractor
    with study_lock(queue.engine, queue.study_id):
        known = queue.study.user_attrs.get(attribute)
        if known is not None and known["hash"] != extractor.hash:
            return False
        if extractor.kind == "classifier":
            from models.evaluation.feature_cache import extractor_content

            keep_extractor(queue.engine, extractor.hash, extractor_content(extractor))
        if known is None:
            queue.study.set_user_attr(attribute, judge.record)
    return True


def told(judge: SampleEvaluator | None) -> dict[str, Any]:
    """What stands with every trial: its value says nothing without it."""
    if judge is None:
        return {}
    record = judge.record
    about = {"extractor": record["hash"][:16], "judged_samples": record["samples"]}
    if record["accuracy"] is not None:
        about["extractor_accuracy"] = round(record["accuracy"], 5)
    return about | {"floor": record["floor"]["frechet"]}


def test_judge(context: WorkerContext) -> SampleEvaluator:
    """With the same extractor, but by the test images."""
    from models.evaluation.sample_evaluator import SampleEvaluator

    assert context.judge is not None
    return SampleEvaluator(
        context.judge.extractor, context.images, part="test", count=context.judge.count
    )


def open_second(context: WorkerContext) -> SampleEvaluator:
    """A judge that has nothing in common with the study's own but the images."""
    return _agreed(
        context.run,
        context.images,
        context.queue,
        context.say,
        context.interrupted,
        attribute=SECOND_ATTRIBUTE,
        seed=SECOND,
    )


def second_opinion(
    context: WorkerContext, model: Model, history: Sequence[Health]
) -> dict[str, float]:
    """What an independent judge measures of the last epoch's samples, for a study that asks for
    it: whether the ranking is one of the models or of the extractor."""
    if context.judge is None or not context.spec.second_judge or not history:
        return {}
    second = open_second(context)
    measured = second.measure_model(model, context.images)
    about = {f"second_{name}": measured[name] for name in ("frechet", "coverage", "precision")}
    return about | {"last_frechet": history[-1].quality["frechet"]}
