"""How much of a checkerboard a decoder draws, compared with a decoder of the other kind.

    yield from checkerboard_tables(model, make_other, images, print)
    yield from checkerboard_pictures(model, make_other, images)

A decoder that doubles its images leaves a pattern, if any, at the period of its last step, 2
pixels, and of the one before, 4. A periodic pattern is a peak in the spectrum of rows and columns;
the spectrum of pictures as such is smooth. So each number is the power at a period over the
(geometric) mean power at the two neighbouring frequencies: about 1 where there is no peak.

The model is compared with one that has transposed convolutions of stride 2 and a code of the same
width. The caller builds that one; here it is trained on the same images for `EPOCHS` epochs.

Shape legend: N images, C channels, H/W pixels, S side of the square that is analysed, Z latent
width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from models.analysis.latent_models import LatentModel
from models.base import Note, build, evaluating
from models.data.images import ImageSplits
from models.figures.curves import draw_lines
from models.figures.grids import draw_rows
from models.results import Picture, Table
from models.seeds import derive_seed
from models.training.loop import fit

EPOCHS = 5  # for the transposed convolutions
ANALYSED = 1000  # images and codes
SHOWN = 10
PERIODS = (2, 4)  # pixels
RESIZED, TRANSPOSED, DATA = "resized", "transposed", "test images"
SEED = derive_seed(0, "checkerboard")

_trained_for: WeakKeyDictionary[LatentModel, LatentModel] = WeakKeyDictionary()
"""The trained model of a comparison, by model: its tables and its pictures show the same one."""


def line_power(images: Tensor) -> Tensor:
    """Images (N, C, H, W) -> (S / 2 + 1,): mean power of lines at 0, 1, ... cycles a side.

    S: the largest multiple of the longest period that fits, so that periods fall on frequencies
    """
    side = min(images.shape[2:]) // max(PERIODS) * max(PERIODS)
    square = images[:, :, :side, :side].double()
    lines = torch.stack([square, square.transpose(2, 3)])  # (2, N, C, S, S)
    power: Tensor = torch.fft.rfft(lines).abs().square().mean((0, 1, 2, 3))  # (S / 2 + 1,)
    return power


def grid_peak(images: Tensor, period: int) -> float:
    """Return the power of (N, C, H, W) at ``period`` pixels over that at its two neighbours.

    1 means that there is no peak. The highest frequency, period 2, has neighbours on one side
    only: the next two.
    """
    power = line_power(images)
    place = 2 * (len(power) - 1) // period
    around = (place - 1, place + 1 if place + 1 < len(power) else place - 2)
    return float(power[place] / (power[around[0]] * power[around[1]]).sqrt())


MakeOther = Callable[[int], LatentModel]
"""``make_other(latent)`` builds the untrained model of the comparison, with a code so wide."""


def checkerboard_tables(
    model: LatentModel, make_other: MakeOther, images: ImageSplits, progress: Note
) -> Iterator[Table]:
    """Yield the peaks of outputs before training, of outputs after it, and of their errors."""
    test = images.test.batch(slice(0, ANALYSED)).images
    rows: list[tuple[str | float, ...]] = []
    for name, (before, after) in _outputs_of_both(model, make_other, images, progress).items():
        shown = (before, after, after - test)
        rows.append((name, *(grid_peak(made, period) for made in shown for period in PERIODS)))
    own = [grid_peak(test, period) for period in PERIODS]
    rows.append((DATA, "-", "-", *own, "-", "-"))
    what = ("untrained", "made", "error")
    yield Table(
        name="checkerboard",
        title="Checkerboard: power at periods of 2 and 4 pixels over that of their neighbours",
        columns=("decoder", *(f"{stage}, {period} px" for stage in what for period in PERIODS)),
        rows=tuple(rows),
        note=(
            f"1 means no peak. untrained: outputs for {ANALYSED} random codes; made: outputs for "
            "clean test images; error: these outputs less the images. "
            f"{TRANSPOSED}: a CAE with a code of the same width after {EPOCHS} epochs."
        ),
        seeds=1,
        measured_on=f"{len(test):,} test images, or as many random codes",
    )


def checkerboard_pictures(
    model: LatentModel, make_other: MakeOther, images: ImageSplits
) -> Iterator[Picture]:
    """Yield outputs of both decoders before and after training, and the spectra behind the
    table."""
    outputs = _outputs_of_both(model, make_other, images, lambda _: None)
    test = images.test.batch(slice(0, ANALYSED)).images
    rows = {
        f"{name}, untrained": stretch_contrast(before[:SHOWN])
        for name, (before, _) in outputs.items()
    }
    rows |= {DATA: test[:SHOWN]}
    rows |= {name: after[:SHOWN] for name, (_, after) in outputs.items()}
    spectra = {
        "untrained, of random codes": {n: line_power(before) for n, (before, _) in outputs.items()},
        "error on test images": {n: line_power(after - test) for n, (_, after) in outputs.items()},
    }

    def draw(path: Path, title: str) -> None:
        draw_rows(path, rows, title=f"{title}: does upsampling leave a checkerboard?")

    def draw_spectra(path: Path, title: str) -> None:
        draw_lines(
            path,
            {
                panel: {name: (_frequencies(power), power.cpu()) for name, power in lines.items()}
                for panel, lines in spectra.items()
            },
            x="cycles per pixel",
            y="power of rows and columns",
            marks={1 / period: f"{period} px" for period in PERIODS},
            title=f"{title}: spectra",
        )

    yield Picture(
        name="checkerboard",
        caption=(
            f"{RESIZED}: this model; {TRANSPOSED}: a CAE after {EPOCHS} epochs; untrained: outputs "
            "of random codes, their contrast stretched"
        ),
        draw=draw,
    )
    yield Picture(
        name="checkerboard_spectra",
        caption="a checkerboard is a peak at a period of 2 or 4 pixels",
        draw=draw_spectra,
    )


def stretch_contrast(images: Tensor) -> Tensor:
    """Stretch each of (N, C, H, W) from its darkest to its brightest value over [0, 1]."""
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    return (images - low) / (high - low).clamp_min(1e-12)


def _frequencies(power: Tensor) -> Tensor:
    """Return the frequencies (S / 2 + 1,) of a spectrum, in cycles per pixel."""
    return torch.linspace(0, 0.5, len(power))


def _outputs_of_both(
    model: LatentModel, make_other: MakeOther, images: ImageSplits, progress: Note
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return outputs (N, C, H, W) of both models, untrained and trained."""
    models = {RESIZED: model, TRANSPOSED: _train_other(model, make_other, images, progress)}
    return {
        name: (_untrained_outputs(each), _reconstructions(each, images))
        for name, each in models.items()
    }


