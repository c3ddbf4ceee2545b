"""The rows as a picture for the README: a bar a row, a mark where its target is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from tests.benchmarks.rows import Row

MET, MISSED, PLAIN = "#2a7f62", "#b5483a", "#5b7a99"
BAR = 0.34  # inches of height a row


def draw(path: Path, rows: Sequence[Row]) -> None:
    """Write a PNG of all rows with a ratio or a target; a whole picture replaces the former one."""
    shown = [row for row in rows if row.ratio is not None or row.target is not None]
    if not shown:
        return
    figure = Figure(figsize=(9, 1.4 + BAR * len(shown)), dpi=120)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    places = range(len(shown))
    ratios = [row.ratio or 1.0 for row in shown]
    axes.barh(places, [ratio - 1 for ratio in ratios], left=1, color=[_colour(r) for r in shown])
    wanted = [(place, row.target) for place, row in zip(places, shown, strict=True) if row.target]
    axes.plot(
        [target for _, target in wanted],
        [place for place, _ in wanted],
        linestyle="none",
        marker="|",
        markersize=15,
        markeredgewidth=2.5,
        color="black",
        label="target",
    )
    _scale(figure, ratios + [target for _, target in wanted])
    for place, row, ratio in zip(places, shown, ratios, strict=True):
        at = max(ratio, row.target or 0, 1)
        figures = f"{ratio:.1f}×" if ratio < 100 else f"{ratio:.0f}×"
        axes.annotate(
            "not reached" if row.ratio is None else figures,
            (at, place),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
    axes.set_yticks(list(places), [f"{row.section}: {row.what}\nvs {row.peer}" for row in shown])
    axes.tick_params(axis="y", labelsize=7.5, length=0)
    axes.set_ylim(len(shown) - 0.4, -0.6)  # the first row on top
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("times better than the peer (log scale)")
    short = " · a short form" if any(row.form != "full" for row in shown) else ""
    axes.set_title(f"make bench · {shown[0].machine}{short}", fontsize=9)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    if wanted:
        axes.legend(loc="lower right", frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}")
    figure.savefig(beside, format="png", bbox_inches="tight", pad_inches=0.15)
    beside.replace(path)


def _scale(figure: Figure, values: Sequence[float]) -> None:
    """A log axis around 1 with room for the figures at the bars' ends."""
    axes = figure.axes[0]
    axes.set_xscale("log")
    axes.set_xlim(min(0.8, *(0.8 * value for value in values)), 2.2 * max(2.0, *values))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="x", linewidth=0.4, alpha=0.5)
    axes.set_axisbelow(True)


def _colour(row: Row) -> str:
    return PLAIN if row.met is None else MET if row.met else MISSED
