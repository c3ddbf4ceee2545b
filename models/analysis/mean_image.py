"""What the mean training image scores as the reconstruction of every image.

    found = mean_image_errors(images, "test")      # {"mse": 0.087, "bce": 0.42}

A model whose reconstructions are no better has learned what all images share, and nothing of any
single one. Both errors are means over values: ``bce`` is the cross-entropy of values in [0, 1].

Shape legend: N images, C channels, H/W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.data.images import Images, ImageSplits

MEAN_IMAGE = "the mean training image"
HALF_STEP = 0.5 / 255  # of a grey level: nearer to black or white the mean says nothing


def mean_image_errors(images: ImageSplits, part: str) -> dict[str, float]:
    """Return the errors over all images of ``part`` ("valid" or "test")."""
    mean, _ = _pixel_moments(images.train)
    shown, squares = _pixel_moments(getattr(images, part))
    likely = mean.clamp(HALF_STEP, 1 - HALF_STEP)
    bce = -(shown * likely.log() + (1 - shown) * (1 - likely).log())
    mse = squares - 2 * mean * shown + mean.square()
    return {"mse": float(mse.mean()), "bce": float(bce.mean())}


def _pixel_moments(images: Images) -> tuple[Tensor, Tensor]:
    """Return the means of each value and of its square over ``images``: (C, H, W) float64."""
    total = torch.zeros((2, *images.pixels.shape[1:]), dtype=torch.float64)
    total = total.to(images.pixels.device)
    for batch in images.batches():
        values = batch.images.double()
        total += torch.stack([values.sum(0), values.square().sum(0)])
    mean, squares = total / len(images)
    return mean, squares
