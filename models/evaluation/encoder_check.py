"""Whether an encoder's codes can measure samples: real images must look real in them.

    check_encoder(encoder_extractor(model), images)     # raises `ExtractorError`

Training images are measured beside validation images, as samples are later. Both are real, so that
their density is 1 in any features that tell images apart (`models/evaluation/prdc.py`), and their
Fréchet distance is far below that of one image over and over. A collapsed encoder gives all images
one code, or a few, or many of them the same. Nothing that is measured in such codes means anything.

    density    of real images: 1 up to chance
    floor      Fréchet distance of real images, over that of their mean code, repeated: near 0
    distinct   codes of as many different images: as many. Where a third of all images share one
               code, the density may still be 0.6

Shape legend: N images, D features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.data.images import Images, ImageSplits
from models.data.mixed_rows import mixed_rows
from models.errors import ExtractorError, format_count
from models.evaluation.features import Extractor
from models.evaluation.frechet import Moments, frechet_distance
from models.evaluation.prdc import K, neighbourhoods, radii

MOST = 1000  # images of each part: enough to tell, and a second of work
# Sound encoders of 8 and 64 numbers, on digits, Fashion-MNIST and emoji: 0.59 to 1.44 with 6 to 20
# validation images, and 0.9 to 1.2 with hundreds.
LEAST_DENSITY, MOST_DENSITY = 0.5, 2.0
MOST_FLOOR = 0.5  # the same encoders: at most 0.23 with 50 images, and far above with fewer
ENOUGH = 50  # images of each part, for the floor to say anything
LEAST_DISTINCT = 0.9  # of different validation images; sound encoders of digits: all


@dataclass(frozen=True, kw_only=True)
class RealAgainstReal:
    """What real images get beside other real images: density, floor as a share, distinct codes.

    measured: validation images, whose codes are counted; images: in the smaller part
    """

    density: float
    floor: float
    distinct: int
    measured: int
    images: int

    @property
    def is_sound(self) -> bool:
        """Whether codes in which real images get these numbers can measure samples."""
        is_near = self.floor <= MOST_FLOOR or self.images < ENOUGH
        is_told = self.distinct >= LEAST_DISTINCT * self.measured
        return LEAST_DENSITY <= self.density <= MOST_DENSITY and is_near and is_told

    def describe(self) -> str:
        """Return the numbers, and what they should be, in words."""
        codes = format_count(self.distinct, "different code")
        return (
            f"{self.measured:,} different images have {codes}; beside other real images their "
            f"density is {self.density:.2f} ({LEAST_DENSITY:g} to {MOST_DENSITY:g} is sound) and "
            f"their Fréchet distance {self.floor:.2f} of that of a single code ({MOST_FLOOR:g} or "
            "less is sound)"
        )


def check_encoder(extractor: Extractor, images: ImageSplits) -> None:
    """Raise `ExtractorError` where real images do not look real in the codes of ``extractor``."""
    found = measure_encoder(extractor, images)
    if not found.is_sound:
        name = type(extractor.model).__name__
        raise ExtractorError(
            f"the codes of this {name} cannot measure samples: {found.describe()}; give the "
            "export of an autoencoder that tells these images apart"
        )


def measure_encoder(extractor: Extractor, images: ImageSplits) -> RealAgainstReal:
    """Return what training images get beside validation images; of copies, one counts."""
    real = extractor(_draw_distinct(images, "valid")).features
    others = extractor(_draw_distinct(images, "train")).features
    if not bool(real.isfinite().all() and others.isfinite().all()):
        return RealAgainstReal(
            density=np.nan, floor=np.nan, distinct=0, measured=len(real), images=len(real)
        )
    found = neighbourhoods(real, radii(real), others, radii(others))
    moments = Moments.of(real)
    alone = Moments(moments.mean, np.zeros_like(moments.covariance))
    repeated = frechet_distance(moments, alone)
    floor = frechet_distance(moments, Moments.of(others))
    return RealAgainstReal(
        density=float(found["density"]),
        floor=floor / repeated if repeated > 0 else float("inf"),
        distinct=len(torch.unique(real, dim=0)),
        measured=len(real),
        images=min(len(real), len(others)),
    )


def _draw_distinct(images: ImageSplits, part: str) -> Tensor:
    """Return images of a part without copies, at most `MOST`: (N, C, H, W) uint8."""
    found: Images = getattr(images, part)
    pixels = found.pixels[mixed_rows(images, part, MOST)]
    distinct = torch.unique(pixels.flatten(1), dim=0).view(-1, *pixels.shape[1:])
    return distinct if len(distinct) > K else pixels
