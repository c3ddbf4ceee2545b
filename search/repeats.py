"""Means over trials that repeat the same parameters with other seeds.

    last = at_epoch(trials, curves, "last")                  # one row a trial
    over_repeats(last, "row", ["valid_frechet"])             # one row a value of `row`

For a study's `search.reporting.summary`. A standard deviation is the sample's (n - 1); of one run
it is unknown.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

from models.evaluation.gan_diagnosis import WORDS

if TYPE_CHECKING:
    import pandas as pd

Which = Literal["last", "best"]


def at_epoch(
    trials: pd.DataFrame,
    curves: pd.DataFrame,
    which: Which = "last",
    *,
    direction: Literal["minimize", "maximize"] = "minimize",
) -> pd.DataFrame:
    """Complete trials, one row each: the columns of ``trials``, then ``epoch`` and what was
    measured in it (``valid_mse``, ...): in the last epoch, or in the one with the best value, the
    first of several. A measure that is called like a parameter or an attribute is left out.
    """
    complete = trials[trials["state"] == "COMPLETE"]
    epochs = curves[curves["number"].isin(complete["number"])]
    best_first = direction == "minimize" if which == "best" else False
    by = "value" if which == "best" else "epoch"
    order = epochs.sort_values(["number", by, "epoch"], ascending=[True, best_first, True])
    chosen = order.groupby("number").head(1)
    free = ["number", *(name for name in chosen if name not in trials)]
    return complete.merge(chosen[free], on="number", how="left")


def over_repeats(
    frame: pd.DataFrame, by: str | Sequence[str], measures: Sequence[str]
) -> pd.DataFrame:
    """One row a combination of ``by``, in the order in which they come first: the columns ``by``,
    ``runs``, and of every measure its mean, ``NAME_sd``: its standard deviation, NaN of one run.
    """
    names = [by] if isinstance(by, str) else list(by)
    groups = frame.groupby(names, sort=False)
    made = groups.size().rename("runs").to_frame()
    for name in measures:
        made[name], made[f"{name}_sd"] = groups[name].mean(), groups[name].std()
    return made.reset_index()


def spread(mean: float, deviation: float, digits: int = 2) -> str:
    """``9.67 ± 0.58``; of one run ``9.67``, of none ``-``."""
    if math.isnan(mean):
        return "-"
    plain = f"{mean:.{digits}f}"
    return plain if math.isnan(deviation) else f"{plain} ± {deviation:.{digits}f}"


def counted(verdicts: Iterable[object]) -> str:
    """``2 collapsed, 1 D won``, the most frequent first; what is no verdict does not count."""
    known = Counter(verdicts)
    return ", ".join(f"{n} {WORDS[kind]}" for kind, n in known.most_common() if kind in WORDS)
