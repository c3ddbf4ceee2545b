"""The codes of one part of an image set, and what tells their colours in pictures.

Shape legend: N images, C channels, H/W pixels, Z latent width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.analysis.latent_models import LatentModel
from models.data.images import Images, ImageSplits
from models.errors import format_count
from models.figures.latent import Coloring

Array = np.ndarray[Any, np.dtype[Any]]

PANELS = 40  # colorings of a picture; CelebA has as many attributes
NAMED = 6  # colorings that a caption names
EQUAL = 1e-6  # of the largest code: codes that differ by less are equal


@dataclass(frozen=True, kw_only=True)
class Codes:
    """The codes of one part of a set.

    values: (N, Z) float64 on the host; where: "test" or "validation"
    colorings: one or more; pictures that have room for one show the first
    """

    model: LatentModel
    values: Array
    colorings: tuple[Coloring, ...]
    where: str

    @property
    def count(self) -> int:
        return len(self.values)

    @property
    def width(self) -> int:
        return int(self.values.shape[1])

    @property
    def images(self) -> str:
        """The number of images and their part, in words."""
        return format_count(self.count, f"{self.where} image")

    @property
    def coloring(self) -> Coloring:
        return self.colorings[0]

    @property
    def equal(self) -> bool:
        """True if all images have the same code: all units are dead, or there is one image."""
        spread = np.ptp(self.values, axis=0).max()
        return bool(spread <= EQUAL * np.abs(self.values).max())

    def decode(self, codes: Array) -> Tensor:
        """(n, Z) -> images (n, C, H, W) in [0, 1], on the host."""
        taken = torch.from_numpy(codes).to(self.model.device, torch.float32)
        return self.model.decode(taken).cpu()


def colorings(images: ImageSplits, part: Images) -> tuple[Coloring, ...]:
    """Return what points are coloured by: the class and each attribute, or else nothing.

    There are `PANELS` at most.
    """
    found = []
    if part.labels is not None:
        labels = part.labels.cpu().numpy()
        found.append(Coloring(by="class", values=labels, names=images.classes))
    if part.attributes is not None:
        columns = part.attributes.cpu().numpy().T  # (A, N)
        found += [
            attribute_coloring(name, values)
            for name, values in zip(images.attribute_names, columns, strict=True)
        ]
    plain = Coloring(by="", values=np.zeros(len(part), dtype=int))
    return tuple(found[:PANELS]) or (plain,)


def attribute_coloring(name: str, values: Array) -> Coloring:
    """Return the coloring by an attribute (N,): by classes where it has one value or two, by a
    scale where it has more."""
    found, index = np.unique(values, return_inverse=True)
    if len(found) > 2:
        return Coloring(by=name, values=values)
    return Coloring(by=name, values=index, names=tuple(f"{name} = {value:g}" for value in found))


def coloured_by(colorings: Sequence[Coloring]) -> str:
    """Return the words that a caption of coloured points ends with."""
    names = [coloring.by for coloring in colorings if coloring.by]
    if len(names) > NAMED:
        return f", coloured by {names[0]} and {len(names) - 1} others"
    *others, last = names or [""]
    words = f"{', '.join(others)} and {last}" if others else last
    return f", coloured by {words}" if words else ""
