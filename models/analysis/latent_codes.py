"""The codes of one part of an image set, and what tells their colours in pictures.

Shape legend: N images, C channels, H/W pixels, Z latent width.
"""

from __future__ import annotations

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

EQUAL = 1e-6  # of the largest code: codes that differ by less are equal


@dataclass(frozen=True, kw_only=True)
class Codes:
    """The codes of one part of a set.

    values: (N, Z) float64 on the host; where: "test" or "validation"
    """

    model: LatentModel
    values: Array
    coloring: Coloring
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
    def equal(self) -> bool:
        """True if all images have the same code: all units are dead, or there is one image."""
        spread = np.ptp(self.values, axis=0).max()
        return bool(spread <= EQUAL * np.abs(self.values).max())

    def decode(self, codes: Array) -> Tensor:
        """(n, Z) -> images (n, C, H, W) in [0, 1], on the host."""
        taken = torch.from_numpy(codes).to(self.model.device, torch.float32)
        return self.model.decode(taken).cpu()


def coloring(images: ImageSplits, part: Images) -> Coloring:
    """Return what points are coloured by: the class, else the first attribute, else nothing.

    An attribute with one value or two counts as classes, one with more as a scale.
    """
    if part.labels is not None:
        return Coloring(by="class", values=part.labels.cpu().numpy(), names=images.classes)
    if part.attributes is None:
        return Coloring(by="", values=np.zeros(len(part), dtype=int))
    name = images.attribute_names[0]
    values = part.attributes[:, 0].cpu().numpy()
    found, index = np.unique(values, return_inverse=True)
    if len(found) > 2:
        return Coloring(by=name, values=values)
    return Coloring(by=name, values=index, names=tuple(f"{name} = {value:g}" for value in found))
