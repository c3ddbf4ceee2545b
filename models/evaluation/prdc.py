"""Precision, recall, density, coverage: how real samples are, and how much of the real they cover.

Balls around images, each reaching to the K-th nearest image of the same set, stand for the region
where the set lies (Kynkäänniemi et al. 2019; Naeem et al. 2020):

    precision  share of samples in the ball of any real image: do they look real?
    recall     share of real images in the ball of any sample: can the generator make them?
    density    real balls that a sample lies in, over K: above 1 where samples are only typical
    coverage   share of real images whose own ball holds a sample: unlike recall, it does not grow
               by a few samples that lie far out
    realism    precision by the smaller half of the real balls: the wide ball of a single odd image
               may hold black images and noise, which then count as precise

An image on the edge of a ball is not in it: a ball of radius 0, around an image that has copies,
holds nothing, not even one more copy. Distances count as equal up to their rounding.

Shape legend: N images, D features.
"""

from __future__ import annotations

import torch
from torch import Tensor

K = 5  # the usual number of neighbours (Naeem et al. 2020)
ROUNDING = 16 * torch.finfo(torch.float32).eps  # of squared distances, beside squared norms
ROWS = 1024  # images whose distances are computed at once: bounds memory, not results


def radii(features: Tensor, k: int = K) -> Tensor:
    """Features (N, D) -> distance of each to its ``k``-th nearest other: (N,). N must exceed k."""
    if len(features) <= k:
        raise ValueError(f"{len(features)} images have no {k} neighbours; give more than {k}")
    features = features - features.mean(0)  # distances round least around the origin
    nearest = [
        torch.cdist(rows, features).topk(k + 1, largest=False).values[:, k]  # one is itself
        for rows in torch.split(features, ROWS)
    ]
    return torch.cat(nearest)


def neighbourhoods(
    real: Tensor, real_radii: Tensor, made: Tensor, made_radii: Tensor
) -> dict[str, Tensor]:
    """Return the five measures of real (N, D) and made (M, D) features with the radii of each."""
    centre = real.mean(0)
    real, made = real - centre, made - centre
    real_reach, made_reach = _reaches(real, real_radii), _reaches(made, made_radii)
    around = torch.zeros(len(made), device=made.device)  # real balls that each sample lies in
    tight = torch.zeros(len(made), device=made.device)  # those of the smaller half
    recalled, covered, middle = [], [], real_radii.median()
    split = (torch.split(each, ROWS) for each in (real, real_radii, real_reach))
    for rows, radius, reach in zip(*split, strict=True):
        distances = torch.cdist(rows, made)  # (rows, M)
        inside = distances < reach[:, None]
        around += inside.sum(0)
        tight += inside[radius <= middle].sum(0)
        covered.append(inside.any(1))
        recalled.append((distances < made_reach).any(1))
    return {
        "precision": (around > 0).float().mean(),
        "realism": (tight > 0).float().mean(),
        "recall": torch.cat(recalled).float().mean(),
        "density": around.mean() / K,
        "coverage": torch.cat(covered).float().mean(),
    }


def _reaches(centres: Tensor, of: Tensor) -> Tensor:
    """Return the radii (N,) of balls around ``centres`` (N, D), less what distances are rounded by.

    Of nearly equal features, distances are differences of large numbers.
    """
    rounded = ROUNDING * (centres.square().sum(1) + of.square())
    return (of.square() - rounded).clamp(min=0).sqrt()
