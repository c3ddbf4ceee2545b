"""Charts as SVG: text that a page holds as it is, in the page's light or dark colours.

    chart = Chart(720, 320)
    chart.add_axes(x, y, x_name="trial", y_name="mse")
    chart.add_points([(1.0, 2.0)], "complete", links=[("#trial-1", "trial 1: 0.5")])
    chart.to_svg("values over trials")                # for a page with `FIGURE_STYLE`
    chart.to_svg("values over trials", alone=True)    # for a file

A mark may lead to a place of the page, and says more while the mouse is over it: both work without
scripts. Marks have classes, and the style says how they look.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import pairwise

from search.reporting.axes import Axis, CategoryAxis

AnyAxis = Axis | CategoryAxis
Point = tuple[float, float]
Link = tuple[str, str]  # where a mark leads, and what it says

LARGE = 500  # width of charts that a narrow page shows smaller, with larger letters
# Light and dark colours have the same names. A chart in a file of its own brings them along.
FIGURE_STYLE = """
:root { --ink: #1f2937; --soft: #6b7280; --line: #d1d5db; --paper: #ffffff; --grey: #9ca3af;
  --blue: #2563eb; --orange: #ea580c; --green: #059669; }
@media (prefers-color-scheme: dark) { :root { --ink: #e5e7eb; --soft: #9ca3af; --line: #374151;
  --paper: #111827; --grey: #6b7280; --blue: #60a5fa; --orange: #fb923c; --green: #34d399; } }
svg.chart text { font: 12px system-ui, sans-serif; fill: var(--soft); }
svg.chart text.name { fill: var(--ink); }
svg.chart .grid { stroke: var(--line); stroke-width: .7; fill: none; }
svg.chart .line { fill: none; stroke-width: 1.1; stroke-linejoin: round; }
svg.chart .dots { fill: none; stroke-width: 4; stroke-linecap: round; }
svg.chart circle { stroke: var(--paper); stroke-width: .6; }
svg.chart .complete { stroke: var(--blue); } svg.chart circle.complete, svg.chart rect {
  fill: var(--blue); }
svg.chart rect.bar { stroke: none; } svg.chart rect.bar.pruned { fill: var(--grey); }
svg.chart .span { stroke: var(--ink); stroke-width: 1.4; }
svg.chart .pruned { stroke: var(--grey); } svg.chart circle.pruned { fill: var(--grey); }
svg.chart .best { stroke: var(--orange); stroke-width: 2.2; }
svg.chart circle.best { fill: var(--orange); stroke: var(--paper); stroke-width: .6; }
svg.chart .second { stroke: var(--green); }
svg.chart .mean { stroke-width: 2.2; } svg.chart .band { stroke: none; fill-opacity: .16; }
svg.chart .band.best { fill: var(--orange); } svg.chart .band.complete { fill: var(--blue); }
svg.chart .band.second { fill: var(--green); } svg.chart .band.pruned { fill: var(--grey); }
svg.chart .faint { stroke-opacity: .45; }
svg.chart .key { stroke: none; } svg.chart .key.complete { fill: var(--blue); }
svg.chart .key.pruned { fill: var(--grey); } svg.chart .key.best { fill: var(--orange); }
svg.chart .key.second { fill: var(--green); }
svg.chart a:hover .line { stroke-width: 3.5; stroke-opacity: 1; }
svg.chart a:hover circle { stroke: var(--ink); stroke-width: 2; }
@media (max-width: 600px) { svg.large text { font-size: 19px; } }
"""


class Chart:
    """A drawing of ``width`` times ``height`` units; what is added last lies on top."""

    def __init__(self, width: float, height: float) -> None:
        self.width = width
        self.height = height
        self.parts: list[str] = []

    def add_text(
        self, x: float, y: float, text: str, *, anchor: str = "start", kind: str = "tick"
    ) -> None:
        """Write ``text``; y is its base line. anchor: ``start``, ``middle`` or ``end``"""
        self.parts.append(
            f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">'
            f"{escape(text)}</text>"
        )

    def add_axes(self, x: AnyAxis, y: AnyAxis, *, x_name: str, y_name: str, most: int = 6) -> None:
        """Draw a grid with the numbers of both axes. most: numbers on each"""
        for value, text in y.ticks(most):
            at = y.place(value)  # type: ignore[arg-type]
            self.add_line([(x.start, at), (x.end, at)], "grid")
            self.add_text(x.start - 6, at + 4, shorten(text, 9), anchor="end")
        for value, text in x.ticks(most):
            at = x.place(value)  # type: ignore[arg-type]
            self.add_line([(at, y.start), (at, y.start + 4)], "grid")
            text = shorten(text, 12)
            if at + 3.5 * len(text) > self.width:
                self.add_text(self.width, y.start + 17, text, anchor="end")
            else:
                self.add_text(at, y.start + 17, text, anchor="middle")
        self.add_text((x.start + x.end) / 2, y.start + 34, x_name, anchor="middle", kind="name")
        self.add_text(2, y.end - 10, y_name, kind="name")

    def add_line(self, points: Sequence[Point], kind: str, link: Link | None = None) -> None:
        """Draw a line through ``points``."""
        self.parts.append(_with_link(f'<path class="line {kind}" d="{_path(points)}"/>', link))

    def add_lines(self, lines: Sequence[Sequence[Point]], kind: str) -> None:
        """Draw many lines as one mark, which takes little space."""
        if lines:
            self.parts.append(f'<path class="line {kind}" d="{"".join(map(_path, lines))}"/>')

    def add_band(self, low: Sequence[Point], high: Sequence[Point], kind: str) -> None:
        """Fill what lies between two lines that begin and end at the same places."""
        edge = [*low, *reversed(high)]
        if edge:
            self.parts.append(f'<path class="band {kind}" d="{_path(edge)}z"/>')

    def add_points(
        self, points: Sequence[Point], kind: str, links: Sequence[Link] | None = None
    ) -> None:
        """Draw points. links: one each; without them all points are one mark of little size"""
        if links is None:
            dots = "".join(f"M{x:.0f} {y:.0f}h0" for x, y in dict.fromkeys(points))
            self.parts.append(f'<path class="dots {kind}" d="{dots}"/>')
            return
        for (x, y), link in zip(points, links, strict=True):
            mark = f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="3.4"/>'
            self.parts.append(_with_link(mark, link))

    def add_bar(
        self, x: float, y: float, width: float, height: float, kind: str = "complete"
    ) -> None:
        """Draw a filled rectangle from its upper left corner."""
        self.parts.append(
            f'<rect class="bar {kind}" x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" '
            f'height="{height:.1f}"/>'
        )

    def add_image(
        self, x: float, y: float, width: float, height: float, uri: str, link: Link
    ) -> None:
        """Draw a picture of pixels from its upper left corner. uri: an address that holds it"""
        mark = (
            f'<image x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
            f'href="{uri}"/>'
        )
        self.parts.append(_with_link(mark, link))

    def add_key(self, names: Sequence[tuple[str, str]], x: float, y: float) -> None:
        """Say which kind of mark stands for what: (kind, words), side by side."""
        words = "".join(
            f'<tspan class="key {kind}">●</tspan> {escape(text)} \u2003' for kind, text in names
        )
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}">{words}</text>')

    def to_svg(self, about: str, *, alone: bool = False) -> str:
        """Return the chart. about: what it shows, in words; alone: as a file of its own"""
        style = f"<style>{FIGURE_STYLE}</style>" if alone else ""
        space = ' xmlns="http://www.w3.org/2000/svg"' if alone else ""
        size = f' width="{self.width:g}" height="{self.height:g}"' if alone else ""
        kind = "chart large" if self.width > LARGE else "chart"
        return (
            f'<svg class="{kind}" aria-label="{escape(about)}"{space}{size} '
            f'style="max-width: {1.05 * self.width:.0f}px" '
            f'viewBox="0 0 {self.width:g} {self.height:g}">{style}{"".join(self.parts)}</svg>'
        )


def shorten(text: str, most: int) -> str:
    """Return ``text``, cut to ``most`` letters."""
    return text if len(text) <= most else text[: most - 1] + "…"


def _path(points: Sequence[Point]) -> str:
    """Return a line's path in whole units and relative steps, which are short."""
    places = [(round(x), round(y)) for x, y in points]
    if not places:
        return ""
    steps = [
        f"l{x - before_x} {y - before_y}"
        for (before_x, before_y), (x, y) in pairwise(places)
        if (x, y) != (before_x, before_y)
    ]
    return f"M{places[0][0]} {places[0][1]}{''.join(steps) or 'h0'}".replace(" -", "-")


def _with_link(mark: str, link: Link | None) -> str:
    if link is None:
        return mark
    target, words = link
    return f'<a href="{escape(target)}"><title>{escape(words)}</title>{mark}</a>'
