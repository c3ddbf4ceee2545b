"""Whether another judge of the samples would rank the trials alike.

Studies that ask for it keep, of each trial's last epoch, the measures of a second judge with
features of its own: ``second_frechet`` and ``second_coverage``, beside ``last_frechet`` of the
judge that the study optimises.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from optuna.trial import FrozenTrial

from search.reporting.document import heading, paragraph, picture
from search.reporting.figures import Pairs, draw_pairs

LEAST = 5  # trials
ASKED = ("last_frechet", "second_frechet", "second_coverage")

Number = Callable[[FrozenTrial], object]


def ranking_check(trials: Sequence[FrozenTrial], metric: str, path: Path) -> list[str]:
    """Spearman's rho of both judges' distances, and of the value with the second's coverage;
    nothing for a study without a second judge.

    path: of the picture
    """
    if not any(name in trial.user_attrs for trial in trials for name in ASKED[1:]):
        return []
    first, second, coverage = (_attribute(name) for name in ASKED)
    compared = (
        ("Fréchet distance of the last epoch", "the same, second judge", first, second, "1"),
        (
            metric,
            "coverage, second judge",
            _value,
            coverage,
            "-1" if "frechet" in metric else "1 or -1",
        ),
    )
    words, panels = [], []
    for x, y, left, right, perfect in compared:
        points = [
            (a, b)
            for trial in trials
            if (a := _finite(left(trial))) is not None and (b := _finite(right(trial))) is not None
        ]
        rho = _spearman(points) if len(points) >= LEAST else None
        words.append(f"{x} with {y}: {_said(points, rho, perfect)}")
        if rho is not None:
            panels.append(Pairs(x=x, y=y, points=points, rho=rho))
    blocks = [heading("Would another judge rank the trials alike?"), *map(paragraph, words)]
    if panels:
        draw_pairs(path, panels)
        blocks.append(picture(path.name, "each point is a trial"))
    return blocks


def _said(points: Sequence[tuple[float, float]], rho: float | None, perfect: str) -> str:
    if len(points) < LEAST:
        return f"too few to say: {len(points)} trials have both, at least {LEAST} are needed."
    if rho is None:
        return f"no ranks to compare: all values of one are equal ({len(points)} trials)."
    return f"Spearman's rho {rho:.2f} over {len(points)} trials ({perfect}: the same order)."


def _attribute(name: str) -> Number:
    return lambda trial: trial.user_attrs.get(name)


def _value(trial: FrozenTrial) -> object:
    return trial.value


def _finite(value: object) -> float | None:
    if isinstance(value, int | float) and math.isfinite(value):
        return float(value)
    return None


def _spearman(points: Sequence[tuple[float, float]]) -> float | None:
    """The correlation of their ranks; None where all are equal on one side."""
    import pandas as pd

    xs, ys = (pd.Series(side).rank() for side in zip(*points, strict=True))
    if xs.nunique() == 1 or ys.nunique() == 1:
        return None
    return float(xs.corr(ys))
