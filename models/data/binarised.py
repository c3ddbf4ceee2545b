"""MNIST in black and white, drawn from the grey values: the set of published likelihoods.

    DATA=binarized_mnist     # all images are drawn once
    DATA=dynamic_mnist       # training images stay grey, to be drawn anew for every batch

Each pixel is white with the probability that its grey value says (Salakhutdinov and Murray 2008),
drawn with a fixed seed, so that likelihoods of all trials compare. The published set is such a
draw, too, from other random numbers. Papers that draw the training images anew for every batch
(Burda et al. 2016) report better values: a model cannot learn them by heart. A VAE with ``redraw``
does so with grey images, while validation and test images are those of ``binarized_mnist``. The
test images are those that the card of any VAE on MNIST calls "binarised" (`models.analysis.elbo`).
Images of another size are resized before it.

Shape legend: N images, C channels, H/W pixels.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from models.data.images import (
    VALIDATION_SHARE,
    CountProgress,
    ImagePool,
    Images,
    Shape,
    cut_off,
    resize,
)
from models.data.torchvision_sets import TorchvisionSource
from models.seeds import derive_seed

BINARISED = "binarized_mnist"
DYNAMIC = "dynamic_mnist"


class BinarisedSource:
    """MNIST's 60,000 + 10,000 images in black and white, 28x28x1.

    label: BINARISED, or DYNAMIC, whose training images are grey
    """

    background = ""

    def __init__(self, root: Path, label: str = BINARISED) -> None:
        self.label = label
        self.digits = TorchvisionSource("mnist", root)

    def fingerprint(self) -> str:
        return f"{self.label}|{self.digits.fingerprint()}"

    def read(self, shape: Shape | None, progress: CountProgress) -> ImagePool:
        pool = self.digits.read(None if shape is None else (1, *shape[1:]), progress)
        train, test = binarise(pool.train, "train"), binarise(pool.test)
        valid = None
        if self.label == DYNAMIC:
            valid = _in_shape(cut_off(train, VALIDATION_SHARE, "split")[1], shape)
            train = cut_off(pool.train, VALIDATION_SHARE, "split")[0]
        return replace(
            pool, train=_in_shape(train, shape), valid=valid, test=_in_shape(test, shape)
        )


def binarise(images: Images, *purpose: str) -> Images:
    """Draw each value as 0 or 255, with the probability that it says; the same every time.

    purpose: what the draws are for; others are independent of them
    """
    generator = torch.Generator().manual_seed(derive_seed(0, "binarised", *purpose))
    drawn = torch.rand(images.pixels.shape, generator=generator).to(images.pixels.device)
    pixels = (drawn < images.pixels.float() / 255).to(torch.uint8) * 255
    return replace(images, pixels=pixels)


def _in_shape(images: Images, shape: Shape | None) -> Images:
    """Return resized images, or grey ones as colours."""
    return replace(images, pixels=resize(images.pixels, shape))


def is_binary(pixels: Tensor) -> bool:
    """Return whether all values are 0 or 255."""
    return bool(((pixels == 0) | (pixels == 255)).all())
