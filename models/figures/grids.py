"""Figures of images in rows and grids.

Shape legend: N images, K images of a row, C channels, H/W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from torch import Tensor

from models.figures.canvas import (
    INK,
    MARGIN,
    TILE,
    WRONG,
    as_picture,
    as_strip,
    new_figure,
    own_style,
    save_figure,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.text import Text

LABEL = 1.2  # inches: the column of row names
ROW_LETTER = 0.078  # inches of a letter in a row's name; longer names widen their column
NAME = 28  # characters of a name that are shown
LETTER, HEAD = 0.075, 0.34  # inches: a letter of a name, the title above
TITLE_LINE = 0.16  # inches


def sample_figure(images: Tensor, title: str, *, columns: int = 10) -> Figure:
    """Draw images (N, C, H, W) in rows of ``columns``."""
    rows = [images[first : first + columns] for first in range(0, len(images), columns)]
    return _draw_named_rows(rows, [("", "")] * len(rows), title, side=MARGIN)


def interpolation_figure(
    rows: Sequence[Tensor], names: Sequence[tuple[str, str]], title: str
) -> Figure:
    """Draw rows (K, C, H, W) whose first and last image are originals, with the names of both."""
    longest = max(len(short_name(name)) for pair in names for name in pair)
    return _draw_named_rows(rows, names, title, side=2 * MARGIN + LETTER * longest, apart=True)


def _draw_named_rows(
    rows: Sequence[Tensor],
    names: Sequence[tuple[str, str]],
    title: str,
    *,
    side: float,
    apart: bool = False,
) -> Figure:
    """Draw rows of images with names on both sides.

    side: inches for the names; apart: leave a gap after the first image and before the last
    """
    count = max(len(row) for row in rows)
    away = 0.3 * TILE if apart else 0.0
    width = 2 * side + TILE * count + 2 * away
    lines = wrap(title, max(20, int((width - 2 * MARGIN) / LETTER))) or [""]
    height = HEAD + TITLE_LINE * (len(lines) - 1) + TILE * len(rows) + MARGIN / 2
    figure = new_figure(width, height)
    for number, (images, (left, right)) in enumerate(zip(rows, names, strict=True)):
        bottom = TILE * (len(rows) - 1 - number) + MARGIN / 2
        x = side
        for piece in (images[:1], images[1:-1], images[-1:]) if apart else (images,):
            _draw_strip(figure, piece, x, bottom)
            x += TILE * len(piece) + away
        middle = (bottom + TILE / 2) / height
        style: dict[str, Any] = {"va": "center", "fontsize": 9, "color": INK}
        show_literally(
            figure.text((side - 0.08) / width, middle, short_name(left), ha="right", **style)
        )
        show_literally(figure.text(1 - (side - 0.06) / width, middle, short_name(right), **style))
    top: dict[str, Any] = {"va": "top", "fontsize": 9, "color": INK}
    show_literally(figure.text(MARGIN / width, 1 - 0.08 / height, "\n".join(lines), **top))
    return figure


def _draw_strip(figure: Figure, images: Tensor, left: float, bottom: float) -> None:
    """Draw images side by side, beginning at a place in inches."""
    width, height = figure.get_size_inches()
    place = (left / width, bottom / height, TILE * len(images) / width, TILE / height)
    axes = figure.add_axes(place)
    axes.imshow(as_strip(images), interpolation="nearest", aspect="auto", vmin=0, vmax=1)
    axes.set_axis_off()


def short_name(name: str) -> str:
    """Return ``name``, cut where it is longer than `NAME` characters."""
    return name if len(name) <= NAME else f"{name[: NAME - 1]}…"


def show_literally(text: Text) -> None:
    """Show a user's name as it is written: a dollar sign in it begins no formula."""
    text.set_parse_math(False)


@own_style()
def draw_rows(
    path: Path, rows: Mapping[str, Tensor] | Sequence[tuple[str, Tensor]], *, title: str
) -> None:
    """Draw labelled rows of images (N, C, H, W) in [0, 1], one under the other."""
    pairs = list(rows.items()) if isinstance(rows, Mapping) else list(rows)
    count = max(len(images) for _, images in pairs)
    longest = max(len(label) for label, _ in pairs)
    label_width = max(LABEL, ROW_LETTER * longest + 2 * MARGIN) if longest else MARGIN
    width = label_width + TILE * count + MARGIN
    height = len(pairs) * TILE + 0.34
    figure = new_figure(width, height)
    for row, (label, images) in enumerate(pairs):
        bottom = TILE * (len(pairs) - 1 - row) + MARGIN / 2
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
        show_literally(name)
    figure.text(
        MARGIN / width, 1 - 0.08 / height, title, ha="left", va="top", fontsize=9, color=INK
    )
    save_figure(figure, path)


@own_style()
def draw_labelled(
    path: Path, images: Tensor, words: Sequence[str], right: Sequence[bool], *, title: str
) -> None:
    """Draw images (N, C, H, W) in a row with a word below each, red where it is not right."""
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
