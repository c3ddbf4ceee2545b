"""Figures of latent spaces: points with the names of their groups, and grids of decoded images.

Each function makes a figure from arrays and tensors on the host; `models/analysis/latent_space.py`
computes them.

Shape legend: N points, K images of a row, C channels, H/W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from models.figures.canvas import INK, as_picture, new_figure
from models.figures.grids import short_name, show_literally

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = np.ndarray[Any, np.dtype[Any]]

GROUPS = (
    "#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd",
    "#8c564b", "#f781bf", "#111827", "#bcbd22", "#17becf",
)  # fmt: skip
OTHERS = "#d1d5db"  # groups beyond ten: nobody tells more colours apart
PLAIN = "#2563eb"
BINS = 60
PANEL, LEGEND = 2.7, 0.6  # inches of one of several maps, and of the names beside it
ACROSS = 3  # maps side by side


@dataclass(frozen=True, kw_only=True)
class Coloring:
    """What tells the colours of points.

    by: "class", the name of an attribute, or nothing
    values: (N,) places in ``names``; numbers on a scale where ``by`` has no names
    """

    by: str
    values: Array
    names: tuple[str, ...] = ()

    def of(self, index: Array) -> Coloring:
        """Return the coloring of the points at ``index`` alone."""
        return Coloring(by=self.by, values=self.values[index], names=self.names)

    def name(self, point: int) -> str:
        """Return the name of one point's group; empty where there are no groups."""
        return self.names[self.values[point]] if self.names else ""

    def shown(self) -> list[int]:
        """Return the groups that have a colour of their own: the ten largest, in their order."""
        sizes = np.bincount(self.values, minlength=len(self.names))
        largest = np.argsort(-sizes, kind="stable")[: len(GROUPS)]
        return sorted(int(group) for group in largest if sizes[group])


def map_figure(
    points: Array, coloring: Coloring, title: str, *, axes: tuple[str, str] | None = None
) -> Figure:
    """Draw points (N, 2) with a legend or a scale beside them; one unit for both directions.

    axes: labels; None: the axes have no meaning and no numbers
    """
    spread = np.ptp(points, axis=0)
    slope = float(spread[1] / spread[0]) if spread[0] > 0 else 1.0
    figure = new_figure(7.2, 0.8 + 5.2 * min(max(slope, 0.4), 1.0))
    figure.set_layout_engine("constrained")
    drawn = figure.add_subplot()
    _draw_points(figure, drawn, points, coloring)
    drawn.set_aspect("equal", adjustable="datalim")
    if axes is None:
        drawn.set_xticks([])
        drawn.set_yticks([])
    else:
        drawn.set_xlabel(axes[0])
        drawn.set_ylabel(axes[1])
        drawn.spines[["top", "right"]].set_visible(False)
    drawn.set_title(title, loc="left", fontsize=10, color=INK)
    return figure


def maps_figure(
    points: Array,
    colorings: Sequence[Coloring],
    title: str,
    *,
    axes: tuple[str, str] | None = None,
) -> Figure:
    """Draw the same points (N, 2) once for each coloring, as `map_figure` does."""
    if len(colorings) == 1:
        return map_figure(points, colorings[0], title, axes=axes)
    spread = np.ptp(points, axis=0)
    slope = float(spread[1] / spread[0]) if spread[0] > 0 else 1.0
    figure = _panel_figure(colorings, title, height=PANEL * min(max(slope, 0.5), 1.0))
    for panel, coloring in zip(figure.get_axes(), colorings, strict=True):
        _draw_points(figure, panel, points, coloring, beside=panel)
        panel.set_aspect("equal", adjustable="datalim")
        if axes is None:
            panel.set_xticks([])
            panel.set_yticks([])
    if axes is not None:
        figure.supxlabel(axes[0], fontsize=8)
        figure.supylabel(axes[1], fontsize=7)
    return figure


def _panel_figure(colorings: Sequence[Coloring], title: str, *, height: float) -> Figure:
    """Return a figure with one panel for each coloring, under its name.

    height: inches of a panel without its name
    """
    across = min(len(colorings), ACROSS)
    down = -(-len(colorings) // across)
    figure = new_figure((PANEL + LEGEND) * across, 0.5 + (height + 0.35) * down)
    figure.set_layout_engine("constrained")
    for index, coloring in enumerate(colorings):
        panel = figure.add_subplot(down, across, index + 1)
        name = panel.set_title(short_name(coloring.by), loc="left", fontsize=9, color=INK)
        show_literally(name)
        panel.tick_params(labelsize=7)
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, color=INK)
    return figure


