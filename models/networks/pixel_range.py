"""The range of pixels: a GAN's networks work in [-1, 1], all other images lie in [0, 1].

Shape legend: N batch, C channels, H/W pixels.
"""

from __future__ import annotations

from torch import Tensor, nn


def to_signed(images: Tensor) -> Tensor:
    """[0, 1] -> [-1, 1]."""
    return images * 2 - 1


def to_unit(images: Tensor) -> Tensor:
    """[-1, 1] -> [0, 1]."""
    return (images + 1) / 2


def outside_unit(samples: Tensor) -> str:
    """Return how samples leave [0, 1], in words; empty: they do not.

    Values that are not finite are no matter of scale, and are left to others.
    """
    if not bool(samples.isfinite().all()):
        return ""
    low, high = float(samples.min()), float(samples.max())
    if low >= 0 and high <= 1:
        return ""
    return f"samples lie in [{low:.3g}, {high:.3g}], images in [0, 1]; scale them"


class ExportedGenerator(nn.Module):
    """The generator as it is exported: its images (N, C, H, W) lie in [0, 1]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, given: Tensor) -> Tensor:
        return to_unit(self.network(given))


class ExportedDiscriminator(nn.Module):
    """The discriminator as it is exported: it takes images (N, C, H, W) in [0, 1]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.network(to_signed(images))
        return scores
