"""What parameters do to the values: a panel for each, and all of them side by side.

    draw_slices(trials, "mse", minimize=True)        # a figure for each parameter
    draw_parallel(trials, "mse", minimize=True)      # None for fewer than two parameters

Parameters may be of any kind, and be missing in some trials: those are left out of its panel, and
stand at the foot of its axis where all are side by side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from search.reporting.axes import Axis, CategoryAxis, fit_axis
from search.reporting.document import Figure
from search.reporting.figures import MOST_LINKS, DrawnTrial, finish_figure
from search.reporting.svg import AnyAxis, Chart, Point, shorten
from search.words import format_count

PANEL_WIDTH, PANEL_HEIGHT = 330.0, 230.0
LEFT, RIGHT, TOP, BOTTOM = 62.0, 10.0, 24.0, 42.0
AXIS_GAP = 104.0  # between two axes that stand side by side
TALL = 330.0  # height of the figure of all axes
MOST_BEST = 20
MISSING = "–"  # a parameter that the trial does not have
Valued = Sequence[tuple[DrawnTrial, float]]


def draw_slices(trials: Sequence[DrawnTrial], metric: str, *, minimize: bool) -> list[Figure]:
    """Draw a panel for each parameter that has more than one value. trials: best first"""
    valued = _with_value(trials)
    figures = []
    for place, name in enumerate(_parameter_names(valued)):
        having = [(trial, value) for trial, value in valued if name in trial.parameters]
        chart = Chart(PANEL_WIDTH, PANEL_HEIGHT)
        values = [value for _, value in valued]
        y = fit_axis(values, start=PANEL_HEIGHT - BOTTOM, end=TOP, minimize=minimize)
        x = _parameter_axis(having, name, LEFT, PANEL_WIDTH - RIGHT)
        chart.add_axes(x, y, x_name=shorten(name, 34), y_name=metric, most=5)
        _add_trials(chart, having, name, x, y, links=len(valued) <= MOST_LINKS)
        missing = len(valued) - len(having)
        caption = f"without {name}: {format_count(missing, 'trial')}" if missing else ""
        file = f"slice_{place + 1}.svg"
        figures.append(finish_figure(chart, file, f"{metric} over {name}", caption))
    return figures


def _add_trials(
    chart: Chart, having: Valued, name: str, x: AnyAxis, y: Axis, *, links: bool
) -> None:
    """Add a point for each trial, the best one last."""
    for kind in ("pruned", "complete"):
        shown = [(trial, value) for trial, value in having if trial.kind == kind]
        places = [(_place(x, trial, name), y.place(value)) for trial, value in shown]
        chart.add_points(places, kind, [trial.link for trial, _ in shown] if links else None)
    best, value = having[0]
    if best.complete:
        chart.add_points([(_place(x, best, name), y.place(value))], "best", [best.link])


def draw_parallel(trials: Sequence[DrawnTrial], metric: str, *, minimize: bool) -> Figure | None:
    """Draw a line for each trial across the axes of all parameters to its value.

    The best tenth of the complete trials is coloured, from three to `MOST_BEST` of them.
    """
    valued = _with_value(trials)
    names = _parameter_names(valued)
    if len(names) < 2:
        return None
    width = max(720.0, 60 + AXIS_GAP * len(names))
    chart = Chart(width, TALL)
    foot, head = TALL - 34, 40.0
    gap = (width - 110) / len(names)
    places = [40 + gap * place for place in range(len(names) + 1)]
    axes: list[AnyAxis] = []
    for name in names:
        having = [(trial, value) for trial, value in valued if name in trial.parameters]
        axes.append(_parameter_axis(having, name, foot - 22, head))
    value_axis = fit_axis([v for _, v in valued], start=foot - 22, end=head, minimize=minimize)
    complete = [trial for trial, _ in valued if trial.complete]
    best = complete[: min(max(3, len(complete) // 10), MOST_BEST)]
    ways: dict[str, list[list[Point]]] = {"pruned": [], "complete": []}
    for trial, value in reversed(valued):
        way = [
            (at, _place(axis, trial, name) if name in trial.parameters else foot)
            for at, axis, name in zip(places, axes, names, strict=False)
        ]
        way.append((places[-1], value_axis.place(value)))
        if len(valued) <= MOST_LINKS:
            kind = "best" if trial in best else f"{trial.kind} faint"
            chart.add_line(way, kind, trial.link)
        elif trial in best:
            ways.setdefault("best", []).append(way)
        else:
            ways[trial.kind].append(way)
    for kind, lines in ways.items():
        chart.add_lines(lines, kind if kind == "best" else f"{kind} faint")
    for at, any_axis, name in zip(places, [*axes, value_axis], [*names, metric], strict=True):
        missing = any(name not in trial.parameters for trial, _ in valued)
        _add_upright(chart, at, any_axis, name, foot if missing and name != metric else None)
    caption = (
        f"each line is a trial, from its parameters to its {metric} on the right; "
        f"coloured: the best {len(best)}"
    )
    return finish_figure(chart, "parallel.svg", "parameters of all trials", caption, wide=True)


def _add_upright(chart: Chart, at: float, axis: AnyAxis, name: str, missing: float | None) -> None:
    """Add one upright axis. missing: where trials without the parameter stand"""
    chart.add_line([(at, axis.start), (at, axis.end)], "grid")
    chart.add_text(at, axis.end - 20, shorten(name, 15), anchor="middle", kind="name")
    for value, text in axis.ticks(6):
        place = axis.place(value)  # type: ignore[arg-type]
        chart.add_line([(at - 3, place), (at + 3, place)], "grid")
        chart.add_text(at + 7, place + 4, shorten(text, 9), kind="name")
    if missing is not None:
        chart.add_text(at + 7, missing + 4, MISSING, kind="name")


def _with_value(trials: Sequence[DrawnTrial]) -> Valued:
    return [(trial, trial.value) for trial in trials if trial.value is not None]


def _parameter_names(valued: Valued) -> list[str]:
    """Return the parameters that have more than one value, in their order."""
    seen: dict[str, set[str]] = {}
    for trial, _ in valued:
        for name, value in trial.parameters.items():
            seen.setdefault(name, set()).add(str(value))
    return [name for name, values in seen.items() if len(values) > 1]


def _parameter_axis(having: Valued, name: str, start: float, end: float) -> AnyAxis:
    """Return the axis of a parameter: of numbers where all values are numbers."""
    values = [trial.parameters[name] for trial, _ in having]
    numbers = [
        value for value in values if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    if len(numbers) == len(values) and all(map(math.isfinite, numbers)):
        return fit_axis(
            numbers, start=start, end=end, whole=all(isinstance(n, int) for n in numbers)
        )
    names = tuple(sorted({str(value) for value in values}))
    return CategoryAxis(names=names, start=start, end=end)


def _place(axis: AnyAxis, trial: DrawnTrial, name: str) -> float:
    value = trial.parameters[name]
    if isinstance(axis, CategoryAxis):
        return axis.place(str(value))
    assert isinstance(value, int | float), "an axis of numbers has numbers only"
    return axis.place(value)