def _draw_points(
    figure: Figure,
    axes: Axes,
    points: Array,
    coloring: Coloring,
    *,
    beside: Axes | None = None,
) -> None:
    """Draw all points in one call, in the order of the set, so that no class covers the others.

    beside: where the legend stands, which else belongs to the whole figure
    """
    size = float(np.clip(9000 / max(len(points), 1), 4, 30))
    style: dict[str, Any] = {"s": size, "alpha": 0.75, "linewidths": 0}
    if coloring.by and not coloring.names:
        drawn = axes.scatter(points[:, 0], points[:, 1], c=coloring.values, cmap="viridis", **style)
        scale = figure.colorbar(drawn, ax=axes, shrink=0.8)
        scale.solids.set_alpha(1)  # type: ignore[union-attr]
        if beside is None:  # else the panel has its name
            scale.set_label(short_name(coloring.by))
            show_literally(scale.ax.yaxis.label)
        scale.ax.tick_params(labelsize=10 if beside is None else 7)
        return
    axes.scatter(points[:, 0], points[:, 1], c=_point_colors(coloring), **style)
    _draw_legend(beside or figure, coloring)


def _point_colors(coloring: Coloring) -> list[str]:
    """Return the colour of each point."""
    if not coloring.names:
        return [PLAIN] * len(coloring.values)
    chosen = dict(zip(coloring.shown(), GROUPS, strict=False))
    return [chosen.get(int(group), OTHERS) for group in coloring.values]


def _draw_legend(owner: Figure | Axes, coloring: Coloring) -> None:
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    if not coloring.names:
        return
    shown = coloring.shown()
    is_named = not isinstance(owner, Figure)  # a panel has the attribute's name above it
    names = [coloring.names[group].removeprefix(f"{coloring.by} = " * is_named) for group in shown]
    entries = [(short_name(name), color) for name, color in zip(names, GROUPS)]  # noqa: B905
    others = len(np.unique(coloring.values)) - len(shown)
    if others:
        entries.append((f"{others} others", OTHERS))
    handles = [
        Line2D([], [], marker="o", linestyle="", markersize=6, color=color) for _, color in entries
    ]
    style: dict[str, Any] = (
        {"loc": "upper left", "bbox_to_anchor": (1, 1), "fontsize": 8, "borderaxespad": 0}
        if is_named
        else {"loc": "outside right center"}
    )
    legend = owner.legend(handles, [name for name, _ in entries], frameon=False, **style)
    for text in legend.get_texts():
        show_literally(text)


def line_figure(codes: Array, coloring: Coloring, title: str) -> Figure:
    """Draw how often each value of a one-dimensional code (N,) occurs, group upon group."""
    figure = new_figure(7.2, 3.8)
    figure.set_layout_engine("constrained")
    axes = figure.add_subplot()
    _draw_frequencies(axes, codes, coloring)
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    _draw_legend(figure, coloring)
    return figure


def lines_figure(codes: Array, colorings: Sequence[Coloring], title: str) -> Figure:
    """Draw the same codes (N,) once for each coloring, as `line_figure` does."""
    if len(colorings) == 1:
        return line_figure(codes, colorings[0], title)
    figure = _panel_figure(colorings, title, height=PANEL * 0.6)
    for panel, coloring in zip(figure.get_axes(), colorings, strict=True):
        _draw_frequencies(panel, codes, coloring)
        _draw_legend(panel, coloring)
    return figure


def _draw_frequencies(axes: Axes, codes: Array, coloring: Coloring) -> None:
    colors = np.array(_point_colors(coloring) if coloring.names else [PLAIN] * len(codes))
    order = [color for color in (*GROUPS, OTHERS, PLAIN) if (colors == color).any()]
    stacks = [codes[colors == color] for color in order]
    axes.hist(stacks, bins=BINS, stacked=True, color=order)
    axes.set_xlabel("z1")
    axes.set_ylabel("images")
    axes.spines[["top", "right"]].set_visible(False)


def grid_figure(images: Tensor, axes: Sequence[Array], title: str) -> Figure:
    """Draw decoded images at their codes, z1 to the right and z2, if there is one, upwards.

    images: (K1 * K2, C, H, W), z1 going fastest; axes: the values (K1,) of z1 and (K2,) of z2
    """
    across, up = len(axes[0]), len(axes[1]) if len(axes) > 1 else 1
    rows = [as_row(images[row * across : (row + 1) * across]) for row in range(up)]
    unit = 6.4 / max(across, up)
    figure = new_figure(max(unit * across, 3.0) + 0.8, unit * up + 0.9)
    figure.set_layout_engine("constrained")
    drawn = figure.add_subplot()
    extent = (-0.5, across - 0.5, -0.5, up - 0.5)
    drawn.imshow(np.concatenate(rows[::-1]), extent=extent, vmin=0, vmax=1)
    drawn.set_xticks(*_ticks(axes[0]))
    drawn.set_xlabel("z1")
    drawn.set_yticks([])
    if len(axes) > 1:
        drawn.set_yticks(*_ticks(axes[1]))
        drawn.set_ylabel("z2")
    drawn.set_title(title, loc="left", fontsize=10, color=INK)
    return figure


def as_row(images: Tensor) -> Array:
    """(K, C, H, W) -> (H, K * W, 3): images side by side without gaps."""
    return np.concatenate([as_picture(image) for image in images], axis=1)


def _ticks(values: Array) -> tuple[list[int], list[str]]:
    """Return the places and labels of every second point or so."""
    places = list(range(0, len(values), 2 if len(values) < 20 else 4))
    return places, [f"{values[place]:.2f}" for place in places]
