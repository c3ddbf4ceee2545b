"""The model of one configuration in a dry run: built, trained, evaluated, drawn.

    tried = TriedModel(study, config, images, base, "cpu", say=print)
    tried.build()
    tried.train()                        # raises `StudyFileError` with file and line

Shape legend: N batch, C channels, H/W pixels.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import torch
from torch import Tensor

from models.base import Metrics, Model, build, evaluating
from models.data.images import EVALUATION_BATCH, Batch, Images, ImageSplits
from models.networks.pixel_range import outside_unit
from models.seeds import same_draws
from models.training.precision import training_precision
from search.errors import StudyFileError
from search.setup.mistakes import find_place
from search.study import Study
from search.trials.outcomes import is_out_of_memory
from search.worker.model_state import (
    EvaluatedState,
    idle_parameter,
    misplaced_parameters,
    state_of,
)
from search.worker.tensor_watch import BroadcastWatch, FiniteWatch, Shape, place_of

FEW = 2  # images
STEPS = 3  # after which a weight must have changed
PREVIEWS = 6  # images in a picture, where two are too few
WORDS = {"train_step": "training step", "evaluate": "evaluation"}
log = logging.getLogger("genstudy")
T = TypeVar("T")


class NotFinite(Exception):
    """A metric is NaN or infinite. Another configuration may do better."""


class TriedModel:
    """One configuration's model, and what is tried with it."""

    def __init__(
        self,
        study: Study,
        config: Any,
        images: ImageSplits,
        base: Model | None,
        device: str,
        say: Callable[[str], None],
    ) -> None:
        self.study, self.config, self.base, self.device = study, config, base, device
        self.say = say
        self.whole, self.few = images.to(device), first_images(images, FEW).to(device)

    def build(self) -> None:
        """Build the model."""
        self.say("building it")
        self.model = self.make()
        if wrong := misplaced_parameters(self.model):
            raise self.mistake("__init__", wrong)
        self.model.begin_epoch(1, self.study.spec.epochs)

    def make(self) -> Model:
        """Return the model as it begins."""
        return build(
            self.study.spec.model,
            self.config,
            self.whole.shape,
            seed=0,
            device=self.device,
            base=self.base,
        )

    def train(self) -> None:
        """Take training steps; some weight has to change."""
        self.say("a training step")
        before = [value.clone() for value in state_of(self.model)]
        images, count = self.with_few(
            lambda few: self._first_step(few, FEW),
            lambda: self._first_step(self.whole, self.model.images_per_step),
        )
        for _ in range(STEPS - 1):
            if not self._is_unchanged(before):
                break
            self._step(images, count)
        if self._is_unchanged(before):
            raise self.mistake(
                "train_step",
                f"{STEPS} steps change no weight; does loss.backward() reach the parameters of "
                "the optimiser, and does its step() follow?",
            )
        if idle := idle_parameter(self.model, before):
            raise self.mistake("__init__", idle)
        self._watch("train_step", lambda count: self._step(self.whole.train, count))

    def evaluate(self) -> None:
        """Measure validation images; the study's metric has to be among the metrics."""
        self.say("an evaluation")
        with same_draws(self.model.device), evaluating(self.model) as model:
            self.with_few(
                lambda few: model.end_epoch(few.train), lambda: model.end_epoch(self.whole.train)
            )
        self.with_few(
            lambda few: self._evaluate(few.valid, FEW),
            lambda: self._evaluate(self.whole.valid, EVALUATION_BATCH),
        )
        self._watch("evaluate", lambda count: self._evaluate(self.whole.valid, count))
        if self.study.spec.judges_samples:
            made = self.with_few(
                lambda few: self._measure("samples", FEW, few, "valid"),
                lambda: self._measure("samples", FEW, self.whole, "valid"),
            )
            if tuple(made.shape) != (FEW, *self.model.shape):
                raise self.mistake(
                    "samples", f"samples are {tuple(made.shape)}, not {(FEW, *self.model.shape)}"
                )
            if outside := outside_unit(made):
                raise self.mistake("samples", outside)

    def draw(self) -> None:
        """Draw the picture of a trial. A picture that fails for other reasons costs no trial."""
        self.say("a picture")
        try:
            with evaluating(self.model) as model, TemporaryDirectory() as folder:
                picture = self.with_few(
                    lambda few: model.preview(few, "valid", FEW),
                    lambda: model.preview(self.whole, "valid", PREVIEWS),
                )
                if picture is not None:
                    picture.draw(Path(folder) / picture.file, "dry run")
        except Exception as error:
            if find_place(error, self.study.path) == str(self.study.path):
                log.warning("the dry run has no picture: %s", error)
                return
            raise

    def _first_step(self, images: ImageSplits, count: int) -> tuple[Images, int]:
        """Return what the model trains on, after a step on ``count`` of it."""
        seen = self.model.training_set(images, seed=0)
        self._step(seen, count)
        return seen, count

    def _step(self, images: Images, count: int) -> None:
        """Take one training step on ``count`` images, and check what it returns."""
        self.model.train()
        batch = images.batch(slice(0, count))
        measured = _take_step(self.model, batch)
        self._check_metrics("train_step", measured, lambda: _take_step(self.make(), batch))

    def _is_unchanged(self, before: Sequence[Tensor]) -> bool:
        return all(map(torch.equal, state_of(self.model), before))

    def _evaluate(self, images: Images, count: int) -> None:
        batch = images.batch(slice(0, count))
        measured, model = self._measure("evaluate", batch), self.model
        with evaluating(model):
            self._check_metrics("evaluate", measured, lambda: model.evaluate(batch))
        spec = self.study.spec
        found = ", ".join(measured) or "nothing"
        for goal in () if spec.judges_samples else spec.goals:
            if not goal.is_cost and goal.name not in measured:
                raise self.mistake(
                    "evaluate", f"it returns {found}, without the study's metric {goal.name!r}"
                )
        if lacking := [name for name in model.metrics if name not in measured]:
            raise self.mistake(
                "evaluate", f"it returns {found}, without {lacking[0]!r}, which `metrics` names"
            )

    def _measure(self, method: str, *given: object) -> Any:
        """Return what a method of evaluation returns; it has to leave the model as it is."""
        with evaluating(self.model) as model:
            before = EvaluatedState.of(model)
            found = getattr(model, method)(*given)
            if changed := before.difference_from(model):
                raise self.mistake(method, changed)
        return found

    def _check_metrics(self, method: str, measured: Any, again: Callable[[], object]) -> None:
        """Raise unless these are scalars by name, and finite."""
        if not isinstance(measured, Mapping):
            kind = type(measured).__name__
            raise self.mistake(method, f"it returns {kind}, not metrics by name: {{'mse': loss}}")
        for name, value in measured.items():
            if not isinstance(value, Tensor):
                kind = type(value).__name__
                raise self.mistake(method, f"it returns {name!r} as {kind}, not as a tensor")
            if value.dim():
                raise self.mistake(
                    method,
                    f"it returns {name!r} of shape {tuple(value.shape)}, not a single number; "
                    "take its mean",
                )
        broken = {name: float(v) for name, v in measured.items() if not bool(v.isfinite())}
        if broken:
            with FiniteWatch() as watch, torch.enable_grad():
                again()
            shown = ", ".join(f"{name} is {value:g}" for name, value in broken.items())
            is_nan = any(math.isnan(value) for value in broken.values())
            place = (watch.nan if is_nan else watch.infinite) or self.place_of(method)
            raise NotFinite(f"{place}: {shown} in the first {WORDS[method]}")

    def _watch(self, method: str, run: Callable[[int], object]) -> None:
        """Raise where images are compared with each other, among two images and among three."""
        found: list[dict[str, tuple[Shape, Shape, Shape]]] = []
        for count in (FEW, FEW + 1):
            try:
                with BroadcastWatch(count) as watch:
                    run(count)
            except Exception as error:  # of a family that takes no such few, or that diverges
                log.info("%s is not watched on %d images: %s", method, count, error)
                return
            found.append(watch.found)
            if not watch.found:
                return
        for place in found[0].keys() & found[1].keys():
            one, other, both = found[0][place]
            raise StudyFileError(
                f"{place}: {one} and {other} broadcast to {both}, every image with every other; "
                "give both the same shape"
            )

    def with_few(self, few: Callable[[ImageSplits], T], whole: Callable[[], T]) -> T:
        """Return what comes of two images; where a family cannot take so few, of as many as in a
        trial."""
        try:
            return few(self.few)
        except (StudyFileError, NotFinite):
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise
            log.info("two images are too few, perhaps: %s", error)
        return whole()

    def mistake(self, method: str, words: str) -> StudyFileError:
        """Return the error that says what is wrong with a method, and where it is."""
        return StudyFileError(f"{self.place_of(method)}: {method}: {words}")

    def place_of(self, method: str) -> str:
        """Return where the user defines ``method``, or the study's file."""
        return place_of(getattr(type(self.model), method)) or str(self.study.path)


def first_images(images: ImageSplits, count: int) -> ImageSplits:
    """Return the first ``count`` images of each part."""
    index = torch.arange(count)
    return replace(
        images,
        train=images.train.take(index[: len(images.train)]),
        valid=images.valid.take(index[: len(images.valid)]),
        test=images.test.take(index[: len(images.test)]),
    )


def _take_step(model: Model, batch: Batch) -> Metrics:
    """Take one training step, in the precision that the model's configuration asks for."""
    with torch.enable_grad(), training_precision(model):
        return model.train_step(batch)
