"""Losses, penalties and health of two networks that train against each other.

Shape legend: N batch, C channels, H/W pixels, P scores an image.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.base import Metrics


def discriminator_loss(real: Tensor, fake: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return the cross-entropy of scores (N, P) each, summed over the two kinds."""
    target = torch.full_like(real, 1 - smoothing)
    return F.binary_cross_entropy_with_logits(real, target) + F.softplus(fake).mean()


def generator_loss(fake: Tensor) -> Tensor:
    """Return -log D(fake) of scores (N, P)."""
    return F.softplus(-fake).mean()


def gradient_penalty(scores: Tensor, images: Tensor) -> Tensor:
    """Return R1: the mean over images (N, ...) of the squared gradient of their score, which is a
    mean of P."""
    (slopes,) = torch.autograd.grad(scores.mean(1).sum(), images, create_graph=True)
    return slopes.square().flatten(1).sum(1).mean()


def discriminator_health(real: Tensor, fake: Tensor) -> Metrics:
    """Return what the discriminator takes images for, and how often it is right, from its scores
    (N, P) of real and fake ones."""
    return {
        "d_real": torch.sigmoid(real).mean(),
        "d_fake": torch.sigmoid(fake).mean(),
        "accuracy_real": (real > 0).float().mean(),
        "accuracy_fake": (fake <= 0).float().mean(),
    }


def sample_spread(fakes: Tensor, reals: Tensor) -> Tensor:
    """Return the root mean square distance of two fakes (N, C, H, W) over that of two reals.

    It is 0 when all fakes are one image, and of a single fake.
    """

    def half_squared_distance(images: Tensor) -> Tensor:  # the mean over pairs of images
        return images.detach().var(0, correction=min(1, len(images) - 1)).sum()

    return (half_squared_distance(fakes) / half_squared_distance(reals).clamp_min(1e-12)).sqrt()


def gradient_norm(network: nn.Module) -> Tensor:
    """Return the norm of all gradients of ``network``."""
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    return torch.nn.utils.get_total_norm(gradients)


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float, steps: Tensor) -> None:
    """Take a step of the moving average of weights; buffers are copied.

    The statistics of batch norms are then those of ``network``, and not of the average: they are
    computed anew before it is used (`models.networks.batch_norm`).

    steps: (), how many there were so far; it is counted up. The decay begins small,
        (1 + n) / (10 + n) after n steps, so that the weights from before the generator had learnt
        anything are soon forgotten.
    """
    averages: list[Tensor] = list(average.parameters())
    current: list[Tensor] = list(network.parameters())
    weight = (9 / (10 + steps)).clamp(min=1 - decay)
    torch._foreach_lerp_(averages, current, [weight] * len(averages))
    steps += 1
    for kept, new in zip(average.buffers(), network.buffers(), strict=True):
        kept.copy_(new)
