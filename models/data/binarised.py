"""MNIST in black and white, drawn from the grey values: the set of published likelihoods.

    DATA=binarized_mnist

Each pixel is white with the probability that its grey value says (Salakhutdinov and Murray 2008),
drawn **once** with a fixed seed, so that all trials see the same images and likelihoods compare.
The published set is such a draw, too, from other random numbers; papers that draw anew for every
batch report somewhat better values. The test images are those that the card of any VAE on MNIST
calls "binarised" (`models.analysis.elbo`). Images of another size are resized before it.

Shape legend: N images, C channels, H/W pixels.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from models.data.images import CountProgress, ImagePool, Images, Shape, resize
from models.data.torchvision_sets import TorchvisionSource
from models.seeds import derive_seed

BINARISED = "binarized_mnist"


class BinarisedSource:
    """MNIST's 60,000 + 10,000 images in black and white, 28x28x1."""

    label = BINARISED
    background = ""

    def __init__(self, root: Path) -> None:
        self.digits = TorchvisionSource("mnist", root)

    def fingerprint(self) -> str:
        return f"{BINARISED}|{self.digits.fingerprint()}"

    def read(self, shape: Shape | None, progress: CountProgress) -> ImagePool:
        pool = self.digits.read(None if shape is None else (1, *shape[1:]), progress)
        train, test = binarise(pool.train, "train"), binarise(pool.test)
        return replace(
            pool,
            train=replace(train, pixels=resize(train.pixels, shape)),  # grey becomes colours
            test=replace(test, pixels=resize(test.pixels, shape)),
        )


def binarise(images: Images, *purpose: str) -> Images:
    """Draw each value as 0 or 255, with the probability that it says; the same every time.

    purpose: what the draws are for; others are independent of them
    """
    generator = torch.Generator().manual_seed(derive_seed(0, "binarised", *purpose))
    drawn = torch.rand(images.pixels.shape, generator=generator).to(images.pixels.device)
    pixels = (drawn < images.pixels.float() / 255).to(torch.uint8) * 255
    return replace(images, pixels=pixels)


def is_binary(pixels: Tensor) -> bool:
    """Return whether all values are 0 or 255."""
    return bool(((pixels == 0) | (pixels == 255)).all())
