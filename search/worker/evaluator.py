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
from typing import TYPE_CHECKING, Any, TypeVar

from models.base import Model
from models.data.images import ImageSplits
from models.needs import is_unclassed
from models.seals import is_whole_content
from search.run import StudyRun
from search.trials.queue import TrialQueue
from storage.database.extractors import keep_extractor, read_extractor
from storage.database.study_lock import study_lock

if TYPE_CHECKING:
    from models.evaluation.feature_cache import ExtractorRequest
    from models.evaluation.features import Extractor
    from models.evaluation.sample_evaluator import SampleEvaluator

T = TypeVar("T")
ATTRIBUTE, SECOND_ATTRIBUTE, LABEL_ATTRIBUTE = "judge", "second_judge", "label_judge"  # of a study
SECOND_SEED = 1  # of the extractor that a study's own one is checked with


class StudyEvaluators:
    """Opens the evaluators that all machines of a study agree on.

    encoder: an autoencoder whose codes are the features, for images without classes
    labelled: whether the models are given labels
    keeps: whether an extractor that the study lacks is kept with it
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
        labelled: bool = False,
        keeps: bool = True,
        say: Callable[[str], None] = lambda line: None,
        tell: Callable[[str], None] = lambda line: None,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        self.run = run
        self.images = images
        self.queue = queue
        self.keeps = keeps
        self.say = say
        self.tell = tell
        self.interrupted = interrupted
        self.labelled = labelled
        has_attributes = images.train.attributes is not None
        self.attributes = self._agree_on_attributes() if labelled and has_attributes else None
        self.own = self._agree_on(ATTRIBUTE, seed=0, encoder=encoder)

    def open_for_test(self) -> SampleEvaluator:
        """Return an evaluator with the same features, by the test images."""
        from models.evaluation.sample_evaluator import SampleEvaluator

        own = self.own
        telling = None if own.labels is None else own.labels.extractor
        return SampleEvaluator(
            own.extractor, self.images, part="test", count=own.count, telling=telling
        )

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
        for name in ("label_frechet", "label_accuracy"):
            if name in record["floor"]:
                about[f"{name}_floor"] = record["floor"][name]
        return about | {"floor": record["floor"]["frechet"]}

    def _agree_on(
        self, attribute: str, *, seed: int, encoder: Model | None = None
    ) -> SampleEvaluator:
        """Return the evaluator that all machines of the study have: the first one decides."""
        from models.evaluation.sample_evaluator import open_evaluator  # other studies do not wait

        attributes = self.attributes if attribute == ATTRIBUTE else None

        def open_expected(expected: str | None) -> SampleEvaluator:
            extractor = self._open_extractor(expected, seed, encoder, attributes)
            tells = self.labelled and attribute == ATTRIBUTE
            return open_evaluator(
                extractor, self.images, telling=(attributes or extractor) if tells else None
            )

        return self._agree(attribute, open_expected, lambda found: (found.extractor, found.record))

    def _open_extractor(
        self, expected: str | None, seed: int, encoder: Model | None, attributes: Extractor | None
    ) -> Extractor:
        """Return what gives the features: an encoder, or a classifier.

        attributes: tells the attributes of images; its features stand in for those of classes that
            are not there

        Raises `ExtractorError` for an encoder in whose codes real images do not look real.
        """
        from models.evaluation.encoder_check import check_encoder
        from models.evaluation.feature_cache import make_extractor
        from models.evaluation.features import encoder_extractor

        if encoder is not None:
            found = encoder_extractor(
                encoder.to(self.images.train.pixels.device), expected=expected
            )
            check_encoder(found, self.images)
            return found
        if attributes is not None and is_unclassed(self.images):
            return attributes
        return make_extractor(
            self.images, self.run.paths.cache, seed=seed, request=self._request(expected)
        )

    def _agree_on_attributes(self) -> Extractor:
        """Return the classifier of attributes that all machines of the study have."""
        from models.evaluation.feature_cache import make_extractor

        def make_expected(expected: str | None) -> Extractor:
            return make_extractor(
                self.images,
                self.run.paths.cache,
                of_attributes=True,
                request=self._request(expected),
            )

        return self._agree(LABEL_ATTRIBUTE, make_expected, lambda found: (found, found.record))

    def _request(self, expected: str | None) -> ExtractorRequest:
        """Return which extractor is made, or fetched if it is the expected one."""
        from models.evaluation.feature_cache import ExtractorRequest

        queue = self.queue
        wait_for = queue.retry.wait_for
        return ExtractorRequest(
            expected=expected,
            kept=lambda digest: wait_for(lambda: read_extractor(queue.engine, digest)),
            progress=self.say,
            tell=self.tell,
            interrupted=self.interrupted,
        )

    def _agree(
        self,
        attribute: str,
        make: Callable[[str | None], T],
        describe: Callable[[T], tuple[Extractor, dict[str, Any]]],
    ) -> T:
        """Return what all machines of the study have: the first one decides.

        make: makes it, with the expected hash; describe: gives its extractor and its record
        """
        wait_for = self.queue.retry.wait_for
        while True:
            known = wait_for(lambda: self.queue.study.user_attrs.get(attribute))
            made = make(known and known["hash"])
            if wait_for(partial(self._remember, attribute, *describe(made))):
                return made

    def _remember(self, attribute: str, extractor: Extractor, record: dict[str, Any]) -> bool:
        """Keep an extractor with the study. False: another machine was first, with another."""
        if not self.keeps:
            return True  # it is the study's, or the study has none
        queue = self.queue
        with study_lock(queue.engine, queue.study_id):
            known = queue.study.user_attrs.get(attribute)
            if known is not None and known["hash"] != extractor.hash:
                return False
            if extractor.kind != "encoder":
                from models.evaluation.feature_cache import extractor_content

                content = extractor_content(extractor)
                keep_extractor(queue.engine, extractor.hash, content, is_whole=is_whole_content)
            if known is None:
                queue.study.set_user_attr(attribute, record)
        return True
