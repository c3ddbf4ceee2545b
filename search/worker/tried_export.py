"""The export of a model in a dry run, and the tables and pictures that go with it.

    tried = TriedExport(model)           # a `TriedModel` that is built
    tried.export()                       # raises `StudyFileError` with file and line
    tried.show()

Only a user's own code is tried: tests have tried genstudy's.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from models.base import Model, evaluating
from models.data.images import ImageSplits
from models.errors import ExportError, is_shortage
from models.export import check_export, load_export, on_cpu, write_export
from models.results import Picture, Table
from models.seeds import same_draws
from search.errors import StudyFileError
from search.setup.mistakes import describe_mistake, find_place
from search.trials.outcomes import is_out_of_memory
from search.worker.tensor_watch import place_of
from search.worker.tried_model import FEW, TriedModel, first_images

SAME = 1e-3  # of pixels in [0, 1]: how far samples of equal models may be apart
SHOWN = 64  # images of each part, of which an own model makes its tables and pictures
log = logging.getLogger("genstudy")


class TriedExport:
    """What an export is made of, for one model."""

    def __init__(self, tried: TriedModel) -> None:
        self.tried = tried
        self.model = tried.model
        self.path = tried.study.path

    def export(self) -> None:
        """Export, load back and compare, where any of the exported code is the user's."""
        model = self.model
        if _exports_only_ours(model):
            return
        self.tried.say("an export")
        for name, value in asdict(model.config).items():
            try:
                json.dumps(value)
            except (TypeError, ValueError) as error:
                raise self.tried.mistake(
                    "__init__",
                    f"the configuration's {name}={value!r} cannot be kept as JSON ({error})",
                ) from error
        with TemporaryDirectory() as place:
            folder = Path(place)
            try:
                with same_draws(model.device), evaluating(model):
                    model.prepare_export(self.tried.whole)
                write_export(model, folder)
                check_export(model, folder)
                if self.tried.study.spec.judges_samples:
                    self._compare_samples(folder)
            except StudyFileError:
                raise
            except Exception as error:
                if is_out_of_memory(error) or is_shortage(error):
                    raise
                raise StudyFileError(self._export_mistake(error, folder)) from error

    def _compare_samples(self, folder: Path) -> None:
        """Raise where a loaded model makes other samples than the live one, of the same draws."""
        loaded = load_export(folder, family=type(self.model))
        with on_cpu(self.model):
            one, again = (self._draw_samples(self.model) for _ in range(2))
            other = self._draw_samples(loaded)
        apart = float((one - other).abs().max())
        if torch.equal(one, again) and not apart <= SAME:  # else no seed of torch's decides them
            raise self.tried.mistake(
                "samples",
                f"a loaded export makes other samples than the live model, {apart:.2g} apart: "
                "something they depend on is no parameter and no buffer; register it as a buffer",
            )

    def _draw_samples(self, model: Model) -> Tensor:
        with same_draws("cpu"), evaluating(model):
            return self.tried.with_few(
                lambda few: model.samples(FEW, few.to("cpu"), "valid"),
                lambda: model.samples(FEW, self.tried.whole.to("cpu"), "valid"),
            )

    def show(self) -> None:
        """Make the tables and pictures of an export, where the user has written what makes them.

        A winner trains for hours before these are made for the first time.
        """
        family = type(self.model)
        some = first_images(self.tried.whole, SHOWN)
        with evaluating(self.model) as model:
            if place_of(family.tables):
                self.tried.say("the tables of an export")
                self._show_some(lambda seen: self._make_tables(model, seen), some)
            if place_of(family.pictures):
                self.tried.say("the pictures of an export")
                self._show_some(lambda seen: self._draw_pictures(model, seen), some)

    def _show_some(self, make: Callable[[ImageSplits], None], some: ImageSplits) -> None:
        """Raise what fails in the user's code of ``some`` images, and of all of them, too."""
        try:
            self.tried.with_few(lambda _: make(some), lambda: make(self.tried.whole))
        except StudyFileError:
            raise
        except Exception as error:
            if find_place(error, self.path) != str(self.path):
                raise
            log.warning("the dry run has no answer: %s", error)

    def _make_tables(self, model: Model, images: ImageSplits) -> None:
        made: Iterator[object] = model.tables(images, lambda what: None)
        for table in made:
            if not isinstance(table, Table):
                raise self.tried.mistake("tables", f"it yields {type(table).__name__}, not a Table")

    def _draw_pictures(self, model: Model, images: ImageSplits) -> None:
        with TemporaryDirectory() as folder:
            made: Iterator[object] = model.pictures(images, "test")
            for picture in made:
                if not isinstance(picture, Picture):
                    kind = type(picture).__name__
                    raise self.tried.mistake("pictures", f"it yields {kind}, not a Picture")
                picture.draw(Path(folder) / picture.file, "dry run")

    def _export_mistake(self, error: Exception, folder: Path) -> str:
        place = find_place(error, self.path)
        if place == str(self.path):
            place = self.tried.place_of("programs")
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


def _exports_only_ours(model: Model) -> bool:
    """Whether none of the code that an export runs is the user's: tests have tried it then."""
    family = type(model)
    made_by = (family.__init__, family.programs, family.prepare_export)
    if any(place_of(method) for method in made_by):
        return False
    modules = [part for program in model.programs().values() for part in program.module.modules()]
    return not any(place_of(type(module).forward) for module in modules)
