"""The kernel distance between two sets of features, KID (Bińkowski et al. 2018).

    kid = KernelDistance(real)
    mean, deviation = kid(made)

It is the squared maximum mean discrepancy with the kernel k(x, y) = (x·y / D + 1)^3, in its
unbiased form for m features of each kind:

    sum over i != j of k(x_i, x_j) / m(m - 1)  +  the same of y  -  2 sum of k(x_i, y_j) / m^2

Its mean does not depend on how many samples there are, and is 0 where both sets are drawn alike,
so that it may come out a little below. Mean and deviation are over `SUBSETS` random subsets of
`SUBSET` features of each set, as in torch-fidelity and torchmetrics; smaller sets have smaller
subsets. The subsets are always the same.

All subsets share one pass over the kernels: with rows that say 0 or 1 for each feature, a subset's
sum is row · K · row. A constant that is taken from the kernel cancels out of the distance, and
leaves small numbers, which float32 adds up well.

Shape legend: N, M features, D their width, S subsets.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.seeds import derive_seed

SUBSETS, SUBSET = 100, 1000
ROWS = 1024  # features whose kernels are computed at once: bounds memory, not results


class KernelDistance:
    """The distance of samples from real features (N, D), whose own sums are taken once.

    N >= 2
    """

    def __init__(self, real: Tensor) -> None:
        self.real = real.float()
        self.shift = float(_kernel(self.real[:ROWS], self.real[:ROWS]).mean())
        self.within: dict[int, Tensor] = {}  # size of a subset -> sums over the real ones, (S,)

    def __call__(self, made: Tensor) -> tuple[float, float]:
        """Return mean and standard deviation over subsets of features (M, D); M >= 2."""
        size = min(SUBSET, len(self.real), len(made))
        if size < 2:
            raise ValueError(f"{size} images have no pairs; give at least 2")
        made = made.float()
        of_real, of_made = (
            _choose(name, len(features), size).to(features.device)
            for name, features in (("real", self.real), ("made", made))
        )
        if size not in self.within:
            self.within[size] = self._pair_sums(self.real, of_real)
        pairs = self.within[size] + self._pair_sums(made, of_made)
        across = self._sums(self.real, of_real, made, of_made)
        values = pairs / (size * (size - 1)) - 2 * across / size**2  # (S,)
        return float(values.mean()), float(values.std(correction=0))

    def _pair_sums(self, features: Tensor, chosen: Tensor) -> Tensor:
        """Return each subset's sum over its pairs of two different features: (S,)."""
        itself = (features.square().sum(1) / features.shape[1] + 1) ** 3 - self.shift  # (N,)
        return self._sums(features, chosen, features, chosen) - chosen.double() @ itself.double()

    def _sums(self, x: Tensor, of_x: Tensor, y: Tensor, of_y: Tensor) -> Tensor:
        """Return each subset's sum of the kernel, less the shift, over x (N, D) and y (M, D).

        of_x, of_y: which are in each subset, (S, N) and (S, M) of 0 and 1
        """
        total = torch.zeros(len(of_x), dtype=torch.float64, device=x.device)
        for rows, chosen in zip(torch.split(x, ROWS), torch.split(of_x, ROWS, dim=1), strict=True):
            kernel = _kernel(rows, y) - self.shift  # (rows, M)
            total += (chosen * (of_y @ kernel.T)).sum(1, dtype=torch.float64)
        return total


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    """Return (x·y / D + 1)^3 of all pairs of (N, D) and (M, D): (N, M)."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def _choose(name: str, count: int, size: int) -> Tensor:
    """Return which ``size`` of ``count`` features are in each subset: (S, count) of 0 and 1."""
    generator = torch.Generator().manual_seed(derive_seed(0, "kid", name))
    rows = torch.zeros(SUBSETS, count)
    for row in rows:
        row[torch.randperm(count, generator=generator)[:size]] = 1
    return rows
