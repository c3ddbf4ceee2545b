"""The Fréchet distance between two sets of features (Heusel et al. 2017).

    frechet_distance(Moments.of(real), Moments.of(made))

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^1/2)

between the Gaussians with their means and covariances. The trace of the root is the sum of the
singular values of C1^1/2 C2^1/2. So there are no complex numbers, nothing needs regularising, and
features that never vary give exact zeros.

Shape legend: N images, D features.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Moments:
    """mean (D,) and covariance (D, D), symmetric and positive semi-definite."""

    mean: Floats
    covariance: Floats

    @classmethod
    def of(cls, features: Tensor) -> Moments:
        """Return the moments of features (N, D), summed up in float64; N >= 2."""
        if len(features) < 2:
            raise ValueError(f"{len(features)} images have no covariance; give at least 2")
        values = features.double()
        mean = values.mean(0)
        centred = values - mean
        covariance = centred.t() @ centred / (len(values) - 1)
        return cls(mean.cpu().numpy(), covariance.cpu().numpy())

    @cached_property
    def root(self) -> Floats:
        """The symmetric square root of the covariance: (D, D)."""
        values, vectors = np.linalg.eigh(self.covariance)
        # rounding leaves values just below zero where there is no variance
        root: Floats = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
        return root


def frechet_distance(a: Moments, b: Moments) -> float:
    """Return the distance, at least 0, in squared units of the features.

    It is symmetric, and 0 for equal moments.
    """
    between = float(((a.mean - b.mean) ** 2).sum())
    overlap = float(np.linalg.svd(a.root @ b.root, compute_uv=False).sum())
    spread = float(np.trace(a.covariance) + np.trace(b.covariance)) - 2 * overlap
    return between + max(spread, 0.0)
