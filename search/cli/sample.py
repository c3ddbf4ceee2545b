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
from models.data.loading import load_images
from models.errors import ForeignFamily
from models.export import load_export
from models.program_files import read_metadata
from models.seeds import derive_seed
from search.cli.found_export import FoundExport, find_export
from search.cli.sample_files import check_place, write_samples
from search.cli.sample_labels import GivenLabels, TranslatedImages, choose_labels
from search.console import open_console, print_line, shorten_path
from search.errors import BadVariable
from search.spelling import spell
from search.variables import Variables, given_names, read_variables
from search.words import format_count

PROGRAMS = ("generator", "encoder")  # of a family that makes images out of images
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


class SampleMaker:
    """Makes images with one export, as the variables ask for them."""

    def __init__(self, export: FoundExport, variables: Variables) -> None:
        self.export = export
        self.variables = variables
        self.seed = variables.seed or 0
        self.labels: Tensor | None = None  # (N, L) of the images, once they are made
        self.given: GivenLabels | None = None  # what the model takes as labels
        self.model = _load_model(export, variables)
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

    def _rows(self, part: Images, count: int, *, ahead: bool = False) -> Tensor:
        """Return places in ``part``, each once before any comes again: (count,); see
        `order_rows`."""
        return order_rows(len(part), count, seed=self.seed, ahead=ahead)

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
            background=self._background(),
        )

    def _background(self) -> str:
        """Return what shows through where images are transparent: in training, unless BACKGROUND
        says otherwise."""
        found = self.export.provenance.get("background") or prepared_on(self.export.folder)
        is_asked = "BACKGROUND" in given_names() or not found
        return self.variables.background if is_asked else str(found)

    def _translated(self) -> TranslatedImages:
        """Return the images of `_real_images`, and those whose labels they may be given."""
        part, count = self._images.valid, self.variables.n
        return TranslatedImages(
            images=self._images,
            part=part,
            rows=self._rows(part, count),
            following=self._rows(part, count, ahead=True),
        )


def _load_model(export: FoundExport, variables: Variables) -> Model:
    """Return the exported model. Raises `BadVariable` where only its study file has its class."""
    try:
        return load_export(
            export.folder, family=None if export.study is None else export.study.spec.model
        )
    except ForeignFamily:
        if export.study is not None or not (file := export.provenance.get("study_file")):
            raise
        place = {} if variables.start is None else {"FROM": variables.start}
        raise BadVariable(
            f"{export.title} needs the study file that defines its model: "
            f"{spell('sample', NAME=file, **place)}"
        ) from None


def order_rows(images: int, count: int, *, seed: int, ahead: bool) -> Tensor:
    """Return places of images in an order of the seed's, all before any again: (count,).

    images: how many there are
    ahead: for each of them the next one; each time that it comes again the one after that, and
        itself only where it is alone
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, "images"))
    order = torch.randperm(images, generator=generator)
    places = torch.arange(count)
    if ahead:
        places = places + 1 + places // images % max(images - 1, 1)
    return order[places % images]


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


def prepared_on(folder: Path) -> str | None:
    """Return the background of an older export's images, as its first program says; None: it does
    not."""
    for program in PROGRAMS:
        if said := read_metadata(folder, program).get("preparation"):
            return json.loads(said).get("background")  # type: ignore[no-any-return]
    return None


def check_room(count: int, shape: Shape) -> None:
    """Raise `BadVariable` where ``count`` images do not fit into free memory."""
    needed = count * prod(shape) * EACH
    free = psutil.virtual_memory().available
    if needed > free:
        raise BadVariable(
            f"N={count} images of {'x'.join(map(str, shape))} need {needed / 2**30:.1f} GiB of "
            f"memory, and {free / 2**30:.1f} are free; ask for fewer, with another SEED each time"
        )
