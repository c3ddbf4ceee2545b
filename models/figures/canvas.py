"""Figures: made of arrays without a display, and saved as PNG.

    @own_style()
    def draw_points(path: Path, ...) -> None:
        figure = new_figure(7.2, 3.6)
        ...
        save_figure(figure, path)

They look the same for everybody: what a notebook or a `matplotlibrc` sets (styles, fonts, TeX) is
for the user's own figures. Matplotlib reads such settings while a figure is made and while it is
saved, so that all of a function that draws is in `own_style`.

Shape legend: N images, C channels, H/W pixels.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from models.figures.fonts import show_as_written
from models.results import Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DOTS = 144  # pixels an inch
TILE, MARGIN = 0.62, 0.1  # inches: an image, the edge
INK = "#1f2937"
WRONG = "#dc2626"
COLORS = ("#2563eb", "#ea580c", "#059669", "#9333ea")
DISPLAY = ("backend", "backend_fallback")  # settings of a display, which our figures have not


@contextmanager
def own_style() -> Iterator[None]:
    """Draw with matplotlib's defaults inside the block, or in the decorated function.

    The user's settings come back afterwards. Names are shown as they are written: a dollar sign
    in a class's name begins no formula.
    """
    import matplotlib

    defaults = {k: v for k, v in matplotlib.rcParamsDefault.items() if k not in DISPLAY}
    with matplotlib.rc_context({**defaults, "text.parse_math": False}):
        yield


def as_strip(images: Tensor) -> np.ndarray[Any, Any]:
    """(N, C, H, W) -> (H + gap, N * (W + gap), 3): images side by side with white gaps."""
    gap = max(1, images.shape[-1] // 28)
    tiles = [
        np.pad(as_picture(image), ((0, gap), (0, gap), (0, 0)), constant_values=1.0)
        for image in images
    ]
    return np.concatenate(tiles, axis=1)


def as_picture(image: Tensor) -> np.ndarray[Any, Any]:
    """(1 or 3, H, W) in [0, 1] -> (H, W, 3) on the host, ready to be drawn."""
    pixels = image.detach().float().clamp(0, 1).cpu().numpy()
    if len(pixels) == 1:
        pixels = np.repeat(pixels, 3, axis=0)
    return pixels.transpose(1, 2, 0)


def plain_log_labels(axes: Axes, *, most: float = math.inf, across: bool = False) -> None:
    """Write 0.02 rather than 2 x 10^-2 on a logarithmic axis that spans few decades.

    most: numbers that there is room for; where 1, 2, 5, 10, ... are more, only 1, 10, ... stay
    across: label the horizontal axis, not the vertical one
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
    """Return an empty white figure; both sizes are in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # no pyplot: no display, no global state

    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path, *, source: str | None = None) -> None:
    """Write ``figure`` as PNG whatever the suffix: ``path`` may be a temporary name.

    source: who made it; it stands in the file, under ``Source``
    """
    show_as_written(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        about = None if source is None else {"Source": source}
        figure.savefig(path, dpi=DOTS, format="png", metadata=about)


def figure_picture(
    name: str, caption: str, what: str, make_figure: Callable[[str], Figure]
) -> Picture:
    """Return the picture that draws and saves a figure.

    what: the end of its title; make_figure: makes it under the title that it is given
    """

    @own_style()
    def draw(path: Path, title: str) -> None:
        save_figure(make_figure(f"{title}: {what}"), path)

    return Picture(name=name, caption=caption, draw=draw)
