"""Several studies on one page: their winners, how sure the difference is, and what each cost.

    make compare NAMES=cae_random,cae_tpe
    make compare NAMES=random_1+random_2+random_3,tpe_1+tpe_2+tpe_3
    write_comparison(compared, Path("runs/reports/cae_random-cae_tpe"))

Names joined by ``+`` are runs of one study: they make a band of the figures, and the test counts
them. A study that was run once has a line without a band, and the test counts its winner's seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from statistics import fmean, stdev

from search.reporting.axes import Axis, fit_axis
from search.reporting.compared import ComparedStudy, Progress, reach_share
from search.reporting.document import (
    Block,
    Figure,
    Group,
    Heading,
    Table,
    Words,
    files_of,
    to_markdown,
)
from search.reporting.figures import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, finish_figure
from search.reporting.page import to_html
from search.reporting.svg import Chart, shorten
from search.trials.mean_difference import compare_means
from search.words import format_count, format_duration
from storage.files.certificate_words import format_spread
from storage.files.exports import atomic_folder

KINDS = ("best", "complete", "second", "pruned")  # classes of lines, one a study
PLACES = 120  # at which bands are drawn
COLUMNS = ("study", "winner", "of", "test", "best found", "trials", "epochs", "training time")


def write_comparison(compared: Sequence[ComparedStudy], place: Path) -> Path:
    """Write the page into the folder ``place``, in place of an earlier one, and return it."""
    title = " against ".join(each.name for each in compared)
    blocks = _blocks(compared)
    with atomic_folder(place) as folder:
        for file, content in files_of(blocks).items():
            (folder / file).write_bytes(content)
        (folder / "README.md").write_text(to_markdown(title, blocks), encoding="utf-8")
        (folder / "index.html").write_text(to_html(title, blocks), encoding="utf-8")
    return place


def _blocks(compared: Sequence[ComparedStudy]) -> list[Block]:
    metric, goal = compared[0].metric, "lower" if compared[0].minimize else "higher"
    figures = [draw_progress(compared, of) for of in ("seconds", "epochs")]
    return [
        Words(f"By {metric}; {goal} is better."),
        *map(Words, describe_differences(compared)),
        Table(columns=COLUMNS, rows=[cells_of(each) for each in compared]),
        Words(
            "winner: mean and standard deviation on the validation images, over the seeds of the "
            "winner, or over the runs of a study that was run several times; test: of the exported "
            "model on the test images, measured once; training time: of all trials together",
            "soft",
        ),
        Heading("The search"),
        Group([figure for figure in figures if figure is not None]),
    ]


def cells_of(study: ComparedStudy) -> list[str]:
    """Return a study's row under `COLUMNS`."""
    values, several = study.values, len(study.runs) > 1
    if not values:
        winner = "no export here"  # another RUNS may have it
    elif len(values) == 1:
        winner = f"{values[0]:.6g}"
    else:
        winner = format_spread(fmean(values), stdev(values))
    of = format_count(len(values), "run" if several else "seed") if values else "-"
    ends = [run for run in study.progress if run.seconds]
    return [
        study.name + (f" and {len(study.runs) - 1} more" if several else ""),
        winner,
        of,
        "-" if study.test is None else f"{study.test:.6g}",
        "-" if study.best is None else f"{study.best:.6g}",
        str(sum(len(run.seconds) for run in ends)),
        str(sum(run.epochs[-1] for run in ends)),
        format_duration(sum(run.seconds[-1] for run in ends)),
    ]


def describe_differences(compared: Sequence[ComparedStudy]) -> list[str]:
    """Return for each pair which one is better, how sure that is, and which one was faster."""
    lines = []
    for first, second in combinations(compared, 2):
        if first.values and second.values:
            lines.append(_describe_winners(first, second))
        for one, other in ((first, second), (second, first)):
            share = reach_share(one, other)
            if share is not None and share <= 1:
                lines.append(
                    f"{one.name} found the best value of {other.name}'s search in {share:.2g} of "
                    "its training time."
                )
    return lines


