"""Estimates of log p(x) of a latent-variable model by importance sampling (Burda et al. 2016).

    log p(x) >= E log 1/K sum_k p(x | z_k) p(z_k) / q(z_k | x),   z_k drawn from q(z | x)

For K = 1 the right side is the evidence lower bound; it grows with K, towards log p(x). The prior
is N(0, I), q an independent Gaussian in each dimension. Everything is in nats.

Shape legend: N images, B of them at once, K samples an image, Z latent width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Density = Callable[[Tensor, Tensor], Tensor]
"""A function that returns log p(x | z) of codes (n, Z) and images (n, ...): (n,) float64."""

Progress = Callable[[int, int], None]
"""A function that is called as ``progress(done, total)``, in images."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """log p(x) and its bound, (N,) float64 each, from the same samples: elbo <= log_likelihood.

    draw_variance: of a bound that is made of one sample
    """

    log_likelihood: Tensor
    elbo: Tensor
    draw_variance: Tensor


def estimate_by_importance_sampling(
    density: Density,
    posterior: tuple[Tensor, Tensor],
    images: Tensor,
    *,
    samples: int,
    rows: int,
    progress: Progress = lambda done, total: None,
) -> Estimate:
    """Estimate log p(x) and its lower bound for each of ``images`` (N, ...).

    posterior: mean and log-variance of q(z | x), (N, Z) each
    samples: K, for each image
    rows: codes that ``density`` is given at once, at most, which bounds the memory
    """
    mean, log_variance = posterior
    at_once, part = max(1, rows // samples), min(rows, samples)
    likelihoods, bounds, variances = [], [], []
    for first in range(0, len(images), at_once):
        chosen = slice(first, first + at_once)
        given = density, mean[chosen], log_variance[chosen], images[chosen]
        drawn = [
            _log_weights(*given, count=min(part, samples - done))
            for done in range(0, samples, part)
        ]
        weights = torch.cat(drawn, dim=1)  # (B, K)
        likelihoods.append(weights.logsumexp(1) - math.log(samples))
        bounds.append(weights.mean(1))
        variances.append(weights.var(1, correction=0))
        progress(min(first + at_once, len(images)), len(images))
    return Estimate(
        log_likelihood=torch.cat(likelihoods),
        elbo=torch.cat(bounds),
        draw_variance=torch.cat(variances),
    )


def _log_weights(
    density: Density, mean: Tensor, log_variance: Tensor, images: Tensor, *, count: int
) -> Tensor:
    """Return log p(x | z) p(z) / q(z | x) of ``count`` draws for each of B images: (B, count)."""
    noise = torch.randn(len(mean), count, mean.shape[1], device=mean.device)
    codes = mean.unsqueeze(1) + noise * torch.exp(log_variance / 2).unsqueeze(1)  # (B, count, Z)
    against = (noise.double().square() - codes.double().square()).sum(2)
    ratio = (against + log_variance.double().sum(1, keepdim=True)) / 2  # log p(z) / q(z | x)
    seen = images.repeat_interleave(count, dim=0)  # (B * count, ...)
    return ratio + density(codes.flatten(0, 1), seen).view(len(mean), count)
