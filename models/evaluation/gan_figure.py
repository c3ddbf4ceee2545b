"""The picture of how a GAN's training went, for the dashboard and exports.

    draw_game(path, history, evaluator.floor, "gan_balance trial 7")

Panels over the epochs stand one under the other: the losses, how often the discriminator D is
right, the Fréchet distance of the samples of the generator G, how much of the real images' variety
they have, and of those that are to show labels how many do. A colour behind them shows the verdict
of each epoch; healthy epochs have none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from models.evaluation.gan_diagnosis import WORDS, Health, Kind, epoch_verdicts
from models.figures.canvas import INK, new_figure, own_style, plain_log_labels, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

G, D, THIRD, FLOOR = "#c2410c", "#1d4ed8", "#047857", "#6b7280"
BANDS: dict[Kind, str] = {
    Kind.COLLAPSED: "#fdebb0",
    Kind.D_WON: "#cfe2fd",
    Kind.G_WON: "#e6d7fb",
    Kind.DIVERGED: "#fbc9c9",
}
VARIETY = (("modes", THIRD), ("coverage", D), ("recall", G))
WIDE_LOSSES = 30  # times the smallest loss: beyond it, a linear axis shows only the largest
FEW = 30  # epochs that have a mark each; beyond, there are lines alone
WIDTH, PANEL, HEAD, FOOT = 5.2, 0.78, 0.26, 0.64  # inches
LEFT, RIGHT, GAP = 0.5, 0.86, 0.27  # inches for the axis' numbers, lines' names, a panel's name
LINE = 0.2  # of a panel's height: distance between the names of two lines


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of a panel.

    name: stands at its right end; values: one an epoch, NaN where there is none to show
    """

    name: str
    color: str
    values: Sequence[float]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Lines that share an axis.

    bounds: the axis' ends, None: what the values need; floor: the value of real images
    """

    name: str
    lines: Sequence[Line]
    log: bool = False
    bounds: tuple[float, float] | None = None
    floor: float | None = None


@own_style()
def draw_game(
    path: Path, history: Sequence[Health], floor: Mapping[str, float], title: str
) -> None:
    """Write the picture of ``history``, which has an epoch or more, as PNG.

    floor: the measures of real images, `models.evaluation.sample_evaluator.SampleEvaluator.floor`
    """
    if not history:
        raise ValueError("no epoch has ended: there is nothing to draw")
    epochs = [health.epoch for health in history]
    kinds = epoch_verdicts(history, floor)
    panels = _make_panels(history, floor)
    height = HEAD + len(panels) * (PANEL + GAP) + FOOT
    figure = new_figure(WIDTH, height)
    for number, panel in enumerate(panels):
        bottom = height - HEAD - (number + 1) * (PANEL + GAP) + 0.06
        place = (LEFT / WIDTH, bottom / height, 1 - (LEFT + RIGHT) / WIDTH, PANEL / height)
        axes = figure.add_axes(place)
        _draw_bands(axes, epochs, kinds)
        _draw_panel(axes, epochs, panel)
        axes.tick_params(labelbottom=number == len(panels) - 1)
    axes.set_xlabel("epoch", fontsize=9, labelpad=1)
    name = figure.text(0.1 / WIDTH, 1 - 0.08 / height, title, va="top", fontsize=9.5, color=INK)
    name.set_parse_math(False)
    _draw_legend(figure, kinds)
    save_figure(figure, path)


def _make_panels(history: Sequence[Health], floor: Mapping[str, float]) -> list[Panel]:
    """Return the panels; a model that is no GAN has only those of its samples."""

    def line(name: str, color: str, measure: str, unit: float = 1.0) -> Line:
        found = (health.numbers.get(measure, math.nan) / unit for health in history)
        values = [value if math.isfinite(value) else math.nan for value in found]
        return Line(name=name, color=color, values=values)

    losses = [line("G", G, "loss_g"), line("D", D, "loss_d")]
    accuracies = [line("real images", D, "accuracy_real"), line("samples", G, "accuracy_fake")]
    shares = [line(name, color, name, floor[name]) for name, color in VARIETY if floor.get(name)]
    distances = [line("samples", G, "frechet"), line("by label", THIRD, "label_frechet")]
    labels = [line("mean", THIRD, "label_accuracy"), line("worst label", G, "label_worst")]
    panels = [
        Panel(name="loss", lines=losses, log=_is_wide(losses)),
        Panel(name="share that D tells right", lines=accuracies, bounds=(-0.04, 1.04)),
        Panel(
            name="Fréchet distance",
            lines=distances,
            log=True,
            floor=floor.get("frechet"),
        ),
        Panel(name="variety beside real images (1)", lines=shares, bounds=(-0.05, 1.15), floor=1.0),
    ]
    measured = {name for health in history for name in health.numbers}
    if "label_accuracy" in measured:
        panels.append(Panel(name="labels shown", lines=labels, bounds=(-0.04, 1.04)))
    is_gan = {"loss_d", "loss_g", "accuracy_real", "accuracy_fake"} & measured
    return panels if is_gan else panels[2:]


def _is_wide(lines: Sequence[Line]) -> bool:
    """Return True if the values need a logarithmic axis, and allow one."""
    values = [value for line in lines for value in line.values if not math.isnan(value)]
    return bool(values) and min(values) > 0 and max(values) > WIDE_LOSSES * min(values)


def _draw_bands(axes: Axes, epochs: Sequence[int], kinds: Sequence[Kind]) -> None:
    """Colour epochs of one kind, from half an epoch before them to half an epoch after."""
    for kind, run in groupby(zip(epochs, kinds, strict=True), key=lambda pair: pair[1]):
        numbers = [epoch for epoch, _ in run]
        if kind in BANDS:
            axes.axvspan(numbers[0] - 0.5, numbers[-1] + 0.5, color=BANDS[kind], linewidth=0)


def _draw_panel(axes: Axes, epochs: Sequence[int], panel: Panel) -> None:
    from matplotlib.ticker import MaxNLocator

    lines = [line for line in panel.lines if not all(map(math.isnan, line.values))]
    for line in lines:
        marker = "o" if len(epochs) <= FEW else None
        axes.plot(epochs, line.values, color=line.color, linewidth=1.6, marker=marker, markersize=3)
    axes.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
    if len(epochs) < 8:
        axes.set_xticks(epochs)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10], nbins=8))
    axes.tick_params(labelsize=8, length=2, pad=2)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(panel.name, loc="left", fontsize=9, fontweight="bold", color=INK, pad=4)
    if not lines:
        axes.set_yticks([])
        axes.text(
            0.5, 0.5, "no numbers", transform=axes.transAxes, ha="center", va="center",
            fontsize=8, color=FLOOR,
        )  # fmt: skip
        return
    if panel.floor is not None:
        axes.axhline(panel.floor, color=FLOOR, linewidth=1, linestyle="--")
    if panel.log:
        axes.set_yscale("log", nonpositive="mask")
        plain_log_labels(axes, most=4)
    if panel.bounds is not None:
        axes.set_ylim(*panel.bounds)
        axes.set_yticks([0, 0.5, 1])
    axes.grid(alpha=0.25)
    ends = [(line.name, line.color, _last_number(line.values)) for line in lines]
    if panel.floor is not None:
        ends.append(("real images" if panel.log else "", FLOOR, panel.floor))
    _name_lines(axes, ends)


def _last_number(values: Sequence[float]) -> float:
    return next(value for value in reversed(values) if not math.isnan(value))


def _name_lines(axes: Axes, ends: Sequence[tuple[str, str, float]]) -> None:
    """Write names at the right, as high as their values, but never on each other.

    ends: (name, colour, value) of each
    """
    places = []
    for name, color, value in ends:
        pixels = axes.transData.transform((0, value))
        height = float(axes.transAxes.inverted().transform(pixels)[1])
        if name:
            places.append((min(max(height, 0.08), 1.0), name, color))
    places.sort(key=lambda place: place[0])
    heights = move_apart([height for height, _, _ in places], LINE)
    for height, (_, name, color) in zip(heights, places, strict=True):
        axes.text(
            1.015, height, name, transform=axes.transAxes, va="center", fontsize=8, color=color
        )


def move_apart(places: Sequence[float], least: float) -> list[float]:
    """Move rising ``places`` as little as possible so that neighbours are ``least`` apart."""
    groups: list[list[float]] = []  # [sum of wanted first places, members]
    for index, place in enumerate(places):
        groups.append([place - index * least, 1.0])
        while len(groups) > 1 and groups[-1][0] / groups[-1][1] < groups[-2][0] / groups[-2][1]:
            total, count = groups.pop()
            groups[-1][0] += total
            groups[-1][1] += count
    firsts = [total / count for total, count in groups for _ in range(int(count))]
    return [first + index * least for index, first in enumerate(firsts)]


def _draw_legend(figure: Figure, kinds: Sequence[Kind]) -> None:
    from matplotlib.patches import Patch

    found = [(color, WORDS[kind]) for kind, color in BANDS.items() if kind in kinds]
    if not found:
        return
    handles = [Patch(color=color, label=words) for color, words in found]
    figure.legend(
        handles=handles, loc="lower left", ncols=len(handles), frameon=False, fontsize=8.5,
        bbox_to_anchor=(0.3 / WIDTH, 0), handlelength=1.3, columnspacing=1.2, borderaxespad=0.2,
    )  # fmt: skip
