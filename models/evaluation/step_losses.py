"""The losses of a GAN's generator G and discriminator D, step by step.

    draw_step_losses(folder / "losses.png", curve, "gan_balance trial 7")

Single steps are pale, and a running mean over `SMOOTHED` of their number is drawn above them. The
scale at the top counts epochs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from models.figures.canvas import INK, new_figure, own_style, plain_log_labels, save_figure
from models.training.step_curve import StepCurve

LINES: Mapping[str, tuple[str, str]] = {  # metric -> name and colour, as `game.png` has them
    "loss_g": ("G", "#c2410c"),
    "loss_d": ("D", "#1d4ed8"),
}
OTHERS = ("#047857", "#9333ea")  # of what an own model names beside these
SMOOTHED = 0.03  # of the samples: 30 of 1,000
FEW = 20  # samples: no mean is drawn of fewer
WIDE = 30  # times the smallest mean: beyond it, a linear axis shows only the largest
SPIKES = 0.002  # of the steps at each end are left out of the axis

Array = np.ndarray[Any, np.dtype[Any]]


@own_style()
def draw_step_losses(path: Path, curve: StepCurve, title: str) -> None:
    """Write the picture of ``curve``, which has a sample or more, as PNG."""
    if not curve.at:
        raise ValueError("no step was sampled: there is nothing to draw")
    figure = new_figure(7.2, 3.4)
    axes = figure.add_subplot()
    others = iter(OTHERS * len(curve.values))
    steps, means = np.array(curve.at), []
    for metric, values in curve.values.items():
        name, color = LINES.get(metric) or (metric, next(others))
        mean = running_mean(values)
        means.append(mean)
        is_pale = mean is not values
        axes.plot(steps, values, color=color, linewidth=0.7, alpha=0.3 if is_pale else 1.0)
        if is_pale:
            axes.plot(steps, mean, color=color, linewidth=1.7)
        axes.plot([], [], color=color, linewidth=1.7, label=name)
    _scale(axes, np.array(list(curve.values.values())), np.array(means))
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.set_xlim(0, -(-curve.at[-1] // curve.per_epoch) * curve.per_epoch)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1), fontsize=9)
    _add_epochs(axes, curve)
    figure.set_layout_engine("tight")
    save_figure(figure, path)


def running_mean(values: Sequence[float]) -> Sequence[float] | Array:
    """Return the mean of each value and its neighbours; near the ends of as many as there are."""
    if len(values) < FEW:
        return values
    half = max(1, round(SMOOTHED * len(values) / 2))
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    first = np.maximum(places - half, 0)
    last = np.minimum(places + half + 1, len(values))
    means: Array = (sums[last] - sums[first]) / (last - first)
    return means


def _scale(axes: Any, values: Array, means: Array) -> None:
    """Choose the axis by what most steps had: a few spikes must not flatten everything else."""
    low, high = np.quantile(values, [SPIKES, 1 - SPIKES])
    if low > 0 and means.max() > WIDE * means.min():
        axes.set_yscale("log", nonpositive="mask")
        axes.set_ylim(low / 1.2, high * 1.2)
        plain_log_labels(axes, most=6)
        return
    room = 0.05 * (high - low) or 0.1
    axes.set_ylim(min(0.0, low - room) if low >= 0 else low - room, high + room)


def _add_epochs(axes: Any, curve: StepCurve) -> None:
    """Count epochs at the top."""
    from matplotlib.ticker import MaxNLocator

    per_epoch = curve.per_epoch
    top = axes.secondary_xaxis(
        "top", functions=(lambda step: step / per_epoch, lambda epoch: epoch * per_epoch)
    )
    top.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10], nbins=10))
    top.tick_params(labelsize=8, length=2, pad=1)
    top.set_xlabel("epoch", fontsize=8, labelpad=2)
    top.spines["top"].set_visible(False)
