"""How many of Stacked MNIST's 1,000 modes a generator finds, counted as PacGAN counts them.

    table = mode_table(model, evaluator, images)

26,000 samples are drawn; a mode is found if the classifier of single digits takes one of them for
it. The divergence is that of the samples' classes from the training images' classes (Metz et al.
2017; Lin et al. 2018, whose figures stand in the same table, with those of Huang et al. 2024).

Shape legend: N samples, C channels, H/W pixels, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.base import Model, evaluating
from models.data.images import ImageSplits
from models.data.mixed_rows import mixed_rows
from models.evaluation.sample_evaluator import SampleEvaluator, class_divergence
from models.results import Table
from models.seeds import same_draws

DRAWN = 26_000
REPORTED = (
    ("reported: DCGAN (Lin et al. 2018)", 99.0, "-"),
    ("reported: PacGAN, two packed", 1000.0, 0.06),
    ("reported: R3GAN (Huang et al. 2024)", 1000.0, 0.029),
)


def mode_table(model: Model, evaluator: SampleEvaluator, images: ImageSplits) -> Table:
    """Count the modes of ``model``, of as many real images, and those of publications."""
    extractor = evaluator.extractor
    with same_draws(model.device), evaluating(model):
        made = extractor(model.samples(DRAWN, images, evaluator.part)).classes
    real = extractor(images.train.pixels[mixed_rows(images, "train", DRAWN)]).classes
    labels = images.train.labels
    assert made is not None
    assert real is not None
    assert labels is not None
    shares = _class_shares(labels, extractor.classes)
    rows = [_table_row("this model", made, shares), _table_row("as many real images", real, shares)]
    return Table(
        name="modes",
        title="Modes of Stacked MNIST",
        columns=("", f"modes of {extractor.classes:,}", "KL (nats)"),
        rows=(*rows, *REPORTED),
        note="A mode counts if a sample is classified as it. Reported numbers are as published.",
        seeds=1,
        measured_on=f"{DRAWN:,} samples",
    )


def _table_row(name: str, classes: Tensor, shares: Tensor) -> tuple[str, int, float]:
    """Return the table's row of images of ``classes`` (N,)."""
    found = _class_shares(classes, len(shares))
    return name, int((found > 0).sum()), float(class_divergence(found, shares))


def _class_shares(classes: Tensor, count: int) -> Tensor:
    """Classes (N,) -> their shares (K,), which add up to 1."""
    return torch.bincount(classes, minlength=count).double() / len(classes)
