"""A dry run: everything that a study does with its model, once, on two images.

    make_dry_run(study, images, base, device="cpu", exports=True, say=print)

It builds the model of a random configuration, takes a training step, evaluates, draws a picture
and exports. A mistake that would have cost a night is one line with file and line of the user's
code, seconds after the command. It runs in a process of its own, whose end costs nothing.

Shape legend: N batch, C channels, H/W pixels.
"""

from __future__ import annotations

import json
import logging
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import optuna
import torch
from optuna.exceptions import TrialPruned
from optuna.samplers import RandomSampler
from torch import Tensor

from models.base import Model, build, evaluating
from models.data.images import EVALUATION_BATCH, Images, ImageSplits
from models.errors import ConfigError, ExportError
from models.export import check_export, write_export
from search.errors import StudyFileError
from search.setup.mistakes import describe_mistake, find_place
from search.study import Study
from search.trials.outcomes import is_out_of_memory
from search.worker.tensor_watch import BroadcastWatch, FiniteWatch, Shape, place_of

FEW = 2  # images
CONFIGURATIONS = 3  # that are tried where one is infeasible, or does not stay finite
STEPS = 3  # after which a weight must have changed
PREVIEWS = 6  # images in a picture, where two are too few
WORDS = {"train_step": "training step", "evaluate": "evaluation"}
log = logging.getLogger("genstudy")
T = TypeVar("T")


class NotFinite(Exception):
    """A metric is NaN or infinite. Another configuration may do better."""


def make_dry_run(
    study: Study,
    images: ImageSplits,
    base: Model | None,
    *,
    device: str,
    exports: bool,
    say: Callable[[str], None],
) -> str | None:
    """Try ``study`` on two of its ``images``; raise `StudyFileError` for a mistake.

    exports: whether the export is tried, too. say: hears what is being tried

    Returns why not all was tried: memory ran out, or no configuration is feasible. None: all was.
    """
    broken: StudyFileError | None = None
    infeasible = ""
    for seed in range(CONFIGURATIONS):
        trial = optuna.create_study(sampler=RandomSampler(seed=seed)).ask()
        try:
            config = study.spec.model.fitted(study.spec.suggest(trial), images)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the trials will say it
                _try_all(_Tried(study, config, images, base, device, say), exports=exports)
            return None
        except (TrialPruned, ConfigError) as error:
            infeasible = describe_mistake(error)
        except NotFinite as error:
            broken = StudyFileError(str(error))
        except StudyFileError:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                return "memory ran out"
            place = find_place(error, study.path)
            raise StudyFileError(f"{place}: {describe_mistake(error)}") from error
    if broken is not None:
        raise broken
    return f"none of {CONFIGURATIONS} configurations is feasible, {infeasible}"


def _try_all(tried: _Tried, *, exports: bool) -> None:
    tried.build()
    tried.train()
    tried.evaluate()
    tried.draw()
    if exports:
        tried.export()