def _describe_winners(first: ComparedStudy, second: ComparedStudy) -> str:
    found = compare_means(first.values, second.values)
    is_first = found.difference < 0 if first.minimize else found.difference > 0
    better, other = (first, second) if is_first else (second, first)
    if not found.difference:
        return f"The winners of {first.name} and {second.name} are equally good."
    apart = f"{abs(found.difference):.3g}"
    if found.p is None:
        return (
            f"The winner of {better.name} is better than that of {other.name} by {apart}. One of "
            "the two has a single value, or equal ones: nobody knows whether that is chance. "
            "SEEDS=3 or more shows it."
        )
    assert found.low is not None
    assert found.high is not None
    ends = sorted((abs(found.low), abs(found.high)))
    counts = f"{len(first.values)} and {len(second.values)} values"
    if not found.is_told:
        return (
            f"The winners of {first.name} and {second.name} cannot be told apart: {better.name} is "
            f"ahead by {apart} (Welch's test on {counts}: p = {found.p:.2g})."
        )
    return (
        f"The winner of {better.name} is better than that of {other.name} by {apart} (95 %: "
        f"{ends[0]:.3g} to {ends[1]:.3g}; Welch's test on {counts}: p = {found.p:.2g})."
    )


def draw_progress(compared: Sequence[ComparedStudy], of: str) -> Figure | None:
    """Draw each study's best value so far; of several runs the mean, and the band of all.

    of: what is spent along the axis, ``seconds`` or ``epochs``
    """
    known = [each for each in compared if each.best is not None]
    if not known:
        return None
    costs = [cost for each in known for run in each.progress for cost in costs_of(run, of)[-1:]]
    values = [v for each in known for run in each.progress for v in run.best if v is not None]
    chart = Chart(WIDTH, HEIGHT)
    x = Axis(low=0, high=max(*costs, 1e-9), start=LEFT, end=WIDTH - RIGHT, whole=of == "epochs")
    y = fit_axis(values, start=HEIGHT - BOTTOM, end=TOP, minimize=known[0].minimize)
    name = "seconds of training" if of == "seconds" else "epochs of training"
    chart.add_axes(x, y, x_name=name, y_name=known[0].metric)
    for study, kind in zip(known, KINDS, strict=False):
        low, mean, high = (
            [(x.place(at), y.place(value)) for at, value in line] for line in _band(study, of)
        )
        if len(study.runs) > 1:
            chart.add_band(low, high, kind)
        chart.add_line(mean, f"{kind} mean")
    key = [(kind, shorten(each.name, 24)) for each, kind in zip(known, KINDS, strict=False)]
    chart.add_key(key, LEFT, 14)
    several = any(len(each.runs) > 1 for each in known)
    bands = ", with the lowest and highest of several runs" if several else ""
    caption = f"best value so far over {name}{bands}"
    return finish_figure(chart, f"best-over-{of}.svg", caption, caption)


def costs_of(run: Progress, of: str) -> Sequence[float]:
    """Return what a run has spent when each trial ended."""
    return run.seconds if of == "seconds" else run.epochs


Line = list[tuple[float, float]]


def _band(study: ComparedStudy, of: str) -> tuple[Line, Line, Line]:
    """Return the lowest, mean and highest best value of a study's runs along the axis, from where
    all have one."""
    lines: tuple[Line, Line, Line] = ([], [], [])
    ends = max(costs_of(run, of)[-1] for run in study.progress if run.best)
    for place in range(PLACES + 1):
        cost = ends * place / PLACES
        found = [run.best_after(cost, costs_of(run, of)) for run in study.progress]
        values = [value for value in found if value is not None]
        if len(values) == len(found):
            for line, value in zip(lines, (min(values), fmean(values), max(values)), strict=True):
                if line and line[-1][1] != value:
                    line.append((cost, line[-1][1]))  # a step, and no slope
                line.append((cost, value))
    return lines
