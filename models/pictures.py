"""Pictures for people: arrays in, a figure file out. Drawn without a display.

Shape legend: N images, C channels, H/W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#1f2937"
WRONG = "#dc2626"
COLORS = ("#2563eb", "#ea580c", "#059669", "#9333ea")
TILE, LABEL, MARGIN = 0.62, 1.2, 0.1  # inches: an image, the column of row names, the edge
LETTER = 0.078  # inches of a row's name, at most; longer names widen their column


def draw_rows(path: Path, rows: Mapping[str, Tensor], *, title: str) -> None:
    """One labelled row of images above the other; each (N, C, H, W) in [0, 1], N alike."""
    count = max(len(images) for images in rows.values())
    label_width = max(LABEL, LETTER * max(map(len, rows)) + 2 * MARGIN)
    width = label_width + TILE * count + MARGIN
    height = len(rows) * TILE + 0.34
    figure = new_figure(width, height)
    for row, (label, images) in enumerate(rows.items()):
        bottom = TILE * (len(rows) - 1 - row) + MARGIN / 2
        axes = figure.add_axes(
            (label_width / width, bottom / height, TILE * len(images) / width, TILE / height)
        )
        axes.imshow(as_strip(images), interpolation="nearest", aspect="auto", vmin=0, vmax=1)
        axes.set_axis_off()
        name = figure.text(
            (label_width - MARGIN) / width,
            (bottom + TILE / 2) / height,
            label,
            ha="right",
            va="center",
            fontsize=9,
            color=INK,
        )
        name.set_parse_math(False)  # a user's name of a class may hold a dollar sign
    figure.text(
        MARGIN / width, 1 - 0.08 / height, title, ha="left", va="top", fontsize=9, color=INK
    )
    save_figure(figure, path)


def draw_labelled(
    path: Path, images: Tensor, words: Sequence[str], right: Sequence[bool], *, title: str
) -> None:
    """Images (N, C, H, W) in a row with a word below each, red where it is not right."""
    tile, foot, head = 0.95, 0.24, 0.34
    width, height = tile * len(images) + 2 * MARGIN, tile + foot + head
    figure = new_figure(width, height)
    for index, (image, word, good) in enumerate(zip(images, words, right, strict=True)):
        left = (MARGIN + tile * index) / width
        axes = figure.add_axes((left, foot / height, 0.94 * tile / width, 0.94 * tile / height))
        axes.imshow(as_picture(image), interpolation="nearest", vmin=0, vmax=1)
        axes.set_axis_off()
        figure.text(
            left + 0.47 * tile / width, 0.5 * foot / height, word,
            ha="center", va="center", fontsize=8, color=INK if good else WRONG,
        )  # fmt: skip
    top = 1 - 0.08 / height
    figure.text(MARGIN / width, top, title, ha="left", va="top", fontsize=9, color=INK)
    save_figure(figure, path)


def as_strip(images: Tensor) -> np.ndarray[Any, Any]:
    """(N, C, H, W) -> (H + gap, N * (W + gap), 3): side by side, a white gap around each."""
    gap = max(1, images.shape[-1] // 28)
    tiles = [
        np.pad(as_picture(image), ((0, gap), (0, gap), (0, 0)), constant_values=1.0)
        for image in images
    ]
    return np.concatenate(tiles, axis=1)


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

    figure = new_figure(6.4, 3.6)
    axes = figure.add_subplot()
    values = [value for curve in curves.values() for value in curve]
    for color, (label, curve) in zip(COLORS, curves.items(), strict=False):
        epochs = range(1, len(curve) + 1)
        marker = "o" if len(curve) < 3 else None
        axes.plot(epochs, curve, label=label, color=color, linewidth=1.6, marker=marker)
    if values and min(values) > 0 and max(values) / min(values) > 3:
        axes.set_yscale("log")
        plain_log_labels(axes)
    if best_epoch is not None:
        axes.axvline(best_epoch, color=INK, linewidth=0.8, linestyle=":")
        axes.plot([], [], color=INK, linewidth=0.8, linestyle=":", label=f"best: {best_epoch}")
    axes.set_xlabel("epoch")
    axes.set_ylabel(metric.upper())
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.set_layout_engine("tight")
    save_figure(figure, path)


def draw_lines(
    path: Path,
    panels: Mapping[str, Mapping[str, tuple[Tensor, Tensor]]],
    *,
    x: str,
    y: str,
    title: str,
    marks: Mapping[float, str] | None = None,
) -> None:
    """Panels side by side, each with its lines (x, y), y logarithmic.

    x, y: what the axes are; marks: places on x and their words
    """
    figure = new_figure(3.6 * len(panels), 3.4)
    for index, (name, lines) in enumerate(panels.items()):
        axes = figure.add_subplot(1, len(panels), index + 1)
        for color, (label, (places, values)) in zip(COLORS, lines.items(), strict=False):
            axes.plot(places, values, label=label, color=color, linewidth=1.6)
        for place, word in (marks or {}).items():
            axes.axvline(place, color=INK, linewidth=0.8, linestyle=":")
            at = axes.get_xaxis_transform()  # x as data, y as a share of the height
            axes.text(place, 1, f"{word} ", transform=at, ha="right", va="top", fontsize=8)
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        if high / low < 100:
            plain_log_labels(axes)
        axes.set_xlabel(x)
        axes.set_ylabel(y if index == 0 else "")
        axes.set_title(name, loc="left", fontsize=9, color=INK)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, color=INK)
    figure.set_layout_engine("tight")
    save_figure(figure, path)


def plain_log_labels(axes: Axes, *, most: float = math.inf, across: bool = False) -> None:
    """0.02 rather than 2 x 10^-2 on an axis that spans few decades.

    most: numbers that there is room for; where 1, 2, 5, 10, ... are more, it is 1, 10, ...
    across: on the axis to the right, not upwards
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis, (low, high) = axes.yaxis, axes.get_ylim()
    if across:
        axis, (low, high) = axes.xaxis, axes.get_xlim()  # type: ignore[assignment]
    subs = (1.0, 2.0, 5.0) if 3 * math.log10(high / low) <= most else (1.0,)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def new_figure(width: float, height: float) -> Figure:
    """An empty white figure of so many inches."""
    from matplotlib.figure import Figure  # no pyplot: no display, no global state

    return Figure(figsize=(width, height), facecolor="white")


def save_figure(figure: Figure, path: Path) -> None:
    """As PNG whatever the suffix: ``path`` may be a temporary name."""
    figure.savefig(path, dpi=144, format="png")
