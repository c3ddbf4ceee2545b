"""How much of its code an autoencoder uses: dead units go unnoticed otherwise.

    table = code_table(model, images.test)

Shape legend: N images, Z latent width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.analysis.latent_models import LatentModel, codes_of
from models.data.images import Images
from models.results import Table

SHARES = (0.5, 0.9, 0.99)  # of the variance
STILL = 1e-8  # a number with at most this variance is the same for every image


def code_table(model: LatentModel, images: Images) -> Table:
    """Count the code's numbers that differ between images, and directions with their variance."""
    codes = codes_of(model, images)  # (N, Z)
    variances = codes.var(0, correction=0)
    used, width = int((variances > STILL).sum()), codes.shape[1]
    rows: list[tuple[str | int, ...]] = [
        ("numbers that differ between images", f"{used} of {width}")
    ]
    rows += [
        (f"principal components for {share:.0%} of the variance", count)
        for share, count in zip(SHARES, count_components(codes), strict=True)
    ]
    note = ""
    if used < width:
        note = (
            f"{width - used} have the same value for every image: units that died in training; a "
            "lower learning rate or larger batches keep them alive"
        )
    return Table(
        name="code",
        title="The code",
        columns=("of the test images", ""),
        rows=tuple(rows),
        note=note,
        seeds=1,
        measured_on=f"{len(images):,} test images",
    )


def count_components(codes: Tensor) -> list[int]:
    """Count the principal components of ``codes`` (N, Z) that hold each of `SHARES`.

    The counts are 0 where the codes have no variance.
    """
    spectrum = torch.linalg.eigvalsh(torch.cov(codes.T, correction=0).reshape(codes.shape[1], -1))
    held = spectrum.clamp(min=0).flip(0).cumsum(0)  # (Z,), largest first
    if held[-1] <= STILL:
        return [0] * len(SHARES)
    return [int((held < share * held[-1] * (1 - 1e-12)).sum()) + 1 for share in SHARES]
