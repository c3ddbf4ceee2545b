"""The table of a model card that holds what papers report: FID and KID in Inception's features.

They are as torch-fidelity and torchmetrics define them: features of `models.evaluation.inception`,
the Fréchet distance of Gaussians, and the kernel distance over 100 subsets of 1,000. There are as
many samples as a study's evaluator takes, beside all test images.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from models.base import Model, Note, evaluating
from models.data.images import ImageSplits
from models.data.mixed_rows import mixed_rows
from models.evaluation.frechet import Moments, frechet_distance
from models.evaluation.inception import Inception, load_inception
from models.evaluation.kid import KernelDistance
from models.evaluation.sample_evaluator import SAMPLES
from models.results import Table
from models.seeds import same_draws

AT_ONCE = 256  # images between two lines on progress


def inception_table(model: Model, images: ImageSplits, path: Path, *, say: Note) -> Table:
    """Return the table of samples of ``model`` beside the test images.

    path: of Inception's weights; say: hears how far it is
    Raises `models.errors.ExtractorError` for a file that is not its weights.
    """
    network = load_inception(path).to(model.device)
    count = min(SAMPLES, len(images.train))
    with same_draws(model.device), evaluating(model):
        made = model.samples(count, images, "test")
    real, others = images.test.pixels, images.train.pixels[mixed_rows(images, "train", count)]
    sets = {"test images": real, "training images": others, "samples": made}
    seen = {name: features_of(network, each, name, say) for name, each in sets.items()}
    reference, kernels = Moments.of(seen["test images"]), KernelDistance(seen["test images"])
    columns = []
    for name in ("samples", "training images"):
        kid, deviation = kernels(seen[name])
        columns.append((frechet_distance(reference, Moments.of(seen[name])), kid, deviation))
    rows = zip(("FID", "KID", "its deviation over subsets"), *columns, strict=True)
    return Table(
        name="inception",
        title="Quality of the samples in Inception's features",
        columns=("measure", "this model", "real images"),
        rows=tuple(rows),
        note=f"{len(made):,} samples beside {len(real):,} test images, by the weights in "
        f"{path.name}. Real images: {len(others):,} of the training images. FID falls with the "
        "number of samples; papers mostly take 50,000.",
        seeds=1,
        measured_on=f"{len(made):,} samples, {len(real):,} test images",
    )


def features_of(network: Inception, images: Tensor, name: str, say: Note) -> Tensor:
    """Return the features (N, 2048) of images (N, C, H, W), floats in [0, 1] or uint8."""

    def parts() -> Iterator[Tensor]:
        for first in range(0, len(images), AT_ONCE):
            say(f"Inception's features of {first} of {len(images)} {name}")
            part = images[first : first + AT_ONCE]
            yield network(part if part.is_floating_point() else part.float() / 255)

    return torch.cat(list(parts()))
