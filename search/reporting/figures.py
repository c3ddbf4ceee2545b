"""The figures of a study's report: curves, values, importances, and how two evaluators agree.

    draw_curves(points, "mse", minimize=True)
    draw_values(points, "mse", minimize=True)
    draw_importances(found)    # of `search.reporting.importance`

Parameters against values are in `search.reporting.parameter_figures`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from search.reporting.axes import Axis, fit_axis
from search.reporting.document import Figure
from search.reporting.importance import Importance
from search.reporting.svg import Chart, shorten
from search.words import format_count

WIDTH, HEIGHT = 720.0, 330.0
LEFT, RIGHT, TOP, BOTTOM = 66.0, 12.0, 44.0, 42.0  # margins of a chart
MOST_LINKS = 300  # trials that are marks of their own; more are one mark, which takes little space
MOST_CORNERS = 120  # of one curve
BAR = 24.0  # height of a bar and its gap
FAR = 2.0  # a share of chance beyond it is no longer in the figure


@dataclass(frozen=True, kw_only=True)
class DrawnTrial:
    """A trial as figures show it.

    value: None: it has none; curve: (epoch from 1, value) of its epochs, all finite
    parameters: as Optuna gives them
    """

    number: int
    outcome: str
    value: float | None
    complete: bool
    curve: Sequence[tuple[int, float]]
    parameters: Mapping[str, object]

    @property
    def kind(self) -> str:
        """The class of its marks."""
        return "complete" if self.complete else "pruned"

    @property
    def link(self) -> tuple[str, str]:
        """Where its marks lead, and what they say."""
        value = "" if self.value is None else f", {self.value:.5g}"
        return f"#trial-{self.number}", f"trial {self.number}: {self.outcome}{value}"


def finish_figure(
    chart: Chart, file: str, about: str, caption: str, *, wide: bool = False
) -> Figure:
    """Return a chart as a figure of a page."""
    alone = chart.to_svg(about, alone=True)
    return Figure(file=file, svg=chart.to_svg(about), alone=alone, caption=caption, wide=wide)


def draw_curves(
    trials: Sequence[DrawnTrial], metric: str, *, minimize: bool, step: str = "epoch"
) -> Figure | None:
    """Draw each trial's values over its epochs: the best on top, those that ended early grey.

    trials: best first; step: what its curves count
    """
    drawn = [trial for trial in trials if trial.curve]
    if not drawn:
        return None
    chart = Chart(WIDTH, HEIGHT)
    epochs = [epoch for trial in drawn for epoch, _ in trial.curve]
    values = [value for trial in drawn for _, value in trial.curve]
    x = Axis(
        low=min(epochs), high=max(*epochs, min(epochs) + 1),
        start=LEFT, end=WIDTH - RIGHT, whole=True,
    )  # fmt: skip
    y = fit_axis(values, start=HEIGHT - BOTTOM, end=TOP, minimize=minimize)
    chart.add_axes(x, y, x_name=step, y_name=metric)
    best = drawn[0] if drawn[0].complete else None
    others = [trial for trial in drawn if trial is not best]
    for kind in ("pruned", "complete"):
        shown = [trial for trial in others if trial.kind == kind]
        faint = f"{kind} faint" if len(shown) > 12 else kind
        lines = [_thin([(x.place(e), y.place(v)) for e, v in trial.curve]) for trial in shown]
        if len(drawn) > MOST_LINKS:
            chart.add_lines(lines, faint)
            continue
        for trial, line in zip(shown, lines, strict=True):
            chart.add_line(line, faint, trial.link)
            if len(line) == 1:
                chart.add_points(line, kind, [trial.link])
    key = [("complete", "complete"), ("pruned", "ended early")]
    if best is not None:
        line = _thin([(x.place(e), y.place(v)) for e, v in best.curve])
        chart.add_line(line, "best", best.link)
        if len(line) == 1:
            chart.add_points(line, "best", [best.link])
        key.insert(0, ("best", f"trial {best.number}, the best"))
    chart.add_key(key, LEFT, 14)
    beyond = sum(any(y.is_beyond(value) for _, value in trial.curve) for trial in drawn)
    caption = f"each trial's {metric}, {step} by {step}{_beyond(beyond)}"
    return finish_figure(chart, "curves.svg", f"{metric} over the {step}s of all trials", caption)


def _thin(line: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    """Return at most about `MOST_CORNERS` of a line's corners, the last among them."""
    every = -(-len(line) // MOST_CORNERS)
    return [*line[:-1:every], line[-1]]


def _beyond(count: int) -> str:
    return f"; {count} leave the figure at its edge" if count else ""


def draw_values(trials: Sequence[DrawnTrial], metric: str, *, minimize: bool) -> Figure:
    """Draw a point for each trial with a value, and the best complete trial so far as a line.

    trials: best first
    """
    valued = [(trial, trial.value) for trial in trials if trial.value is not None]
    chart = Chart(WIDTH, HEIGHT)
    numbers = [trial.number for trial, _ in valued]
    x = Axis(
        low=min(numbers) - 0.5, high=max(numbers) + 0.5,
        start=LEFT, end=WIDTH - RIGHT, whole=True,
    )  # fmt: skip
    values = [value for _, value in valued]
    y = fit_axis(values, start=HEIGHT - BOTTOM, end=TOP, minimize=minimize)
    chart.add_axes(x, y, x_name="trial", y_name=metric)
    steps = _best_so_far(valued, x, y, minimize=minimize)
    if steps:
        chart.add_line(steps, "best")
    for kind in ("pruned", "complete"):
        shown = [(trial, value) for trial, value in valued if trial.kind == kind]
        places = [(x.place(trial.number), y.place(value)) for trial, value in shown]
        links = [trial.link for trial, _ in shown] if len(valued) <= MOST_LINKS else None
        chart.add_points(places, kind, links)
    chart.add_key(
        [("complete", "complete"), ("pruned", "ended early"), ("best", "best so far")], LEFT, 14
    )
    beyond = _beyond(sum(map(y.is_beyond, values)))
    caption = f"each trial's value, of those that ended early the last one{beyond}"
    return finish_figure(chart, "values.svg", f"{metric} of all trials", caption)


def _best_so_far(
    valued: Sequence[tuple[DrawnTrial, float]], x: Axis, y: Axis, *, minimize: bool
) -> list[tuple[float, float]]:
    """Return the corners of the line of the best value of complete trials so far."""
    steps: list[tuple[float, float]] = []
    best = math.inf if minimize else -math.inf
    for trial, value in sorted(valued, key=lambda found: found[0].number):
        if trial.complete and (value < best if minimize else value > best):
            before, best = best, value
            if math.isfinite(before):
                steps.append((x.place(trial.number), y.place(before)))
            steps.append((x.place(trial.number), y.place(value)))
    if steps:
        steps.append((x.end, y.place(best)))
    return steps


def draw_importances(found: Sequence[Importance]) -> Figure:
    """Draw a bar for each parameter, the largest on top, with what chance gives, and its interval.

    found: measured with repeats
    """
    names = [shorten(each.name, 26) for each in found]
    left = 20 + 7.4 * max(map(len, names))
    width, right = 560.0, 122.0
    chart = Chart(width, 38 + BAR * len(found))
    most = max(max(each.high or 0.0, each.share, min(each.chance or 0.0, FAR)) for each in found)
    scale = (width - left - right) / most
    for place, (each, name) in enumerate(zip(found, names, strict=True)):
        top = 8 + BAR * place
        middle = top + (BAR - 7) / 2
        low, high, chance = (
            left + scale * (end or 0.0) for end in (each.low, each.high, each.chance)
        )
        chart.add_text(left - 8, top + 13, name, anchor="end", kind="name")
        long = max(scale * each.share, 1)
        chart.add_bar(left, top, long, BAR - 7, kind="complete" if each.is_told else "pruned")
        chart.add_line([(low, middle), (high, middle)], "span")
        if chance <= left + scale * most:  # a mark beyond the figure would say no more
            chart.add_line([(chance, top - 2), (chance, top + BAR - 5)], "best")
        words = f"{each.share:.0%} ({each.low or 0:.0%} – {each.high or 0:.0%})"
        chart.add_text(width, top + 13, words, anchor="end")
    key = [
        ("complete", "told from chance"),
        ("pruned", "cannot be told from it"),
        ("best", "what chance gives"),
    ]
    chart.add_key(key, left, 26 + BAR * len(found))
    caption = "importance of each parameter"
    return finish_figure(chart, "importance.svg", caption, caption)


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


def draw_pairs(file: str, pairs: Pairs) -> Figure:
    """Draw a point for each trial."""
    width = height = 340.0
    chart = Chart(width, height)
    xs, ys = zip(*pairs.points, strict=True)
    x = fit_axis(xs, start=LEFT, end=width - RIGHT)
    y = fit_axis(ys, start=height - BOTTOM, end=TOP)
    chart.add_axes(x, y, x_name=pairs.x, y_name=pairs.y, most=5)
    chart.add_points([(x.place(a), y.place(b)) for a, b in pairs.points], "complete")
    caption = f"Spearman's rho {pairs.rho:.2f}, {format_count(len(pairs.points), 'trial')}"
    return finish_figure(chart, file, f"{pairs.y} over {pairs.x}", caption)


def draw_learning_curve(
    lines: Mapping[str, Sequence[float]], metric: str, best_epoch: int
) -> Figure:
    """Draw a metric over the epochs 1, 2, ... of one training. lines: by name, all alike long"""
    kinds = dict(zip(lines, ("complete", "second"), strict=False))
    width, height = 460.0, 300.0
    chart = Chart(width, height)
    values = [value for line in lines.values() for value in line if math.isfinite(value)]
    last = max(len(line) for line in lines.values())
    x = Axis(low=1, high=max(last, 2), start=LEFT, end=width - RIGHT, whole=True)
    y = fit_axis(values, start=height - BOTTOM, end=TOP)
    chart.add_axes(x, y, x_name="epoch", y_name=metric)
    at = x.place(best_epoch)
    chart.add_line([(at, height - BOTTOM), (at, TOP)], "best faint")
    for name, kind in kinds.items():
        places = [
            (x.place(epoch), y.place(value))
            for epoch, value in enumerate(lines[name], start=1)
            if math.isfinite(value)
        ]
        chart.add_line(places, kind)
        if len(places) < 3:
            chart.add_points(places, kind)
    key = [(kind, name) for name, kind in kinds.items()]
    chart.add_key([*key, ("best", f"kept: epoch {best_epoch}")], LEFT, 14)
    caption = "the training of this export"
    return finish_figure(chart, "winner_curve.svg", f"{metric} over the epochs", caption)
