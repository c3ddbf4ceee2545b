"""The two networks of StarGAN (Choi et al. 2018), by DCGAN's rules for norms and first weights.

    generator      (N, C + L, H, W): images in [-1, 1] and a constant plane for each label
                   -> two strided convolutions -> residual blocks -> two transposed -> images
    discriminator  (N, C, H, W) in [-1, 1] -> (N, P + L): a score for real or fake of each of P
                   overlapping 70x70 patches (Isola et al. 2017), and scores of the labels, which
                   see the whole image

Shape legend: N batch, C channels, H/W pixels, L labels, P patches.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.data.images import Shape
from models.errors import ConfigError
from models.networks.dcgan import (
    SLOPE,
    as_discriminator,
    downsampling_layers,
    initialise_weights,
    scale_channels,
    stage_sizes,
)

UP, DOWN, STRIDES = (64, 128, 256), (64, 128, 256), (2, 2, 2)
LAST = 512  # channels before the patches
SMALLEST = 24  # pixels a side: smaller images have no patch


class Residual(nn.Module):
    """Two 3x3 convolutions whose result is added to what they were given."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.body(x)
        return y


def build_translator(shape: Shape, *, labels: int, blocks: int, width: float) -> nn.Sequential:
    """Build (N, C + L, H, W) -> (N, C, H, W) in [-1, 1]; the published one has 6 blocks."""
    first, second, third = scale_channels(width, *UP)
    large, middle, small = stage_sizes(shape, (2, 2))
    return initialise_weights(
        nn.Sequential(
            *_with_norm(nn.Conv2d(shape[0] + labels, first, 7, padding=3, bias=False)),
            *_with_norm(nn.Conv2d(first, second, 4, 2, 1, bias=False)),
            *_with_norm(nn.Conv2d(second, third, 4, 2, 1, bias=False)),
            *(Residual(third) for _ in range(blocks)),
            *_with_norm(_doubling(third, second, small, middle)),
            *_with_norm(_doubling(second, first, middle, large)),
            nn.Conv2d(first, shape[0], 7, padding=3, bias=False),
            nn.Tanh(),
        )
    )


def _with_norm(convolution: nn.Conv2d | nn.ConvTranspose2d) -> list[nn.Module]:
    """Return the convolution, batch norm and ReLU."""
    return [convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU()]


def _doubling(
    before: int, after: int, small: Sequence[int], large: Sequence[int]
) -> nn.ConvTranspose2d:
    """Return a transposed convolution from ``small`` to ``large`` pixels (H, W)."""
    odd = (large[0] - 2 * small[0], large[1] - 2 * small[1])
    return nn.ConvTranspose2d(before, after, 4, 2, 1, odd, bias=False)


class PatchDiscriminator(nn.Module):
    """Images (N, C, H, W) -> P scores for real or fake, then L scores of labels."""

    def __init__(self, shape: Shape, *, labels: int, normalization: str, width: float) -> None:
        super().__init__()
        *channels, last = scale_channels(width, *DOWN, LAST)
        if min(shape[1:]) < SMALLEST:
            raise ConfigError(
                f"images of {shape[1]}x{shape[2]} are too small for a StarGAN: at least "
                f"{SMALLEST}x{SMALLEST}"
            )
        height, breadth = (size - 1 for size in stage_sizes(shape, STRIDES)[-1])
        batch = normalization == "batch"
        self.body = nn.Sequential(
            *downsampling_layers(channels, shape, STRIDES, normalization),
            nn.Conv2d(channels[-1], last, 4, 1, 1, bias=not batch),  # (N, 512, height, breadth)
            *([nn.BatchNorm2d(last)] if batch else []),
            nn.LeakyReLU(SLOPE),
        )
        self.patches = nn.Conv2d(last, 1, 4, 1, 1, bias=False)
        self.labels = nn.Conv2d(last, labels, (height, breadth), bias=False)
        self.count = (height - 1) * (breadth - 1)  # P
        as_discriminator(self, normalization)

    def forward(self, images: Tensor) -> Tensor:
        features = self.body(images)
        return torch.cat([self.patches(features).flatten(1), self.labels(features).flatten(1)], 1)
