"""Whether a second evaluator of the samples ranks the trials like the first.

    blocks = ranking_check(trials, "frechet")

A study that asks for it keeps what a second evaluator, with features of its own, measures in the
last epoch of each trial: ``second_frechet`` and ``second_coverage``. They stand beside
``last_frechet`` of the evaluator whose measure the study optimises.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from optuna.trial import FrozenTrial

from search.reporting.document import Block, Figure, Group, Heading, Words
from search.reporting.figures import Pairs, draw_pairs
from search.reporting.importance import quality_of
from search.words import format_count

LEAST = 5  # trials with both numbers, to compare their ranks
MEASURES = ("last_frechet", "second_frechet", "second_coverage")

Number = Callable[[FrozenTrial], object]


def ranking_check(trials: Sequence[FrozenTrial], metric: str) -> list[Block]:
    """Return how far the two evaluators agree; nothing for a study without a second one.

    Spearman's rho compares their distances, and the value with the second one's coverage.
    """
    if not any(name in trial.user_attrs for trial in trials for name in MEASURES[1:]):
        return []
    first, second, coverage = (_attribute(name) for name in MEASURES)
    compared = (
        ("Fréchet distance of the last epoch", "the same, second evaluator", first, second, "1"),
        (
            metric,
            "coverage, second evaluator",
            _value,
            coverage,
            "-1" if "frechet" in metric else "1 or -1",
        ),
    )
    words: list[str] = []
    figures: list[Figure] = []
    for x, y, left, right, perfect in compared:
        points = [
            (a, b)
            for trial in trials
            if (a := _finite_number(left(trial))) is not None
            and (b := _finite_number(right(trial))) is not None
        ]
        rho = _rank_correlation(points) if len(points) >= LEAST else None
        words.append(f"{x} with {y}: {_describe_ranks(points, rho, perfect)}")
        if rho is not None:
            file = f"ranking_{len(figures) + 1}.svg"
            figures.append(draw_pairs(file, Pairs(x=x, y=y, points=points, rho=rho)))
    title = Heading("Does a second evaluator rank the trials in the same order?")
    return [title, *map(Words, words), *([Group(figures)] if figures else [])]


def _describe_ranks(points: Sequence[tuple[float, float]], rho: float | None, perfect: str) -> str:
    found = format_count(len(points), "trial")
    if len(points) < LEAST:
        return f"too few to say: {found} with both, at least {LEAST} are needed."
    if rho is None:
        return f"no ranks to compare: all values of one are equal ({found})."
    return f"Spearman's rho {rho:.2f} over {found} ({perfect}: the same order)."


def _attribute(name: str) -> Number:
    """Return the function that reads the attribute ``name`` of a trial."""
    return lambda trial: trial.user_attrs.get(name)


def _value(trial: FrozenTrial) -> object:
    return quality_of(trial)


def _finite_number(value: object) -> float | None:
    """Return ``value`` if it is a finite number."""
    if isinstance(value, int | float) and math.isfinite(value):
        return float(value)
    return None


def _rank_correlation(points: Sequence[tuple[float, float]]) -> float | None:
    """Return Spearman's rho of the pairs; None where all numbers on one side are equal."""
    import pandas as pd

    xs, ys = (pd.Series(side).rank() for side in zip(*points, strict=True))
    if xs.nunique() == 1 or ys.nunique() == 1:
        return None
    return float(xs.corr(ys))
