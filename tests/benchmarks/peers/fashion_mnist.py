"""Fashion-MNIST for the peers: torchvision's set, ToTensor, a DataLoader, the product's split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Subset
from torchvision import datasets, transforms

from models.data.images import VALIDATION_SHARE
from models.seeds import derive_seed
from tests.benchmarks.work import BATCH


def loaders(
    root: Path, *, workers: int = 0, images: int | None = None
) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """48,000 images to train, in random order, and 12,000 to validate; fewer for a trial run.

    The ragged last batch of training is left out, as the product does: equal work.
    """
    whole = datasets.FashionMNIST(root, train=True, download=True, transform=transforms.ToTensor())
    generator = torch.Generator().manual_seed(derive_seed(0, "split"))
    order = torch.randperm(len(whole), generator=generator).tolist()
    held_out = round(len(whole) * VALIDATION_SHARE)
    valid, train = order[:held_out], order[held_out:]
    if images is not None:
        valid, train = valid[: images // 5], train[: images - images // 5]
    several: dict[str, Any] = {"num_workers": workers, "persistent_workers": workers > 0}
    return (
        DataLoader(Subset(whole, train), batch_size=BATCH, shuffle=True, drop_last=True, **several),
        DataLoader(Subset(whole, valid), batch_size=BATCH, **several),
    )
