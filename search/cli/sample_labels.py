"""The labels of the images that `make sample` makes: those asked for, and of the others the usual.

    labels = choose_labels(given, count=64, seed=0, asked="smile=1", translated=load)

A model that makes images of noise keeps labels of its training images. One that translates images
gives each the labels of the next, or keeps those that LABELS does not name. So the set has to have
the classes or attributes of the export. They are found by their names, whatever their order there.

Shape legend: N images, L labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from models.asked_labels import AskedLabels, read_labels
from models.conditional_gan import LabelledGAN
from models.data.images import Images, ImageSplits
from models.seeds import derive_seed
from search.errors import BadVariable


@dataclass(frozen=True, kw_only=True)
class GivenLabels:
    """What a model is given as labels.

    names: of the classes or attributes; empty: the export does not say
    """

    model: LabelledGAN
    names: tuple[str, ...]

    @property
    def shown(self) -> tuple[str, ...]:
        """The names that a person may use; of an export without names their numbers."""
        return self.names or tuple(map(str, range(self.model.config.labels)))

    def read(self, text: str) -> AskedLabels:
        """Return what LABELS asks for. Raises `models.errors.ConfigError`."""
        ranges = () if self.model.config.exclusive else self.model.config.ranges
        return read_labels(text, self.shown, ranges)

    def of_images(self, images: ImageSplits, part: Images, rows: Tensor) -> Tensor:
        """Return the labels of images of a set, in the model's order: (N, L).

        Raises `BadVariable` where the set does not have them.
        """
        batch = part.batch(rows)
        known = images.classes if self.model.config.exclusive else images.attribute_names
        found = batch.labels if self.model.config.exclusive else batch.attributes
        names = self.names or (known if len(known) == self.model.config.labels else ())
        wanted, there = (known, names) if self.model.config.exclusive else (names, known)
        if found is None or not names or not set(wanted) <= set(there):
            raise BadVariable(self._explain_missing(images.name))
        places = torch.tensor([there.index(name) for name in wanted], device=found.device)
        if self.model.config.exclusive:
            batch = replace(batch, labels=places[found])
        else:
            batch = replace(batch, attributes=found[:, places])
        labels: Tensor = self.model.labels(batch)
        return labels

    def _explain_missing(self, data: str) -> str:
        shown = ", ".join(self.shown[:8])
        more = f" and {len(self.shown) - 8} more" if self.shown[8:] else ""
        if self.model.config.exclusive:
            return (
                f"{data} has other classes than the export ({shown}{more}), or none: say in "
                "LABELS what its images are to become, or give other DATA"
            )
        return (
            f"{data} lacks attributes of the export ({shown}{more}): give each a value in LABELS, "
            "or give other DATA"
        )


@dataclass(frozen=True, kw_only=True)
class TranslatedImages:
    """The images that a model translates: rows (N,) of a part of a set, and those after them."""

    images: ImageSplits
    part: Images
    rows: Tensor
    following: Tensor


def choose_labels(
    given: GivenLabels,
    *,
    count: int,
    seed: int,
    asked: str | None,
    translated: Callable[[], TranslatedImages],
) -> Tensor:
    """Return labels (N, L): the usual ones, with those that were asked for.

    translated: what a model translates that has no usual labels
    """
    model = given.model
    wanted = None if asked is None else given.read(asked)
    usual = model.usual_labels(count, seed=derive_seed(seed, "labels"))
    if usual is None and wanted is not None and _says_all(wanted, given.shown):
        usual = torch.zeros(count, model.config.labels)
    if usual is None:
        found = translated()
        rows = found.following if wanted is None else found.rows
        usual = given.of_images(found.images, found.part, rows)
    return usual if wanted is None else wanted.put_on(usual)


def _says_all(asked: AskedLabels, names: Sequence[str]) -> bool:
    """Whether nothing is left of the labels that an image has."""
    return bool(asked.classes) or len(asked.attributes) == len(names)
