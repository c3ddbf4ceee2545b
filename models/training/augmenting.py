"""Augmentation of all that a GAN's discriminator sees, for training on few images.

    augmentation = Augmentation("colour,translation,cutout", target=0.0, images=0)
    seen = augmentation(images)              # (N, C, H, W), with gradients; each image its own way

A discriminator that has learnt few images by heart teaches the generator nothing. So it is shown
real images *and* fakes only in random variations. The generator learns through them, which keeps
the variations out of what it makes: they would give a fake away no less than a real image
(Zhao et al. 2020, DiffAugment; their three policies and strengths, and mirror images, as Karras
et al. 2020 have them):

    flip          left and right change places in half of the images
    colour        brightness + U(-1/2, 1/2), saturation * U(0, 2), contrast * U(1/2, 3/2)
    translation   by up to 1/8 of each side; what comes in is 0, mid-grey in [-1, 1]
    cutout        a square of half of each side becomes 0; it may hang over the edge

In DiffAugment every image is varied. **Adaptive** augmentation (Karras et al. 2020, ADA) gives each
kind, for each image, a chance p that begins at 0; brightness, saturation and contrast are drawn for
each alone. The sign statistic r, the mean of sign(D(real)), is 0 where D can tell nothing and 1
where D knows every real image. After every fourth update of D, p rises where r is above ``target``
and falls where it is below, by as much as takes it from 0 to 1 in ``images`` images. It stays at 1
at most; the published code has no upper end. p and the running sum of signs are buffers, and so
part of a checkpoint.

Shape legend: N batch, C channels, H/W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.errors import ConfigError, short

KINDS = ("flip", "colour", "translation", "cutout")  # in the order in which they are done
NONE = "none"
SHIFT, CUT = 1 / 8, 1 / 2  # of a side
INTERVAL = 4  # updates of D between two steps of p


def read_policy(policy: str) -> tuple[str, ...]:
    """Return the kinds in ``policy``: ``none``, or some of `KINDS`, separated by commas."""
    if policy == NONE:
        return ()
    named = str(policy).split(",")
    if not set(named) <= set(KINDS) or len(set(named)) < len(named):
        raise ConfigError(
            f"augment={short(repr(policy))} is neither 'none' nor some of {', '.join(KINDS)} "
            "separated by commas, such as 'translation,cutout'"
        )
    return tuple(kind for kind in KINDS if kind in named)


class Augmentation(nn.Module):
    """Images (N, C, H, W) in [-1, 1] -> variations of them.

    policy: as `read_policy` takes it
    target: of the sign statistic; 0: every image is varied, and nothing adapts
    images: in how many of them p may go from 0 to 1
    """

    chance: Tensor  # p, ()
    signs: Tensor  # the sum of the mean signs of the updates since the last step, ()
    updates: Tensor  # how many there were, ()

    def __init__(self, policy: str, *, target: float, images: int) -> None:
        super().__init__()
        self.kinds, self.target, self.images = read_policy(policy), target, images
        if target:
            for name in ("chance", "signs", "updates"):
                self.register_buffer(name, torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        if "flip" in self.kinds:
            mirrored = self._chosen(images) & (self._draw(images) < 0.5)
            images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
        if "colour" in self.kinds:
            for change in (change_brightness, change_saturation, change_contrast):
                changed = change(images, self._draw(images))
                images = torch.where(self._chosen(images)[:, None, None, None], changed, images)
        if "translation" in self.kinds:
            images = shift_images(images, *self._draw_shifts(images))
        if "cutout" in self.kinds:
            cut = cut_out(images, self._draw(images), self._draw(images))
            images = torch.where(self._chosen(images)[:, None, None, None], cut, images)
        return images

    @torch.no_grad()
    def observe(self, real: Tensor, images: int) -> None:
        """Take note of an update of D on so many ``images``, and adapt p after every fourth.

        real: scores of real images as D saw them, above 0 where it takes them for real
        """
        if not self.target:
            return
        self.signs += real.sign().mean()
        self.updates += 1
        full = self.updates >= INTERVAL
        way = torch.sign(self.signs / self.updates - self.target)
        moved = (self.chance + way * (images * INTERVAL / self.images)).clamp(0, 1)
        self.chance.copy_(torch.where(full, moved, self.chance))
        for sum_since in (self.signs, self.updates):
            sum_since.mul_(~full)

    def _draw(self, images: Tensor) -> Tensor:
        """Draw a number in [0, 1) for each image: (N,)."""
        return torch.rand(len(images), device=images.device)

    def _chosen(self, images: Tensor) -> Tensor:
        """Return which images are varied: (N,) bool."""
        if not self.target:
            return torch.ones(len(images), dtype=torch.bool, device=images.device)
        return self._draw(images) < self.chance

    def _draw_shifts(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Draw how far each image moves down and to the right, in whole pixels: (N,) each."""
        chosen = self._chosen(images)
        reach = [round_half_up(side * SHIFT) for side in images.shape[2:]]
        draws = [(self._draw(images) * (2 * most + 1)).long() - most for most in reach]
        return draws[0] * chosen, draws[1] * chosen


def change_brightness(images: Tensor, drawn: Tensor) -> Tensor:
    """Add (N,) in [0, 1), less a half, to images (N, C, H, W)."""
    return images + (drawn[:, None, None, None] - 0.5)


def change_saturation(images: Tensor, drawn: Tensor) -> Tensor:
    """Multiply each pixel's distance from its grey by twice (N,); grey images stay."""
    grey = images.mean(1, keepdim=True)
    return (images - grey) * (2 * drawn[:, None, None, None]) + grey


def change_contrast(images: Tensor, drawn: Tensor) -> Tensor:
    """Multiply each value's distance from the image's mean by (N,) and a half."""
    mean = images.mean((1, 2, 3), keepdim=True)
    return (images - mean) * (drawn[:, None, None, None] + 0.5) + mean


def shift_images(images: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Move each image (N, C, H, W) by whole pixels (N,); what comes in is 0."""
    channels, height, width = images.shape[1:]
    high, wide = (round_half_up(side * SHIFT) for side in (height, width))
    padded = F.pad(images, (wide, wide, high, high))
    rows = torch.arange(height, device=images.device) + high - down[:, None]  # (N, H)
    columns = torch.arange(width, device=images.device) + wide - right[:, None]  # (N, W)
    rows = rows[:, None, :, None].expand(-1, channels, -1, padded.shape[3])
    columns = columns[:, None, None, :].expand(-1, channels, height, -1)
    return padded.gather(2, rows).gather(3, columns)


def cut_out(images: Tensor, top: Tensor, left: Tensor) -> Tensor:
    """Make a rectangle of half of each side 0, around a place that (N,) in [0, 1) each tell."""
    inside = []
    for side, drawn in zip(images.shape[2:], (top, left), strict=True):
        size = round_half_up(side * CUT)
        first = (drawn * (side + 1 - size % 2)).long()[:, None] - size // 2
        places = torch.arange(side, device=images.device)
        inside.append((places >= first) & (places < first + size))  # (N, side)
    hidden = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return images.masked_fill(hidden, 0.0)


def round_half_up(value: float) -> int:
    """Return the nearest whole number; the larger one of two."""
    return int(value + 0.5)
