"""How well a denoiser restores images from noise that it was trained on, and from other noise.

    noise_tables(model, images, print)           # trained on x tested on: MSE and PSNR
    noise_picture(model, images, "test")         # noisy images of every kind, and restored ones

One model does not show what its noise was good for. So the same configuration is trained afresh on
clean images, on every kind of noise and on Gaussian and salt & pepper together, and each of these
models is tested with all of these on the test images (reference system A3). All start from the same
weights and see the images in the same order, so that rows differ by the noise alone. They train a
fixed number of epochs with a rate that falls to the end, so that no last epoch is good by luck.

Every evaluation draws the same noise, that of `models.training.loop.evaluate`: all rows of a column
are measured on the same noisy images.

Shape legend: N images, C channels, H/W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from models.analysis.latent_models import LatentModel
from models.base import Note, build, evaluating
from models.data.images import Images, ImageSplits
from models.data.mixed_rows import shown_images
from models.data.noise import ALL, BOTH, KINDS, NONE, corrupt
from models.errors import DivergedError, format_count
from models.figures.grids import draw_rows
from models.kernels.fast_convolution import fast_convolutions
from models.results import Picture, Table
from models.seeds import derive_seed, same_draws
from models.training.loop import fit

SHOWN = 10  # images in the picture
UNTOUCHED = "untouched"


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """How close restored images are to the clean ones: means over images.

    mse: squared difference of pixels; psnr: 10 log10(1 / mse) of each image, in dB; infinite where
    an image is restored exactly
    """

    mse: float
    psnr: float


Row = list[Fidelity] | None
"""One model's results, one for each kind of noise; None: its training diverged."""


def noise_tables(model: LatentModel, images: ImageSplits, progress: Note) -> Iterator[Table]:
    """Yield the test MSE and PSNR for each kind of noise.

    The rows are the noisy images themselves, ``model``, and its configuration trained on each kind
    for ``model.noise_epochs`` epochs (0: not trained).
    """
    kinds, strength = noise_kinds(model.config.noise), model.config.strength
    columns = ("trained on", *(noise_label(kind) for kind in kinds))

    def row(tested: LatentModel, restore: Callable[[Tensor], Tensor]) -> Row:
        return [measure_fidelity(tested, images.test, kind, strength, restore) for kind in kinds]

    rows = {UNTOUCHED: row(model, lambda noisy: noisy), _own_name(model): row(model, model)}
    if model.noise_epochs:
        for kind, trained in _train_on_each(model, images, kinds, progress):
            rows[noise_label(kind)] = None if trained is None else row(trained, trained)
    for measure, unit in (("mse", "MSE"), ("psnr", "PSNR in dB")):
        yield Table(
            name=f"noise_{measure}",
            title=f"{unit} on noisy test images, trained on (rows) × tested on (columns)",
            columns=columns,
            rows=tuple((name, *_row_cells(row, measure, len(kinds))) for name, row in rows.items()),
            note=_method_note(model, strength) + (PSNR_NOTE if measure == "psnr" else ""),
            seeds=1,
            measured_on=f"{len(images.test):,} test images",
        )


PSNR_NOTE = " PSNR: 10 log10(1 / MSE) of each image, then the mean over images."


def _method_note(model: LatentModel, strength: float) -> str:
    """Return how the tables were measured, in words."""
    note = (
        f"Strength {strength:g}, against the clean images; `{UNTOUCHED}`: the noisy ones; "
        f"`{noise_label(BOTH)}`: both on each image; `{ALL}`: each image has one kind."
    )
    if model.noise_epochs:
        note += (
            " The last rows: this configuration trained "
            f"{format_count(model.noise_epochs, 'epoch')} on one noise each, from the same "
            "weights, the rate falling along a cosine."
        )
    return note


