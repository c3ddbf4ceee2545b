"""How far the means of two groups of runs are apart, and whether chance explains it.

    found = compare_means([5.0, 5.2, 5.1], [5.6, 5.4, 5.9])
    found.difference, found.low, found.high, found.p

The groups may differ in their spread and in their size, so this is Welch's test (1947), from SciPy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

LEVEL = 0.05  # how often a difference of nothing may be called one
CONFIDENCE = 1 - LEVEL


@dataclass(frozen=True, kw_only=True)
class MeanDifference:
    """The mean of the first group less that of the second.

    low, high: its confidence interval, of 95 %; p: how often chance alone gives as large a
    difference; None: a group has a single run, or all runs of a group are equal
    """

    difference: float
    low: float | None = None
    high: float | None = None
    p: float | None = None

    @property
    def is_told(self) -> bool:
        """Whether the difference can be told from chance."""
        return self.p is not None and self.p < LEVEL


def compare_means(first: Sequence[float], second: Sequence[float]) -> MeanDifference:
    """Return how far the means of two groups of finite numbers, one or more each, are apart.

    >>> found = compare_means([5.0, 5.2, 5.1], [5.6, 5.4, 5.9])
    >>> round(found.difference, 3), round(found.p, 3), found.is_told
    (-0.533, 0.051, False)
    >>> compare_means([5.0], [5.6, 5.4]).p is None
    True
    """
    difference = fmean(first) - fmean(second)
    if min(len(set(first)), len(set(second))) < 2:
        return MeanDifference(difference=difference)
    from scipy.stats import ttest_ind  # no command that only starts need wait for it

    found = ttest_ind(first, second, equal_var=False)
    interval = found.confidence_interval(CONFIDENCE)
    low, high, p = float(interval.low), float(interval.high), float(found.pvalue)
    if not all(map(math.isfinite, (low, high, p))):
        return MeanDifference(difference=difference)
    return MeanDifference(difference=difference, low=low, high=high, p=p)
