"""Noise on images: what a denoising autoencoder sees, and what it is tested on.

    corrupt(images, "gaussian", 0.2)                  # one kind
    corrupt(images, "gaussian+salt_pepper", 0.2)      # one after the other
    corrupt(images, "all", 0.2)                       # each image one of the three, at random

Every kind takes one number, its strength, in [0, 1], and gives pixels in [0, 1]:

    gaussian      standard deviation of what is added to each pixel
    salt_pepper   share of pixels that become white or black, half each
    poisson       photon noise; the standard deviation at a white pixel, so that
                  1 / strength**2 photons are what white is made of

Random numbers come from torch's generator of the images' device.

Shape legend: N images, C channels, H/W pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from models.base import ConfigError, require


def gaussian(images: Tensor, strength: float) -> Tensor:
    return (images + strength * torch.randn_like(images)).clamp(0, 1)


def salt_pepper(images: Tensor, strength: float) -> Tensor:
    """Each pixel is hit as a whole: all of its channels alike."""
    dice = torch.rand_like(images[:, :1])  # (N, 1, H, W)
    salted = torch.where(dice < strength / 2, torch.ones_like(images), images)
    return torch.where(dice > 1 - strength / 2, torch.zeros_like(images), salted)


def poisson(images: Tensor, strength: float) -> Tensor:
    if strength == 0:
        return images
    photons = 1 / strength**2
    return (torch.poisson(images * photons) / photons).clamp(0, 1)


KINDS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "gaussian": gaussian,
    "salt_pepper": salt_pepper,
    "poisson": poisson,
}
NONE, ALL = "none", "all"


def corrupt(images: Tensor, kind: str, strength: float) -> Tensor:
    """(N, C, H, W) in [0, 1] -> the same with noise, clipped to [0, 1]."""
    if kind == NONE:
        return images
    if kind == ALL:
        return _one_of_each(images, strength)
    for name in kind.split("+"):
        images = KINDS[name](images, strength)
    return images


def _one_of_each(images: Tensor, strength: float) -> Tensor:
    """All kinds are computed and one is kept an image: the same operations every time."""
    choice = torch.randint(len(KINDS), (len(images), 1, 1, 1), device=images.device)  # (N, 1, 1, 1)
    noisy = images
    for index, noise in enumerate(KINDS.values()):
        noisy = torch.where(choice == index, noise(images, strength), noisy)
    return noisy


def check_noise(kind: str, strength: float) -> None:
    """Raise `ConfigError` unless `corrupt` takes these."""
    if kind not in (NONE, ALL) and not all(name in KINDS for name in kind.split("+")):
        raise ConfigError(
            f"unknown noise {kind!r}; available: {NONE}, {', '.join(KINDS)}, {ALL}, "
            "and several joined by +"
        )
    require("strength", strength, 0.0, 1.0)
