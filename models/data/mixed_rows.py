"""Which images stand for a whole part of a set, where not all are taken.

    rows = mixed_rows(images, "test", 5000)      # (5000,)

A part that a set has itself may be in any order. A folder is read class by class. The first half of
MNIST's test images comes from other writers than the second: beside those 5,000, real training
images have a kernel distance of 1.1 and a coverage of 0.93, and beside 5,000 random ones 0.02 and
0.96 (features of a small classifier, 97 % of the validation images right). So random images are
taken, the same every time. A part that was cut off at random is in random order already: there the
first images are taken, so that values of before stay what they were.

Shape legend: N images of a part.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.data.images import Batch, Images, ImageSplits
from models.seeds import derive_seed


def mixed_rows(images: ImageSplits, part: str, count: int, of: Tensor | None = None) -> Tensor:
    """Return ``count`` rows of a part ("train", "valid" or "test"), or all if there are no more.

    of: the rows (N,) that are chosen from, such as those of a class; None: all
    """
    found: Images = getattr(images, part)
    rows = torch.arange(len(found), device=found.pixels.device) if of is None else of
    if count < len(rows) and has_own_order(images, part):
        generator = torch.Generator().manual_seed(derive_seed(0, "mixed rows"))
        rows = rows[torch.randperm(len(rows), generator=generator).to(rows.device)]
    return rows[:count]


def shown_images(images: ImageSplits, part: str, count: int) -> Batch:
    """Return ``count`` images of a part for a picture, or all if there are no more."""
    found: Images = getattr(images, part)
    return found.batch(mixed_rows(images, part, count))


def has_own_order(images: ImageSplits, part: str) -> bool:
    """Whether a part is in the order of its set, and not in a random one.

    Training images are in a random order as soon as others were cut off them.
    """
    if images.folder is None:
        return part == "test"
    own = images.folder.counts
    return part in own and (part != "train" or {"valid", "test"} <= own.keys())
