"""The Pareto picture: the trials of a study with several goals, and the front among them.

    draw_fronts(points, goals, pictures)      # one figure for each goal beside the quality

The quality stands upright, the other goal along the bottom. With two goals a line bounds what the
front dominates. Small pictures of the trials on the front stand above their points.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from PIL import Image

from models.data.decoding import open_image
from search.goals import Goal, format_values
from search.reporting.axes import Axis, fit_axis
from search.reporting.document import Figure
from search.reporting.figures import BOTTOM, LEFT, MOST_LINKS, RIGHT, WIDTH, finish_figure
from search.reporting.pictures import to_data_uri
from search.reporting.svg import Chart

HEIGHT, TOP = 430.0, 118.0
THUMB_WIDTH, THUMB_HEIGHT, GAP = 84.0, 42.0, 8.0
MOST_THUMBS = 7
HEAD = 24.0  # above the small pictures
CORNER = 0.42  # of a picture's height: its lower right corner, twice as wide, is shown small


@dataclass(frozen=True, kw_only=True)
class FrontPoint:
    """A complete trial.

    values: one for each goal; violates: whether it violates constraints
    place: on the front, 0 for the trial that adds most to the hypervolume; None: it is not on it
    """

    number: int
    values: tuple[float, ...]
    violates: bool = False
    place: int | None = None

    @property
    def kind(self) -> str:
        """The class of its mark."""
        return "best" if self.place is not None else "pruned" if self.violates else "complete"


def draw_fronts(
    points: Sequence[FrontPoint], goals: Sequence[Goal], pictures: Mapping[int, bytes]
) -> list[Figure]:
    """Return a figure for each goal after the first. pictures: by trial, as files hold them"""
    return [_draw(points, goals, other, pictures) for other in range(1, len(goals))]


def _draw(
    points: Sequence[FrontPoint],
    goals: Sequence[Goal],
    other: int,
    pictures: Mapping[int, bytes],
) -> Figure:
    quality, cost = goals[0], goals[other]
    chart = Chart(WIDTH, HEIGHT)
    x = fit_axis(
        [point.values[other] for point in points],
        start=LEFT, end=WIDTH - RIGHT, minimize=cost.minimize,
    )  # fmt: skip
    y = fit_axis(
        [point.values[0] for point in points],
        start=HEIGHT - BOTTOM, end=TOP, minimize=quality.minimize,
    )  # fmt: skip
    chart.add_axes(x, y, x_name=cost.name, y_name=quality.name)
    front = sorted((p for p in points if p.place is not None), key=lambda p: p.values[other])
    at = {p.number: (x.place(p.values[other]), y.place(p.values[0])) for p in points}
    if len(goals) == 2 and front:
        chart.add_line(_edge_of([at[p.number] for p in front], x, y, goals), "best")
    _add_thumbnails(chart, front, at, pictures)
    for kind in ("pruned", "complete", "best"):
        shown = [point for point in points if point.kind == kind]
        links = [
            (f"#trial-{p.number}", f"trial {p.number}: {format_values(goals, p.values)}")
            for p in shown
        ]
        is_short = kind == "best" or len(points) <= MOST_LINKS
        chart.add_points([at[p.number] for p in shown], kind, links if is_short else None)
    key = [("best", "on the front"), ("complete", "another trial dominates it")]
    if any(point.violates for point in points):
        key.append(("pruned", "violates constraints"))
    chart.add_key(key, LEFT, 14)
    beyond = sum(
        y.is_beyond(point.values[0]) or x.is_beyond(point.values[other]) for point in points
    )
    caption = f"{quality.name} against {cost.name} of all complete trials"
    caption += f"; {beyond} leave the figure at its edge" if beyond else ""
    return finish_figure(chart, f"front_{other}.svg", caption, caption)


def _edge_of(
    places: Sequence[tuple[float, float]], x: Axis, y: Axis, goals: Sequence[Goal]
) -> list[tuple[float, float]]:
    """Return the corners that bound what the front dominates. places: of the front, on paper"""
    quality, cost = goals
    far_x = x.end if cost.minimize else x.start
    far_y = y.end if quality.minimize else y.start
    in_order = sorted(places, reverse=not cost.minimize)  # the best of the other goal first
    corners = [(in_order[0][0], far_y), in_order[0]]
    for before, place in pairwise(in_order):
        corners += [(place[0], before[1]), place]
    return [*corners, (far_x, in_order[-1][1])]


def _add_thumbnails(
    chart: Chart,
    front: Sequence[FrontPoint],
    at: Mapping[int, tuple[float, float]],
    pictures: Mapping[int, bytes],
) -> None:
    """Draw small pictures of those that stand for the front best, each joined to its point."""
    drawn = [point for point in front if point.number in pictures]
    chosen = sorted(drawn, key=lambda point: point.place or 0)[:MOST_THUMBS]
    shown = sorted(chosen, key=lambda point: at[point.number][0])
    step = THUMB_WIDTH + GAP
    left = LEFT + (WIDTH - RIGHT - LEFT - step * len(shown) + GAP) / 2
    for place, point in enumerate(shown):
        start = left + step * place
        foot = HEAD + THUMB_HEIGHT
        end = at[point.number]
        chart.add_line([(start + THUMB_WIDTH / 2, foot + 18), end], "grid")
        uri = to_data_uri(_corner_of(pictures[point.number]))
        link = f"#trial-{point.number}", f"trial {point.number}"
        chart.add_image(start, HEAD, THUMB_WIDTH, THUMB_HEIGHT, uri, link)
        words = f"trial {point.number}"
        chart.add_text(start + THUMB_WIDTH / 2, foot + 13, words, anchor="middle")


def _corner_of(content: bytes) -> bytes:
    """Return the lower right corner of a picture, small, as PNG: there is what the model made."""
    with open_image(io.BytesIO(content)) as image:
        height = max(1, round(CORNER * image.height))
        width = min(image.width, 2 * height)
        box = (image.width - width, image.height - height, image.width, image.height)
        size = (2 * round(THUMB_WIDTH), 2 * round(THUMB_HEIGHT))  # for dense screens
        small = image.convert("RGB").crop(box).resize(size, Image.Resampling.LANCZOS)
    made = io.BytesIO()
    small.save(made, format="PNG")
    return made.getvalue()
