"""`make sample NAME=gan_balance RANK=1 N=64`: images that an exported model makes.

    make sample NAME=vae N=100 SEED=7 OUT=~/made       # a folder: an image a file
    make sample NAME=acgan LABELS=boot,bag             # classes, in turn
    make sample NAME=stargan LABELS='smile=1,beard=0'  # attributes
    make sample NAME=gan_balance OUT=samples.png       # one picture of all

GANs and VAEs make them of draws from their prior. An autoencoder has none: its codes are drawn from
the Gaussian that fits the codes of its images. A StarGAN translates images of its own set, or of
DATA, each to the labels of the next one where LABELS says nothing. The same SEED makes the same
images.

Shape legend: N images, C channels, H/W pixels, L labels.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from math import prod
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor

from models.base import AskedSamples, Model, evaluating
from models.conditional_gan import LabelledGAN
from models.data.images import Images, ImageSplits, Shape
from models.data.loading import find_source, load_images
from models.export import load_export
from models.program_files import read_metadata
from models.results import file_stem
from models.seeds import derive_seed
from search.cli.sample_files import check_place, write_samples
from search.cli.sample_labels import GivenLabels, TranslatedImages, choose_labels
from search.console import open_console, print_line, shorten_path
from search.errors import BadVariable, UnknownStudy
from search.setup.fetched_exports import export_place, fetch_export
from search.setup.loading import load_study
from search.setup.names import study_name
from search.spelling import spell
from search.study import Study
from search.trials.stored_names import find_stored_name, is_path
from search.variables import Variables, read_variables
from search.words import format_count
from storage.errors import StorageError, suggest_name
from storage.files.exports import read_provenance

FITTED = 10_000  # images whose codes a Gaussian is fitted to, at most
EACH = 12  # bytes of a value: as it is made, beside the others, and as it is written


def sample() -> int:
    """Make images with the export of NAME, or the one in FROM, and say where they are."""
    console, variables = open_console(), read_variables()
    export = find_export(variables, partial(print_line, console))
    place = variables.out or export.place
    check_place(place)
    maker = SampleMaker(export, variables)
    with console.status(f"making {format_count(variables.n, 'image')} ..."):
        images = maker.make()
    written = write_samples(place, images, maker.describe())
    size = " x ".join(str(side) for side in images.shape[2:])
    print_line(
        console,
        f"{format_count(len(images), 'image')} ({size}) of {export.title}, seed {maker.seed}: "
        f"{shorten_path(written)}",
    )
    return 0


@dataclass(frozen=True)
class FoundExport:
    """An export, and how it was found.

    study: whose file NAME names; None: NAME is the name of a stored study, or there is none
    place: where its samples belong
    """

    folder: Path
    study: Study | None
    place: Path
    provenance: dict[str, Any]

    @property
    def title(self) -> str:
        """What it is, in words."""
        about = self.provenance
        return f"{about.get('study', self.folder)} trial {about.get('trial', '?')}"


def find_export(variables: Variables, say: Callable[[str], None]) -> FoundExport:
    """Return the export that is asked for; raises `BadVariable`.

    say: hears where an export of another machine is brought to
    """
    paths, rank = variables.paths, variables.rank
    if variables.start is not None:
        study = None if variables.name is None else load_study(variables.name)
        found = read_provenance(variables.start) or {}
        place = paths.samples(file_stem(str(found.get("study") or variables.start.name)), rank)
        return FoundExport(variables.start, study, place, found)
    name, study = variables.need_name("sample"), None
    try:
        study = load_study(name)
        data = variables.data or study.spec.data
        label = find_source(data, variables.data_root, variables.background).label
        name = _choose_stored(variables, study_name(study, data, label))
        fetch_export(variables, name, rank, say)
    except UnknownStudy:  # a study in the database may have no file of its own: cae-digits
        fetch_export(variables, name, rank, say)
        if not paths.exports(name).is_dir():
            if is_path(name) or not (hint := suggest_name(name, _exported(variables))):
                raise
            root = shorten_path(paths.root)
            raise UnknownStudy(f"no export of {name!r} under RUNS={root}; {hint.strip()}") from None
    folder = paths.export(name, rank)
    if not folder.is_dir():
        raise BadVariable(_explain_missing(variables, name, rank))
    return FoundExport(folder, study, paths.samples(name, rank), read_provenance(folder) or {})


def _choose_stored(variables: Variables, name: str) -> str:
    """Return ``name``, unless it has no exports here and DATA is not given: then the only stored
    study that was begun with the file of that name.

    Exports are files: without a trial database the name stays.
    """
    if variables.data is not None or variables.paths.exports(name).is_dir():
        return name
    try:
        return find_stored_name(variables.storage_url, name)
    except StorageError:
        return name


def _exported(variables: Variables) -> list[str]:
    """Return the names of the studies that have exports here."""
    exports = variables.paths.root / "exports"
    return sorted(path.name for path in exports.glob("*") if path.is_dir())


def _explain_missing(variables: Variables, name: str, rank: int) -> str:
    """Say which exports there are."""
    exports = variables.paths.root / "exports"
    here = sorted(int(path.name) for path in exports.glob(f"{name}/*") if path.name.isdecimal())
    if here:
        return f"RANK={rank}: {name} has exports of rank {', '.join(map(str, here))}"
    others = _exported(variables)
    hint = suggest_name(name, others)
    there = f"; {hint}there are exports of {', '.join(others[:8])}" if others else ""
    if (place := export_place(variables, name)) is not None:
        there += f"; the study keeps its exports in FILES={place}: give FILES, too"
        return f"no export of {name} under RUNS={shorten_path(variables.paths.root)}{there}"
    return (
        f"no export of {name} under RUNS={shorten_path(variables.paths.root)}{there}; "
        f"{spell('study', NAME=variables.name)} makes them"
    )


class SampleMaker:
    """Makes images with one export, as the variables ask for them."""

    def __init__(self, export: FoundExport, variables: Variables) -> None:
        self.export = export
        self.variables = variables
        self.seed = variables.seed or 0
        self.labels: Tensor | None = None  # (N, L) of the images, once they are made
        self.given: GivenLabels | None = None  # what the model takes as labels
        self.model = load_export(
            export.folder, family=None if export.study is None else export.study.spec.model
        )
        family = type(self.model)
        if family.make is Model.make:
            raise BadVariable(f"{export.title} is a {family.__name__}, which makes no images")
        if isinstance(self.model, LabelledGAN):
            self.given = GivenLabels(model=self.model, names=_label_names(self.model, export))
        elif variables.labels is not None:
            raise BadVariable(
                f"LABELS is given, but {export.title} is a {family.__name__}, which takes none"
            )
        check_room(variables.n, self.model.shape)

    def make(self) -> Tensor:
        """Return the images (N, C, H, W) in [0, 1]."""
        real = self._real_images() if self.model.makes_from_images else None
        if self.given is not None:
            self.labels = choose_labels(
                self.given,
                count=self.variables.n,
                seed=self.seed,
                asked=self.variables.labels,
                translated=self._translated,
            )
        with evaluating(self.model):
            made = self.model.make(
                AskedSamples(
                    count=self.variables.n, seed=self.seed, labels=self.labels, images=real
                )
            )
        return made.cpu()

    def describe(self) -> dict[str, Any]:
        """Return what is kept beside the images."""
        about = self.export.provenance
        kept = {name: about.get(name) for name in ("study", "trial", "made")}
        labels = None if self.given is None else [*self.given.shown]
        values = None if self.labels is None else self.labels.tolist()
        return {**kept, "seed": self.seed, "labels": labels, "values": values}

    def _real_images(self) -> Tensor:
        """Return the images that new ones are made of, in an order of the seed's.

        Of an autoencoder these are training images; what is translated was not trained on.
        """
        translates = self.given is not None
        part = self._images.valid if translates else self._images.train
        count = self.variables.n if translates else min(FITTED, len(part))
        return part.batch(self._rows(part, count)).images

    def _rows(self, part: Images, count: int) -> Tensor:
        """Return places in ``part``, each once before any comes again: (count,)."""
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "images"))
        order = torch.randperm(len(part), generator=generator)
        return order[torch.arange(count) % len(part)]

    @cached_property
    def _images(self) -> ImageSplits:
        """The set that the export was trained on, or DATA, as the model takes it."""
        name = self.variables.data or str(self.export.provenance.get("data", ""))
        if not name:
            raise BadVariable(
                f"{self.export.folder} does not say which images it was trained on; give DATA"
            )
        return load_images(
            name,
            root=self.variables.data_root,
            cache=self.variables.paths.cache,
            shape=self.model.shape,
            background=self.variables.background,
        )

    def _translated(self) -> TranslatedImages:
        """Return the images of `_real_images`, and those whose labels they may be given."""
        part, count = self._images.valid, self.variables.n
        rows = self._rows(part, count + 1)
        return TranslatedImages(images=self._images, part=part, rows=rows[:-1], following=rows[1:])


def _label_names(model: LabelledGAN, export: FoundExport) -> tuple[str, ...]:
    """Return the names of the labels in their order; nothing of an export that does not say.

    Older exports say them in the metadata of their programs alone. The attributes in a provenance
    are sorted.
    """
    kind = "classes" if model.config.exclusive else "attributes"
    found = export.provenance.get("label_names") or json.loads(
        read_metadata(export.folder, "generator").get(kind, "[]")
    )
    names = tuple(str(name) for name in found)
    return names if len(names) == model.config.labels else ()


def check_room(count: int, shape: Shape) -> None:
    """Raise `BadVariable` where ``count`` images do not fit into free memory."""
    needed = count * prod(shape) * EACH
    free = psutil.virtual_memory().available
    if needed > free:
        raise BadVariable(
            f"N={count} images of {'x'.join(map(str, shape))} need {needed / 2**30:.1f} GiB of "
            f"memory, and {free / 2**30:.1f} are free; ask for fewer, with another SEED each time"
        )
