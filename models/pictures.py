"""Pictures for people: arrays in, a figure file out. Drawn without a display.

Shape legend: N images, C channels, H/W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#1f2937"
COLORS = ("#2563eb", "#ea580c", "#059669", "#9333ea")
TILE = 0.62  # inches an image


def draw_reconstructions(
    path: Path, originals: Tensor, reconstructions: Tensor, *, title: str
) -> None:
    """Two rows, original above reconstruction; both (N, C, H, W) in [0, 1]."""
    count = len(originals)
    figure = _figure(TILE * count + 1.35, TILE * 2 + 0.5)
    rows = {"original": originals, "reconstruction": reconstructions}
    for row, (label, images) in enumerate(rows.items()):
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        place_row(axes, figure, images, row=row)
        figure.text(
            1.22 / figure.get_figwidth(),
            (TILE * (1.5 - row) + 0.08) / figure.get_figheight(),
            label,
            ha="right",
            va="center",
            fontsize=9,
            color=INK,
        )
    figure.text(0.02, 0.97, title, ha="left", va="top", fontsize=9, color=INK)
    _save(figure, path)


def place_row(axes: Axes, figure: Figure, images: Tensor, *, row: int) -> None:
    """One strip of images, left to right, in figure coordinates; row 0 is the upper one."""
    width, height = figure.get_size_inches()
    strip = np.concatenate([as_picture(image) for image in images], axis=1)  # (H, N*W, 3)
    left, bottom = 1.3, TILE * (1 - row) + 0.08
    inset = axes.inset_axes(
        (left / width, bottom / height, TILE * len(images) / width, TILE * 0.96 / height)
    )
    inset.imshow(strip, interpolation="nearest", aspect="auto", vmin=0, vmax=1)
    inset.set_axis_off()


def as_picture(image: Tensor) -> np.ndarray[Any, Any]:
    """(1 or 3, H, W) in [0, 1] -> (H, W, 3) for drawing, on the host."""
    pixels = image.detach().float().clamp(0, 1).cpu().numpy()
    if len(pixels) == 1:
        pixels = np.repeat(pixels, 3, axis=0)
    return pixels.transpose(1, 2, 0)


def draw_learning_curve(
    path: Path,
    curves: Mapping[str, Sequence[float]],
    *,
    metric: str,
    title: str,
    best_epoch: int | None = None,
) -> None:
    """Lines over epochs 1, 2, ...; a logarithmic axis where the values allow and need it."""
    from matplotlib.ticker import MaxNLocator

    figure = _figure(6.4, 3.6)
    axes = figure.add_subplot()
    values = [value for curve in curves.values() for value in curve]
    for color, (label, curve) in zip(COLORS, curves.items(), strict=False):
        epochs = range(1, len(curve) + 1)
        marker = "o" if len(curve) < 3 else None
        axes.plot(epochs, curve, label=label, color=color, linewidth=1.6, marker=marker)
    if values and min(values) > 0 and max(values) / min(values) > 3:
        axes.set_yscale("log")
        _plain_log_labels(axes)
    if best_epoch is not None:
        axes.axvline(best_epoch, color=INK, linewidth=0.8, linestyle=":")
        axes.plot([], [], color=INK, linewidth=0.8, linestyle=":", label=f"best: {best_epoch}")
    axes.set_xlabel("epoch")
    axes.set_ylabel(metric.upper())
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.set_layout_engine("tight")
    _save(figure, path)


def _plain_log_labels(axes: Axes) -> None:
    """0.02 rather than 2 x 10^-2 on an axis that spans few decades."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure  # no pyplot: no display, no global state

    return Figure(figsize=(width, height), facecolor="white")


def _save(figure: Figure, path: Path) -> None:
    """As PNG whatever the suffix: ``path`` may be a temporary name."""
    figure.savefig(path, dpi=144, format="png")
