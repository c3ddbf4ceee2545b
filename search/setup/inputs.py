"""What a run starts with: its images, and perhaps an exported model.

    StudySpec(model=Classifier, starts_from="cae", ...)

A study may start from the export of another, as a classifier starts from an encoder. That is the
best export of the other study on the same images, in RUNS, unless FROM names a folder. A stored
study remembers which export it was, since values from another would not compare.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import astuple
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from rich.console import Console
from rich.text import Text

from models.autoencoder import Autoencoder
from models.base import Model
from models.data.images import ImageSplits, Shape
from models.data.loading import FALLBACK, find_source, open_images, prepare_images
from models.errors import DataError, DataMissing, ExtractorError, TensorFileError
from models.evaluation.encoder_check import check_encoder
from models.evaluation.features import encoder_extractor
from models.export import WEIGHTS, load_export
from models.sealed_files import whole_state
from search.console import LOUD, print_line, shorten_path
from search.errors import BadVariable, BaseMissing, StudyFileError
from search.setup.checks import check_fit
from search.setup.fetched_exports import export_place, fetch_export
from search.setup.fitting import check_needs, needs_encoder
from search.setup.folder_lines import study_lines
from search.setup.names import base_study, judging_study, study_name
from search.setup.shapes import choose_shape, is_chosen
from search.study import Study
from search.variables import Variables
from search.words import show_text
from storage.database.retry import DatabaseRetry, passes_later
from storage.files.exports import is_whole, read_provenance
from storage.files.model_card import compare_with_baseline

READINGS = 3  # of images whose cached file is damaged right after it was made


def find_base(variables: Variables, study: Study, stored_name: str) -> Path | None:
    """Return the folder of the export that ``study`` starts from; None: it starts from no other.

    Raises `BaseMissing` or `BadVariable`.

    stored_name: of the base study on these images
    """
    wanted = study.spec.starts_from
    if wanted is None:
        if variables.start is not None:
            raise BadVariable(f"FROM is given, but study {study.name!r} starts from no other")
        return None
    return _find_export(variables, stored_name, wanted, f"study {study.name!r} starts from")


def find_encoder(variables: Variables, study: Study, stored_name: str, images: ImageSplits) -> Path:
    """Return the folder of the autoencoder whose codes judge samples of images without classes.

    Raises `BaseMissing`, `BadVariable` or `StudyFileError`; an encoder in whose codes real images
    do not look real is refused.

    stored_name: of the judging study on these images
    """
    if study.spec.starts_from is not None:
        raise StudyFileError(
            f"{study.path}: the images have no classes, so that an autoencoder's export has to "
            "judge the samples; a study that starts from another's export cannot have both"
        )
    purpose = f"these images have no classes: study {study.name!r} judges samples by"
    folder = _find_export(variables, stored_name, study.spec.judged_by, purpose)
    check_judge(folder, study.spec.judged_by, images)
    return folder


def check_judge(folder: Path, study: str, images: ImageSplits) -> None:
    """Raise `BadVariable` where the codes of the export in ``folder`` cannot judge ``images``.

    study: that would make another one
    """
    model = load_export(folder)
    if not isinstance(model, Autoencoder):
        raise BadVariable(
            f"{folder} holds a {type(model).__name__}; samples are judged by the codes of an "
            "autoencoder: give the export of one with FROM"
        )
    try:
        check_encoder(encoder_extractor(model), images)
    except ExtractorError as error:
        raise BadVariable(
            f"{folder}: {error}, with FROM=folder, or search {study!r} anew on these images"
        ) from error


def describe_exports(inputs: RunInputs) -> Iterator[str]:
    """Yield which export that a study builds on has learned next to nothing."""
    purposes = {"starts from": inputs.base, "judges samples by": inputs.encoder}
    for purpose, folder in purposes.items():
        about = None if folder is None else read_provenance(folder)
        if about and (found := compare_with_baseline(about)):
            yield f"of the export that the study {purpose}: {found}; search that for longer first"


def _find_export(variables: Variables, stored_name: str, study: str, purpose: str) -> Path:
    """Return the folder FROM, or that of the best export of ``stored_name``, if it is whole."""
    folder = variables.start or variables.paths.export(stored_name, 1)
    found = read_provenance(folder)
    if found is not None and is_whole(folder, found):
        return folder
    if variables.start is not None:
        raise BaseMissing(f"FROM={folder} holds no whole export; give the folder of one")
    place = export_place(variables, stored_name)
    there = "" if place is None else f"that study keeps its own in FILES={place}: give FILES, too; "
    raise BaseMissing(
        f"{purpose} the best export of {stored_name!r}, and {folder} holds none; {there}FIRST=1 "
        f"runs {study!r} now, FROM=folder takes another export"
    )


def open_base(folder: Path | None) -> Model | None:
    """Return the exported model in ``folder``, on the CPU."""
    return None if folder is None else load_export(folder)


def describe_base(folder: Path) -> dict[str, Any]:
    """Return what tells an export from others, for trials and provenance."""
    found = read_provenance(folder) or {}
    about = {key: found.get(key) for key in ("study", "trial", "rank", "made")}
    return {**about, "weights": weights_digest(folder)}


def base_label(folder: Path | None) -> str:
    """Return ``cae trial 24 (3f2a...)``, which changes with the weights; empty without a base."""
    if folder is None:
        return ""
    about = describe_base(folder)
    return f"{about['study']} trial {about['trial']} ({about['weights'][:12]})"


def weights_digest(folder: Path) -> str:
    """Return the SHA-256 of an export's weights."""
    return hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()