def noise_kinds(own: str) -> tuple[str, ...]:
    """Return the kinds to test: none, each kind alone, two kinds on one image, all kinds in turn.

    ``own`` is added if it is not among them.
    """
    kinds = (NONE, *KINDS, BOTH, ALL)
    return kinds if own in kinds else (*kinds, own)


def noise_label(kind: str) -> str:
    """Return the kind as people read it: ``salt & pepper + gaussian``."""
    return (
        "clean"
        if kind == NONE
        else kind.replace("salt_pepper", "salt & pepper").replace("+", " + ")
    )


def _own_name(model: LatentModel) -> str:
    """Return the name of the model's row."""
    return f"this model ({noise_label(model.config.noise)})"


def _row_cells(row: Row, measure: str, count: int) -> list[str | float]:
    """Return the numbers of a row as a table takes them.

    Infinity becomes a word, because JSON has none. A training that diverged has no numbers.
    """
    if row is None:
        return ["diverged"] * count
    values = [float(getattr(cell, measure)) for cell in row]
    return [value if math.isfinite(value) else "∞" for value in values]


def measure_fidelity(
    model: LatentModel,
    images: Images,
    kind: str,
    strength: float,
    restore: Callable[[Tensor], Tensor],
) -> Fidelity:
    """Measure how close ``restore`` brings noisy ``images`` to the clean ones.

    They lie on the device and in the memory layout of ``model``.
    """
    errors = []
    with same_draws(model.device), evaluating(model), fast_convolutions(model) as laid_out:
        for batch in images.batches():
            clean = laid_out(batch).images
            made = restore(corrupt(clean, kind, strength))
            errors.append((made - clean).square().flatten(1).mean(1))  # (n,)
    each = torch.cat(errors).double()  # (N,)
    return Fidelity(mse=float(each.mean()), psnr=float((-10 * each.log10()).mean()))


def _train_on_each(
    model: LatentModel, images: ImageSplits, kinds: tuple[str, ...], progress: Note
) -> Iterator[tuple[str, LatentModel | None]]:
    """Train ``model``'s configuration on each of ``kinds``; yield None where training diverges."""
    epochs, seed = model.noise_epochs, derive_seed(0, "noise")
    seconds: list[float] = []
    for index, kind in enumerate(kinds):
        config = replace(model.config, noise=kind, schedule="cosine")
        fresh = build(type(model), config, model.shape, seed=seed, device=model.device)
        assert isinstance(fresh, LatentModel)
        what = f"training on {noise_label(kind)} ({index + 1}/{len(kinds)})"
        trained: LatentModel | None = fresh
        try:
            with torch.enable_grad():
                for result in fit(fresh, images, epochs=epochs, seed=seed):
                    seconds.append(result.seconds)
                    to_do = (len(kinds) - index) * epochs - result.number
                    left = to_do * sum(seconds) / len(seconds)
                    progress(f"{what}: epoch {result.number}/{epochs}, {left:.0f} s left")
        except DivergedError:
            trained = None
        yield kind, trained


def noise_picture(model: LatentModel, images: ImageSplits, part: str) -> Picture:
    """Show noisy images of every kind, each row above what ``model`` makes of it."""
    clean = shown_images(images, part, SHOWN).images  # (N, C, H, W)
    rows = {}
    for kind in noise_kinds(model.config.noise):
        label = noise_label(kind)
        with same_draws(model.device), evaluating(model):
            rows[label] = corrupt(clean, kind, model.config.strength)
            rows[f"made of {label}"] = model(rows[label])

    def draw(path: Path, title: str) -> None:
        strength = f"strength {model.config.strength:g}"
        draw_rows(path, rows, title=f"{title}: noise of {strength}, and what is made of it")

    caption = (
        f"noisy images of every kind at strength {model.config.strength:g}, and what this model, "
        f"trained on {noise_label(model.config.noise)}, makes of them; the first row is the clean "
        "images"
    )
    return Picture(name="denoising", caption=caption, draw=draw)
