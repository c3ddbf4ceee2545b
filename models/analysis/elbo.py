"""Pictures and tables of a variational autoencoder: draws from its prior, bounds, dimensions.

Bounds are on a Bernoulli likelihood in nats per image, for two versions of the test images. With
grey values it is the bound that was trained and searched. Published numbers for MNIST are those of
binarised images: each pixel is drawn once, white with the probability of its grey value. Images
that are black and white already have this version alone.

An estimate of log p(x) takes many importance samples an image. So it is made for some of the images
only, and compared with the bound on the same images, from the same samples. The gap between the two
varies far less from image to image than either of them. So the error of the gap is that of the
paired differences, and -log p(x) of *all* images is best estimated by their bound, which is cheap,
less the gap.

Shape legend: N images, C channels, H/W pixels, Z latent width.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from math import prod

import torch
from torch import Tensor

from models.analysis.importance_sampling import Estimate, Progress, estimate_by_importance_sampling
from models.analysis.latent_models import VariationalModel
from models.base import Note
from models.data.binarised import binarise, is_binary
from models.data.images import Images
from models.figures.canvas import figure_picture
from models.figures.grids import sample_figure
from models.figures.latent import grid_figure
from models.kernels.fast_convolution import fast_convolutions
from models.results import Picture, Table
from models.seeds import derive_seed, drawing, same_draws
from models.training.loop import evaluate

ACTIVE = 0.01  # variance over images from which a dimension's mean tells them apart
SHOWN = 100  # new images
GRID = 15  # codes of the prior's grid in each direction
SAMPLES = {"cuda": 500}  # importance samples an image
DECODED = {"cuda": 4e9}  # values decoded for them, at most: decides how many images are used
FEWER_SAMPLES, FEWER_DECODED = 100, 4e7  # the same on other devices
PATIENCE = 25  # times as many values where a configuration names the number of samples
AT_ONCE = 2**20  # values decoded at once
SAID_EVERY = 5.0  # seconds between two lines on progress


def prior_pictures(model: VariationalModel) -> Iterator[Picture]:
    """Yield new images from N(0, I), and a grid of its quantiles where the latent is a plane."""

    generator = torch.Generator().manual_seed(derive_seed(0, "prior samples"))
    drawn = model.sample(SHOWN, generator=generator)
    what = "decoded draws from the prior N(0, I)"
    yield figure_picture("samples", what, what, lambda title: sample_figure(drawn, title))
    if model.latent == 2:
        axis = prior_quantiles(GRID)
        decoded = model.decode(torch.cartesian_prod(axis, axis).flip(1).to(model.device))
        axes = [axis.numpy(), axis.numpy()]
        yield figure_picture(
            "prior_grid",
            f"decoded {GRID}x{GRID} quantiles of the prior N(0, I)",
            "quantiles of the prior",
            lambda title: grid_figure(decoded, axes, title),
        )


def prior_quantiles(count: int) -> Tensor:
    """Return ``count`` places of N(0, 1) with the same probability between any two neighbours."""
    steps = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    quantiles: Tensor = torch.special.ndtri(steps)
    return quantiles.float()


def latent_table(model: VariationalModel, images: Images) -> Table:
    """Count the latent dimensions that are active over all ``images``, and say what that means."""
    mean, _ = encode_posteriors(model, images)
    active = int(active_dimensions(mean).sum())
    return Table(
        name="latent",
        title="Latent dimensions",
        columns=("latent", "test images"),
        rows=(("verdict", describe_activity(active, model.latent)), ("active dimensions", active)),
        note="a dimension is active when its mean varies by more than 0.01 over the images "
        "(Burda et al. 2016)",
        seeds=1,
        measured_on=f"{len(images):,} test images",
    )


def bound_table(model: VariationalModel, images: Images, say: Note) -> Table:
    """Return the negative evidence lower bound on all ``images``, and -log p(x) on as many as the
    device manages in minutes."""
    binary = is_binary(images.pixels)
    versions = {"black and white" if binary else "grey values": images}
    if model.shape[0] == 1 and not binary:
        versions["binarised"] = binarise(images)
    samples, count = sampling_effort(model, len(images))
    columns = [_bound_column(model, version, name, say) for name, version in versions.items()]
    names = (
        "negative ELBO, reconstruction + KL",
        "reconstruction (cross-entropy)",
        "KL",
        f"negative ELBO on {count} images",
        f"-log p(x) on the same {count}, {samples} importance samples",
        "its standard error over images",
        "gap between bound and likelihood, mean over images",
        "standard error of the gap, paired by image",
        "-log p(x) of all images, by the gap",
        "its standard error, from the gap and the draws",
    )
    meaning = (
        "all values are 0 or 1"
        if binary
        else "binarised: each pixel drawn once with a fixed seed, as for published figures "
        "of MNIST, whatever the model was trained on"
    )
    return Table(
        name="bounds",
        title="Bounds on the likelihood of the test images",
        columns=("nats per image", *versions),
        rows=tuple(zip(names, *columns, strict=True)),
        note=f"Bernoulli likelihood; the {count} images are drawn at random, and their bound and "
        f"their likelihood are estimated from the same samples; {meaning}",
        seeds=1,
        measured_on=f"{len(images):,} test images, or as many as the row says",
    )


def sampling_effort(model: VariationalModel, images: int) -> tuple[int, int]:
    """Return how many importance samples an image gets, and how many of ``images`` are used."""
    kind, asked = model.device.type, model.importance_samples
    samples = asked or SAMPLES.get(kind, FEWER_SAMPLES)
    decoded = DECODED.get(kind, FEWER_DECODED) * (PATIENCE if asked else 1)
    return samples, max(1, min(images, round(decoded / (samples * prod(model.shape)))))


def _bound_column(
    model: VariationalModel, images: Images, name: str, say: Note
) -> list[float | str]:
    """Return one column of `bound_table`."""
    say(f"the bound on {len(images)} test images, {name}")
    measured = evaluate(model, images)
    found = estimate_likelihood(model, images, say=say, name=name)
    gaps = found.log_likelihood - found.elbo
    gap_error = standard_error(gaps)
    drawn = float(found.draw_variance.mean()) / len(images)  # the bound has one draw an image
    return [
        *(measured[metric] for metric in ("nelbo", "bce", "kl")),
        float(-found.elbo.mean()),
        float(-found.log_likelihood.mean()),
        _error_cell(standard_error(found.log_likelihood)),
        float(gaps.mean()),
        _error_cell(gap_error),
        measured["nelbo"] - float(gaps.mean()),
        _error_cell(math.sqrt(gap_error**2 + drawn)),
    ]


def standard_error(values: Tensor) -> float:
    """Return the standard error of the mean of ``values`` (N,); NaN where there is one alone."""
    if len(values) < 2:
        return math.nan
    return float(values.std(correction=1)) / math.sqrt(len(values))


def _error_cell(error: float) -> float | str:
    """Return an error as a table takes it: JSON has no NaN."""
    return "-" if math.isnan(error) else error


def estimate_likelihood(
    model: VariationalModel, images: Images, *, say: Note, name: str
) -> Estimate:
    """Estimate log p(x) and its bound for some of ``images``, which are always the same."""
    samples, count = sampling_effort(model, len(images))
    generator = torch.Generator().manual_seed(derive_seed(0, "likelihood"))
    chosen = torch.randperm(len(images), generator=generator)[:count]
    some = images.take(chosen.to(images.pixels.device))
    posterior = encode_posteriors(model, some)
    with drawing(model.device, derive_seed(0, "importance")), fast_convolutions(model):
        return estimate_by_importance_sampling(
            model.log_likelihood,
            posterior,
            some.batch(slice(None)).images,
            samples=samples,
            rows=max(1, AT_ONCE // prod(model.shape)),
            progress=_progress_notes(say, f"log p(x), {name}, {samples} samples an image"),
        )


def encode_posteriors(model: VariationalModel, images: Images) -> tuple[Tensor, Tensor]:
    """Return mean and log-variance of all ``images``, (N, Z) each, as the encoder sees them."""
    with same_draws(model.device), fast_convolutions(model) as laid_out:
        found = [model.posterior(laid_out(batch).images) for batch in images.batches()]
    means, log_variances = zip(*found, strict=True)
    return torch.cat(means), torch.cat(log_variances)


def _progress_notes(say: Note, what: str) -> Progress:
    """Return a function that says every few seconds how far it is, and how long it will take."""
    began = last = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= SAID_EVERY and done < total:
            last = now
            left = (now - began) / done * (total - done)
            say(f"{what}: {done} of {total} images, {left:.0f} s left")

    return progress


def active_dimensions(means: Tensor) -> Tensor:
    """Return which dimensions tell images apart: means (N, Z) -> (Z,) bool (Burda et al. 2016)."""
    return means.var(0, correction=0) > ACTIVE


def describe_activity(active: int, latent: int) -> str:
    """Return the verdict on a latent space with ``active`` of ``latent`` dimensions active."""
    words = f"{active} of {latent} latent dimensions active"
    if active == 0:
        return f"collapsed: {words}; lower beta or lengthen warm_up"
    return words
