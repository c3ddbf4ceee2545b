"""Generators that fail on purpose: what each makes, drawn from real images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from models.data.images import Images

Generator = Callable[[Images, int], Tensor]
"""Called with real images and a number: samples (number, C, H, W) in [0, 1]."""


def _draw(images: Images, places: Tensor, count: int) -> Tensor:
    chosen = torch.randint(len(places), (count,), generator=torch.Generator().manual_seed(0))
    return images.batch(places[chosen]).images


def of_classes(*classes: int) -> Generator:
    """Images of these classes only."""

    def generate(images: Images, count: int) -> Tensor:
        assert images.labels is not None
        places = torch.isin(images.labels, torch.tensor(classes)).nonzero().flatten()
        return _draw(images, places, count)

    return generate


def memorised(size: int, noise: float = 0.0) -> Generator:
    """The first ``size`` images over and over, each under a little noise of its own."""

    def generate(images: Images, count: int) -> Tensor:
        return noisy(noise)(images, count, _draw(images, torch.arange(size), count))

    return generate


def noisy(strength: float) -> Callable[..., Tensor]:
    """Real images under Gaussian noise of this standard deviation."""

    def generate(images: Images, count: int, clean: Tensor | None = None) -> Tensor:
        clean = images.batch(slice(0, count)).images if clean is None else clean
        drawn = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
        return (clean + strength * drawn).clamp(0, 1)

    return generate


def uniform_noise(images: Images, count: int) -> Tensor:
    """No image at all."""
    shape = (count, *images.pixels.shape[1:])
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def black(images: Images, count: int) -> Tensor:
    """One image that is none of the set."""
    return torch.zeros(count, *images.pixels.shape[1:])
