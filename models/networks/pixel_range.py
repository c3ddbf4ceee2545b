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
