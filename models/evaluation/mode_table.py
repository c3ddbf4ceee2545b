"""How many of Stacked MNIST's 1,000 modes a generator finds, counted as PacGAN counts them.

    record_table = mode_table(model, judge, images)

26,000 samples are drawn; a mode is found if one of them is taken for it by the classifier of
single digits. The divergence is that of the samples' classes from the training images' classes
(Metz et al. 2017; Lin et al. 2018, whose figures stand beside).

Shape legend: N samples, C channels, H/W pixels, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.base import Model, evaluating
from models.data.images import ImageSplits
from models.evaluation.sample_evaluator import SampleEvaluator, class_divergence
from models.results import Table
from models.seeds import same_draws

DRAWN = 26_000
REPORTED = (
    ("reported: DCGAN (Lin et al. 2018)", 99.0, "-"),
    ("reported: PacGAN, two packed", 1000.0, 0.06),
)


def mode_table(model: Model, judge: SampleEvaluator, images: ImageSplits) -> Table:
    """Of ``model``, beside as many real images and what was reported."""
    with same_draws(model.device), evaluating(model):
        made = judge.extractor(model.samples(DRAWN, images, judge.part)).classes
    real = judge.extractor(images.train.pixels[:DRAWN]).classes
    labels = images.train.labels
    assert made is not None
    assert real is not None
    assert labels is not None
    shares = _shares(labels, judge.extractor.classes)
    rows = [_row("this model", made, shares), _row("as many real images", real, shares)]
    return Table(
        name="modes",
        title="Modes of Stacked MNIST",
        columns=("", f"modes of {judge.extractor.classes:,}", "KL (nats)"),
        rows=(*rows, *REPORTED),
        note=f"{DRAWN:,} samples; a mode counts if one of them is taken for it.",
    )


def _row(name: str, classes: Tensor, shares: Tensor) -> tuple[str, int, float]:
    found = _shares(classes, len(shares))
    return name, int((found > 0).sum()), float(class_divergence(found, shares))


def _shares(classes: Tensor, count: int) -> Tensor:
    """(N,) -> (K,), which add up to 1."""
    return torch.bincount(classes, minlength=count).double() / len(classes)