class _Tried:
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
        before = [value.clone() for value in _state_of(self.model)]
        images, count = self._with_few(
            lambda few: self._first_step(few, FEW),
            lambda: self._first_step(self.whole, self.model.images_per_step),
        )
        for _ in range(STEPS - 1):
            if not self._is_unchanged(before):
                break
            self._step(images, count)
        if self._is_unchanged(before):
            raise self._mistake(
                "train_step",
                f"{STEPS} steps change no weight; does loss.backward() reach the parameters of "
                "the optimiser, and does its step() follow?",
            )
        self._watch("train_step", lambda count: self._step(self.whole.train, count))

    def evaluate(self) -> None:
        """Measure validation images; the study's metric has to be among the metrics."""
        self.say("an evaluation")
        self._with_few(
            lambda few: self._evaluate(few.valid, FEW),
            lambda: self._evaluate(self.whole.valid, EVALUATION_BATCH),
        )
        self._watch("evaluate", lambda count: self._evaluate(self.whole.valid, count))
        if self.study.spec.judges_samples:
            with evaluating(self.model) as model:
                made = self._with_few(
                    lambda few: model.samples(FEW, few, "valid"),
                    lambda: model.samples(FEW, self.whole, "valid"),
                )
            if tuple(made.shape) != (FEW, *model.shape):
                raise self._mistake(
                    "samples", f"samples are {tuple(made.shape)}, not {(FEW, *model.shape)}"
                )

    def draw(self) -> None:
        """Draw the picture of a trial. A picture that fails for other reasons costs no trial."""
        self.say("a picture")
        try:
            with evaluating(self.model) as model, TemporaryDirectory() as folder:
                picture = self._with_few(
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

    def export(self) -> None:
        """Export, load back and compare, where any of the exported code is the user's."""
        model = self.model
        if _exports_only_ours(model):
            return
        self.say("an export")
        for name, value in asdict(model.config).items():
            try:
                json.dumps(value)
            except (TypeError, ValueError) as error:
                raise self._mistake(
                    "__init__",
                    f"the configuration's {name}={value!r} cannot be kept as JSON ({error})",
                ) from error
        with TemporaryDirectory() as place:
            folder = Path(place)
            try:
                write_export(model, folder)
                check_export(model, folder)
            except Exception as error:
                if is_out_of_memory(error):
                    raise
                raise StudyFileError(self._export_mistake(error, folder)) from error

    def _export_mistake(self, error: Exception, folder: Path) -> str:
        place = find_place(error, self.study.path)
        if place == str(self.study.path):
            place = self._place("programs")
        words = str(
            error.__cause__ if isinstance(error, ExportError) and error.__cause__ else error
        )
        if "data-dependent" in words.lower():
            why = (
                "it decides by the values of a tensor, which no export can follow; "
                "compute both ways and choose with torch.where, or clamp"
            )
        elif isinstance(error, ExportError) and error.__cause__ is None:
            why = words.replace(str(folder), "the export")
        else:
            why = describe_mistake(error.__cause__ if isinstance(error, ExportError) else error)  # type: ignore[arg-type]
        return f"{place}: {type(self.model).__name__} cannot be exported: {why}"

    def _first_step(self, images: ImageSplits, count: int) -> tuple[Images, int]:
        """Return what the model trains on, after a step on ``count`` of it."""
        seen = self.model.training_set(images, seed=0)
        self._step(seen, count)
        return seen, count

    def _step(self, images: Images, count: int) -> None:
        """Take one training step on ``count`` images, and check what it returns."""
        self.model.train()
        batch = images.batch(slice(0, count))
        with torch.enable_grad():
            measured = self.model.train_step(batch)
        self._check_metrics("train_step", measured, lambda: self.make().train_step(batch))

    def _is_unchanged(self, before: Sequence[Tensor]) -> bool:
        return all(map(torch.equal, _state_of(self.model), before))

    def _evaluate(self, images: Images, count: int) -> None:
        batch = images.batch(slice(0, count))
        with evaluating(self.model) as model:
            measured = model.evaluate(batch)
            self._check_metrics("evaluate", measured, lambda: model.evaluate(batch))
        spec = self.study.spec
        if not spec.judges_samples and spec.metric not in measured:
            found = ", ".join(measured) or "nothing"
            raise self._mistake(
                "evaluate", f"it returns {found}, without the study's metric {spec.metric!r}"
            )

    def _check_metrics(self, method: str, measured: Any, again: Callable[[], object]) -> None:
        """Raise unless these are scalars by name, and finite."""
        if not isinstance(measured, Mapping):
            kind = type(measured).__name__
            raise self._mistake(method, f"it returns {kind}, not metrics by name: {{'mse': loss}}")
        for name, value in measured.items():
            if not isinstance(value, Tensor):
                kind = type(value).__name__
                raise self._mistake(method, f"it returns {name!r} as {kind}, not as a tensor")
            if value.dim():
                raise self._mistake(
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
            place = (watch.nan if is_nan else watch.infinite) or self._place(method)
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

    def _with_few(self, few: Callable[[ImageSplits], T], whole: Callable[[], T]) -> T:
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

    def _mistake(self, method: str, words: str) -> StudyFileError:
        return StudyFileError(f"{self._place(method)}: {method}: {words}")

    def _place(self, method: str) -> str:
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


def _state_of(model: Model) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def _exports_only_ours(model: Model) -> bool:
    """Whether none of the code that an export runs is the user's: tests have tried it then."""
    family = type(model)
    if place_of(family.__init__) or place_of(family.programs):
        return False
    modules = [part for program in model.programs().values() for part in program.module.modules()]
    return not any(place_of(type(module).forward) for module in modules)
