"""The evaluators of a study whose models are measured by their samples.

    evaluators = StudyEvaluators(run, images, queue, ...)
    evaluators.own                  # by the validation images, every epoch
    evaluators.open_for_test()      # the same features, by the test images
    evaluators.open_second()        # features of another seed, to check the ranking

An evaluator is opened once a worker, before its first trial. The feature extractor behind it is
trained by the first worker that needs it, and read by all others. The study remembers which
extractor its values were measured with, and the database keeps it for other machines. Values of
another extractor do not compare, and are refused.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from models.base import Model
from models.data.images import ImageSplits
from models.seals import is_whole_content
from search.run import StudyRun
from search.trials.queue import TrialQueue
from storage.database.extractors import keep_extractor, read_extractor
from storage.database.study_lock import study_lock

if TYPE_CHECKING:
    from models.evaluation.sample_evaluator import SampleEvaluator

ATTRIBUTE, SECOND_ATTRIBUTE = "judge", "second_judge"  # of the study
SECOND_SEED = 1  # of the extractor that a study's own one is checked with


class StudyEvaluators:
    """Opens the evaluators that all machines of a study agree on.

    encoder: an autoencoder whose codes are the features, for images without classes
    say: hears how far the training of an extractor is; tell: what a person has to know
    interrupted: asked while an extractor is trained, to end it early

    Raises `ExtractorError` when the study's values were measured with another extractor,
    `StopRequested` when asked to stop.
    """

    def __init__(
        self,
        run: StudyRun,
        images: ImageSplits,
        queue: TrialQueue,
        *,
        encoder: Model | None = None,
        say: Callable[[str], None] = lambda line: None,
        tell: Callable[[str], None] = lambda line: None,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        self.run = run
        self.images = images
        self.queue = queue
        self.say = say
        self.tell = tell
        self.interrupted = interrupted
        self.own = self._agree_on(ATTRIBUTE, seed=0, encoder=encoder)

    def open_for_test(self) -> SampleEvaluator:
        """Return an evaluator with the same features, by the test images."""
        from models.evaluation.sample_evaluator import SampleEvaluator

        return SampleEvaluator(self.own.extractor, self.images, part="test", count=self.own.count)

    def open_second(self) -> SampleEvaluator:
        """Return an evaluator that shares nothing with the study's own but the images."""
        return self._agree_on(SECOND_ATTRIBUTE, seed=SECOND_SEED)

    def measure_again(self, model: Model) -> dict[str, float]:
        """Return what the second evaluator measures, as attributes of the trial: does the ranking
        depend on the features?"""
        measured = self.open_second().measure_model(model, self.images)
        return {f"second_{name}": measured[name] for name in ("frechet", "coverage", "precision")}

    def trial_attributes(self) -> dict[str, Any]:
        """Return what stands with every trial: its value says nothing without it."""
        record = self.own.record
        about = {"extractor": record["hash"][:16], "judged_samples": record["samples"]}
        if record["accuracy"] is not None:
            about["extractor_accuracy"] = round(record["accuracy"], 5)
        return about | {"floor": record["floor"]["frechet"]}

    def _agree_on(
        self, attribute: str, *, seed: int, encoder: Model | None = None
    ) -> SampleEvaluator:
        """Return the evaluator that all machines of the study have: the first one decides."""
        from models.evaluation.sample_evaluator import open_evaluator  # other studies do not wait

        queue = self.queue
        wait_for = queue.retry.wait_for
        while True:
            known = wait_for(lambda: queue.study.user_attrs.get(attribute))
            evaluator = open_evaluator(
                self.images,
                self.run.paths.cache,
                encoder=encoder,
                expected=known and known["hash"],
                kept=lambda digest: wait_for(lambda: read_extractor(queue.engine, digest)),
                seed=seed,
                progress=self.say,
                tell=self.tell,
                interrupted=self.interrupted,
            )
            if wait_for(partial(self._remember, attribute, evaluator)):
                return evaluator

    def _remember(self, attribute: str, evaluator: SampleEvaluator) -> bool:
        """Keep the evaluator with the study. False: another machine was first, with another."""
        extractor, queue = evaluator.extractor, self.queue
        with study_lock(queue.engine, queue.study_id):
            known = queue.study.user_attrs.get(attribute)
            if known is not None and known["hash"] != extractor.hash:
                return False
            if extractor.kind == "classifier":
                from models.evaluation.feature_cache import extractor_content

                content = extractor_content(extractor)
                keep_extractor(queue.engine, extractor.hash, content, is_whole=is_whole_content)
            if known is None:
                queue.study.set_user_attr(attribute, evaluator.record)
        return True
