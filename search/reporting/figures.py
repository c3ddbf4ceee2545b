"""The figures of a study's report: values over trials, importances, and how two evaluators agree.

draw_values(Path("values.png"), Values(...), "mse")
draw_importances(Path("importance.png"), {"lr": 0.7, "latent": 0.3})
draw_pairs(Path("ranking.png"), [Pairs(...)])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from models.figures.canvas import COLORS, INK, new_figure, plain_log_labels, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, ORANGE = COLORS[:2]
GREY = "#9ca3af"
WIDE = 4.0  # an axis of values is logarithmic if the largest is this many times the smallest
BAR = 0.34  # inches of height for each bar


@dataclass(frozen=True, kw_only=True)
class Values:
    """The trials with a value: their numbers, their values, and whether each was pruned."""

    numbers: Sequence[int]
    values: Sequence[float]
    pruned: Sequence[bool]
    minimize: bool


def draw_values(path: Path, found: Values, metric: str) -> None:
    """Draw a point for each trial, and the best complete trial so far as a line."""
    figure = new_figure(7.2, 3.6)
    axes = figure.add_subplot()
    trials = list(zip(found.numbers, found.values, found.pruned, strict=True))
    for name, is_pruned, marker, color in (
        ("pruned, at its end", True, "x", GREY),
        ("complete", False, "o", BLUE),
    ):
        chosen = [(number, value) for number, value, pruned in trials if pruned == is_pruned]
        if chosen:
            xs, ys = zip(*chosen, strict=True)
            axes.scatter(xs, ys, s=22, label=name, marker=marker, color=color)
    steps: list[tuple[int, float]] = []
    for number, value, pruned in sorted(trials):
        if pruned:
            continue
        best = steps[-1][1] if steps else value
        steps.append((number, min(best, value) if found.minimize else max(best, value)))
    if steps:
        steps.append((max(found.numbers), steps[-1][1]))
        xs, ys = zip(*steps, strict=True)
        axes.step(xs, ys, where="post", color=ORANGE, label="best so far")
    if min(found.values) > 0 and max(found.values) > WIDE * min(found.values):
        axes.set_yscale("log")
        plain_log_labels(axes, most=9)
    _use_whole_numbers(axes)
    axes.set_xlabel("trial")
    axes.set_ylabel(metric)
    _add_grid(axes)
    axes.legend(
        frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderpad=0
    )
    figure.set_layout_engine("tight")
    save_figure(figure, path)


def draw_importances(path: Path, shares: Mapping[str, float]) -> None:
    """Draw a bar for each parameter, the largest on top, with its share beside it."""
    longest = max(len(name) for name in shares)
    figure = new_figure(7.2, 0.5 + BAR * len(shares))
    figure.set_layout_engine("constrained")
    axes = figure.add_subplot()
    names = list(shares)[::-1]
    places = range(len(names))
    axes.barh(places, [shares[name] for name in names], color=BLUE, height=0.66)
    axes.set_yticks(places, [name if longest < 40 else name[:39] for name in names])
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    for place, name in zip(places, names, strict=True):
        axes.text(shares[name] + 0.008, place, f"{shares[name]:.0%}", va="center", fontsize=8)
    axes.set_xlim(0, max(shares.values()) * 1.1 or 1)
    axes.set_xticks([])
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    save_figure(figure, path)


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Two numbers of each trial.

    x, y: what the numbers are
    rho: Spearman's rank correlation of all pairs
    """

    x: str
    y: str
    points: Sequence[tuple[float, float]]
    rho: float


def draw_pairs(path: Path, panels: Sequence[Pairs]) -> None:
    """Draw a panel for each of ``panels``, with a point for each trial.

    An axis is logarithmic if its largest value is more than ten times its smallest.
    """
    figure = new_figure(3.8 * len(panels), 3.6)
    for index, panel in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), index + 1)
        xs, ys = zip(*panel.points, strict=True)
        axes.scatter(xs, ys, s=22, color=BLUE, alpha=0.85)
        for values, across in ((xs, True), (ys, False)):
            if min(values) > 0 and max(values) > 10 * min(values):
                (axes.set_xscale if across else axes.set_yscale)("log")
                plain_log_labels(axes, most=6, across=across)
        axes.set_xlabel(panel.x, fontsize=9)
        axes.set_ylabel(panel.y, fontsize=9)
        words = f"Spearman's rho {panel.rho:.2f}, {len(panel.points)} trials"
        axes.set_title(words, loc="left", fontsize=9, color=INK)
        _add_grid(axes)
    figure.set_layout_engine("tight")
    save_figure(figure, path)


def _use_whole_numbers(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _add_grid(axes: Axes) -> None:
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
