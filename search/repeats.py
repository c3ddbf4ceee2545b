"""Means over trials that repeat the same parameters with other seeds.

    last = at_epoch(trials, curves, "last")                  # one row a trial
    over_repeats(last, "row", ["valid_frechet"])             # one row a value of `row`

The ``summary`` of a study file uses them. A standard deviation is that of the sample (n - 1); that
of a single run is NaN.
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
    """Return one row a complete trial: the columns of ``trials``, then ``epoch`` and what was
    measured in that epoch (``valid_mse``, ...).

    The epoch is the last one, or the first of those with the best value. A measure that has the
    name of a parameter or an attribute is left out.
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
    """Return one row a combination of ``by``, in the order in which the combinations first occur.

    The columns are those of ``by``, then ``runs``, and for every measure its mean and its standard
    deviation ``NAME_sd``, which is NaN for a single run.
    """
    names = [by] if isinstance(by, str) else list(by)
    groups = frame.groupby(names, sort=False)
    table = groups.size().rename("runs").to_frame()
    for name in measures:
        table[name], table[f"{name}_sd"] = groups[name].mean(), groups[name].std()
    return table.reset_index()


def spread(mean: float, deviation: float, digits: int = 2) -> str:
    """Return ``9.67 ± 0.58``; for a single run ``9.67``, for none ``-``."""
    if math.isnan(mean):
        return "-"
    plain = f"{mean:.{digits}f}"
    return plain if math.isnan(deviation) else f"{plain} ± {deviation:.{digits}f}"


def judged_on(trials: pd.DataFrame) -> str:
    """Return ``5,000 samples of each run``; empty where no judge has measured samples."""
    if "judged_samples" not in trials:
        return ""
    known = sorted({int(count) for count in trials["judged_samples"].dropna()})
    ends = dict.fromkeys(f"{count:,}" for count in known[:1] + known[-1:])
    return f"{' to '.join(ends)} samples of each run" if known else ""


def counted(verdicts: Iterable[object]) -> str:
    """Return ``2 collapsed, 1 D won``, the most frequent first; what is no verdict is left out."""
    known = Counter(verdicts)
    return ", ".join(f"{n} {WORDS[kind]}" for kind, n in known.most_common() if kind in WORDS)
