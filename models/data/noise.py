"""Noise on images, for training and testing denoising autoencoders.

    corrupt(images, "gaussian", 0.2)                  # one kind
    corrupt(images, "gaussian+salt_pepper", 0.2)      # one kind after the other
    corrupt(images, "all", 0.2)                       # each image has one of the three, in turn

Every kind takes one number, its strength, in [0, 1], and gives pixels in [0, 1]:

    gaussian      standard deviation of what is added to each pixel
    salt_pepper   share of pixels that become white or black, half each
    poisson       photon noise; its standard deviation at a white pixel, so that white is made of
                  1 / strength**2 photons

Random numbers come from torch's generator for the images' device, and are drawn in the order in
which the images lie in memory. The results lie there in the same way, which the fast convolutions
ask for (`models.kernels.fast_convolution`); images that lie in another way get other numbers.

Shape legend: N images, C channels, H/W pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from models.errors import ConfigError, require, unknown_name

MANY_PHOTONS = 1e6  # as many are normally distributed; float32 cannot count many more


def gaussian(images: Tensor, strength: float) -> Tensor:
    """Add a normal number to each value."""
    return (images + strength * _in_memory_order(torch.randn_like, images)).clamp(0, 1)


def salt_pepper(images: Tensor, strength: float) -> Tensor:
    """Make pixels white or black; all channels of a pixel together."""
    dice = _in_memory_order(torch.rand_like, images[:, :1])  # (N, 1, H, W) in [0, 1)
    salted = torch.where(dice < strength / 2, 1.0, images)
    return torch.where(dice >= 1 - strength / 2, 0.0, salted)


def poisson(images: Tensor, strength: float) -> Tensor:
    """Replace each value by a number of photons."""
    if strength**2 * MANY_PHOTONS < 1:
        deviations = strength * images.sqrt()
        return (images + deviations * _in_memory_order(torch.randn_like, images)).clamp(0, 1)
    photons = 1 / strength**2
    return (_in_memory_order(torch.poisson, images * photons) / photons).clamp(0, 1)


KINDS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "gaussian": gaussian,
    "salt_pepper": salt_pepper,
    "poisson": poisson,
}
NONE, ALL = "none", "all"
BOTH = "gaussian+salt_pepper"  # on one image: that of reference system A3


def corrupt(images: Tensor, kind: str, strength: float) -> Tensor:
    """Add noise to images (N, C, H, W) in [0, 1], and clip them to [0, 1]."""
    if kind == NONE:
        return images
    if kind == ALL:
        return _corrupt_in_turn(images, strength)
    for name in kind.split("+"):
        images = KINDS[name](images, strength)
    return images


def _corrupt_in_turn(images: Tensor, strength: float) -> Tensor:
    """Give every third image the same kind of noise.

    Training batches come in random order, so that an image gets each kind equally often. Shapes
    stay static, and no noise is drawn in vain.
    """
    noisy = torch.empty_like(images)
    for first, noise in enumerate(KINDS.values()):
        noisy[first :: len(KINDS)] = noise(images[first :: len(KINDS)], strength)
    return noisy


def _in_memory_order(draw: Callable[[Tensor], Tensor], like: Tensor) -> Tensor:
    """Return ``draw(like)``, drawn in the order in which ``like`` lies in memory.

    With the batch innermost, torch would else draw normal numbers eight times slower, and
    Poisson's into another layout.
    """
    order = sorted(range(like.dim()), key=like.stride, reverse=True)
    return draw(like.permute(order)).permute([order.index(axis) for axis in range(like.dim())])


def check_noise(kind: str, strength: float) -> None:
    """Raise `ConfigError` unless `corrupt` takes this kind and strength."""
    if kind not in (NONE, ALL) and not all(name in KINDS for name in kind.split("+")):
        raise ConfigError(
            unknown_name("noise", kind, (NONE, *KINDS, ALL)) + ", and several joined by +"
        )
    require("strength", strength, 0.0, 1.0)