class RunInputs(NamedTuple):
    """The images and exports that a run starts with.

    data: name of the set of images; cached: their file; images: its content
    base: folder of the export that every model starts from
    encoder: folder of the export that judges samples of images without classes
    source: what `prepare_images` has made the file from
    state: numbers of the state in which the file was found whole
    """

    data: str
    cached: Path
    images: ImageSplits
    base: Path | None = None
    encoder: Path | None = None
    source: Mapping[str, Any] = MappingProxyType({})
    state: tuple[int, ...] = ()

    @property
    def label(self) -> str:
        """The set's name as file names and stored studies have it."""
        return self.cached.stem.rpartition("-")[0]


def find_inputs(
    variables: Variables,
    study: Study,
    console: Console,
    retry: DatabaseRetry | None = None,
    *,
    stored_shape: Shape | None = None,
) -> RunInputs:
    """Read the images of a study and find the export that it starts from.

    stored_shape: image shape of the stored study that a worker joins
    retry: waits for a database that is away, which knows the image shape of a stored study
    The digits replace images that are missing, unless DATA asks for those.
    """
    wanted = variables.data or study.spec.data
    if not study.spec.adapts and study.spec.shape is not None:
        check_fit(study, study.spec.shape)  # before images are read, which may take an hour
    place = find_source(wanted, variables.data_root, variables.background)
    # raises for a name that no file may have
    study_name(study, wanted, place.label, variables.sampler)
    waiting = retry or DatabaseRetry()
    passes = passes_later(variables.storage_url)
    if stored_shape is not None and is_chosen(study, place):
        shape: Shape | None = stored_shape
    else:
        shape = waiting.wait_for(lambda: choose_shape(variables, study, place), passes)
    data, cached, images, state = _read_whole_images(variables, study, shape, console)
    source = {
        "name": data,
        "root": str(variables.data_root),
        "shape": shape,
        "background": variables.background,
    }
    found = RunInputs(data, cached, images, source=source, state=state)
    for line in study_lines(found.images):
        print_line(console, line)
    check_needs(study, found.images)  # before the study that this one starts from is searched
    found = _with_export(variables, study, found, console, waiting)
    check_fit(study, found.images.shape, found.images, open_base(found.base))
    return found


def _with_export(
    variables: Variables,
    study: Study,
    found: RunInputs,
    console: Console,
    waiting: DatabaseRetry,
) -> RunInputs:
    """Return the inputs with the export that the study needs: to start from, or as a judge."""
    judging = study.spec.judges_samples and needs_encoder(study, found.images)
    needed = judging_study(study) if judging else base_study(study)
    if needed and needed.spec.has_several_goals and variables.start is None:
        raise BadVariable(
            f"study {study.name!r} needs the best export of {needed.name!r}, which has several "
            "goals, so that none of its exports is the best: choose one with FROM=folder"
        )
    stored = study_name(needed, found.data, found.label) if needed else ""
    if stored and variables.start is None:
        say, passes = partial(print_line, console), passes_later(variables.storage_url)
        waiting.wait_for(lambda: fetch_export(variables, stored, 1, say), passes)
    if judging:
        return found._replace(encoder=find_encoder(variables, study, stored, found.images))
    return found._replace(base=find_base(variables, study, stored))


def _read_whole_images(
    variables: Variables, study: Study, shape: Shape | None, console: Console
) -> tuple[str, Path, ImageSplits, tuple[int, ...]]:
    """Return the name of the set, the cached file, its images, and the state of the file.

    A file that is damaged before it is opened is made again.
    """
    for attempt in range(READINGS):
        data, cached = _read_images(variables, study, shape, console)
        try:
            return data, cached, open_images(cached), astuple(whole_state(cached))
        except (DataError, TensorFileError, FileNotFoundError) as error:
            if attempt == READINGS - 1:
                raise DataError(
                    f"the cached images in {cached} are damaged again and again ({error}); check "
                    "the disk, or set RUNS to a folder on another one"
                ) from error
    raise AssertionError("the last reading returns or raises")


def _read_images(
    variables: Variables, study: Study, shape: Shape | None, console: Console
) -> tuple[str, Path]:
    """Read images into the cache; return the name of the set and the cached file."""
    wanted = variables.data or study.spec.data
    steps: dict[str, Any] = {
        "root": variables.data_root,
        "cache": variables.paths.cache,
        "shape": shape,
        "background": variables.background,
        "tell": lambda line: print_line(console, shorten_path(line)),
    }
    try:
        shown = Text(f"reading {show_text(wanted)}")
        with console.status(shown + " ...") as status:
            return wanted, prepare_images(
                wanted,
                progress=lambda done, total: status.update(shown + f": {done} of {total}"),
                **steps,
            )
    except DataMissing as error:
        if variables.data is not None:
            raise
        for line in (
            f" {error} ",
            f" RUNNING ON {FALLBACK.upper()} INSTEAD, as study "
            f"{study.name}-{FALLBACK}: its values say nothing about {wanted} ",
        ):
            print_line(console, line, LOUD)
        return FALLBACK, prepare_images(FALLBACK, **steps)
