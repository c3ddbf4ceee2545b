"""Figures of lines: metrics over epochs, and spectra."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from models.figures.canvas import COLORS, INK, new_figure, own_style, plain_log_labels, save_figure


@own_style()
def draw_learning_curve(
    path: Path,
    curves: Mapping[str, Sequence[float]],
    *,
    metric: str,
    title: str,
    best_epoch: int | None = None,
) -> None:
    """Draw lines over epochs 1, 2, ...; the axis is logarithmic where the values allow and need
    it."""
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
    axes.set_ylabel(metric)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.set_layout_engine("tight")
    save_figure(figure, path)


@own_style()
def draw_lines(
    path: Path,
    panels: Mapping[str, Mapping[str, tuple[Tensor, Tensor]]],
    *,
    x: str,
    y: str,
    title: str,
    marks: Mapping[float, str] | None = None,
) -> None:
    """Draw panels side by side, each with its lines (x, y); y is logarithmic.

    x, y: names of the axes; marks: places on x and their words
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
        plain_log_labels(axes, most=6)
        axes.set_xlabel(x)
        axes.set_ylabel(y if index == 0 else "")
        axes.set_title(name, loc="left", fontsize=9, color=INK)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, color=INK)
    figure.set_layout_engine("tight")
    save_figure(figure, path)