def _untrained_outputs(model: LatentModel) -> Tensor:
    """Return what a model with its initial weights makes of random codes."""
    fresh = build(type(model), model.config, model.shape, seed=SEED)
    assert isinstance(fresh, LatentModel)
    with evaluating(fresh):
        width = fresh.encode(torch.zeros(1, *model.shape)).shape[1]
        generator = torch.Generator().manual_seed(SEED)
        codes = torch.randn(ANALYSED, width, generator=generator).abs()  # as after a ReLU
        return fresh.decode(codes)


def _reconstructions(model: LatentModel, images: ImageSplits) -> Tensor:
    """Return what ``model`` makes of the first test images."""
    with evaluating(model):
        made: Tensor = model(images.test.batch(slice(0, ANALYSED)).images)
    return made


def _train_other(
    model: LatentModel, make_other: MakeOther, images: ImageSplits, progress: Note
) -> LatentModel:
    """Return the other model of the comparison, which is trained once for each ``model``."""
    if model in _trained_for:
        return _trained_for[model]
    other = make_other(model.latent)
    seconds = 0.0
    with torch.enable_grad():
        for result in fit(other, images, epochs=EPOCHS, seed=SEED):
            seconds += result.seconds
            left = seconds / result.number * (EPOCHS - result.number)
            epoch = f"epoch {result.number}/{EPOCHS}, {left:.0f} s left"
            progress(f"training transposed convolutions: {epoch}")
    return _trained_for.setdefault(model, other)
