"""Draws from the Gaussian that fits codes, for models without a distribution of their own.

    draw_gaussian(codes, 64, seed=0)     # (64, Z)

Shape legend: N codes, Z latent width.
"""

from __future__ import annotations

import torch
from torch import Tensor


def draw_gaussian(codes: Tensor, count: int, *, seed: int) -> Tensor:
    """Return draws (count, Z) float32 from the Gaussian that fits codes (N, Z).

    They lie on the CPU, and are the same for all devices. The covariance may be singular: units
    that are dead, or say the same, stay so. Its root comes from an eigendecomposition,
    ``Q diag(sqrt(w)) Q'``.
    """
    known = codes.detach().double().cpu()
    mean = known.mean(0)
    spread = known - mean
    values, vectors = torch.linalg.eigh(spread.T @ spread / max(len(known) - 1, 1))
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(count, known.shape[1], generator=generator, dtype=torch.float64)
    drawn: Tensor = mean + normal * values.clamp(min=0).sqrt() @ vectors.T
    return drawn.float()
