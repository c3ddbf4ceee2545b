"""Losses, penalties and health of two networks that train against each other.

Shape legend: N batch, C channels, H/W pixels, P scores an image.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.base import Metrics


def to_signed(images: Tensor) -> Tensor:
    """[0, 1] -> [-1, 1]."""
    return images * 2 - 1


def to_unit(images: Tensor) -> Tensor:
    """[-1, 1] -> [0, 1]."""
    return (images + 1) / 2


def discriminator_loss(real: Tensor, fake: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of scores (N, P) each, summed over the two kinds."""
    target = torch.full_like(real, 1 - smoothing)
    return F.binary_cross_entropy_with_logits(real, target) + F.softplus(fake).mean()


def generator_loss(fake: Tensor) -> Tensor:
    """-log D(fake) of scores (N, P)."""
    return F.softplus(-fake).mean()


def gradient_penalty(scores: Tensor, images: Tensor) -> Tensor:
    """R1: mean over images (N, ...) of the squared gradient of their score, a mean of P."""
    (slopes,) = torch.autograd.grad(scores.mean(1).sum(), images, create_graph=True)
    return slopes.square().flatten(1).sum(1).mean()


def discriminator_health(real: Tensor, fake: Tensor) -> Metrics:
    """Of scores (N, P): what the discriminator takes them for, and how often it is right."""
    return {
        "d_real": torch.sigmoid(real).mean(),
        "d_fake": torch.sigmoid(fake).mean(),
        "accuracy_real": (real > 0).float().mean(),
        "accuracy_fake": (fake <= 0).float().mean(),
    }


def sample_spread(fakes: Tensor, reals: Tensor) -> Tensor:
    """Root mean square distance of two fakes (N, C, H, W) over that of two reals; 0 when all
    fakes are one image."""

    def apart(images: Tensor) -> Tensor:  # half the mean squared distance of two images
        return images.detach().var(0).sum()

    return (apart(fakes) / apart(reals).clamp_min(1e-12)).sqrt()


def gradient_norm(network: nn.Module) -> Tensor:
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    return torch.nn.utils.get_total_norm(gradients)


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float, steps: Tensor) -> None:
    """A step of the moving average of weights; batch norms' statistics are averages already.

    steps: (), so far; counted on. The decay begins small, (1 + n) / (10 + n) after n steps, so
    that what a generator was before it had learnt anything is soon forgotten.
    """
    ours: list[Tensor] = list(average.parameters())
    theirs: list[Tensor] = list(network.parameters())
    weight = (9 / (10 + steps)).clamp(min=1 - decay)
    torch._foreach_lerp_(ours, theirs, [weight] * len(ours))
    steps += 1
    for kept, new in zip(average.buffers(), network.buffers(), strict=True):
        kept.copy_(new)
