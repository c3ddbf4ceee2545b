"""What the values of a few seeds say about configurations: which is clearly worse, which is best.

    clearly_worse([[5.0, 5.2], [9.1, 9.4], [5.1, 5.3]], minimize=True, level=0.025)
    probabilities_best([[5.0, 5.2, 5.1], [5.3, 5.5, 5.4]], minimize=True)

Two or three seeds of one configuration say little about their spread. So the noise is pooled: it
is estimated from all configurations together. Losses and distances have noise in proportion to
their size, so where all values are positive it is a share of each configuration's mean; else it is
one deviation for all.

A rank test such as Wilcoxon's, which Optuna's pruner of that name takes, cannot be significant with
three values a side: its smallest p is 1/20. Hence Student's t, with the pooled noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, variance

import numpy as np

Groups = Sequence[Sequence[float]]  # of each configuration, the values of its seeds

ROUNDING = 1e-12  # of a mean: values of a configuration that are no further apart are equal
DRAWS = 40_000  # of the posterior: a probability is exact to about half a percent


@dataclass(frozen=True, kw_only=True)
class SeedNoise:
    """How far another seed moves a value.

    deviation: of one run; a share of the configuration's mean where ``is_relative``
    freedom: degrees of freedom of that estimate
    """

    deviation: float
    freedom: int
    is_relative: bool

    def scale_of(self, mean: float) -> float:
        """Return the unit in which ``deviation`` counts for a configuration with that mean."""
        return mean if self.is_relative else 1.0


def pool_noise(groups: Groups) -> SeedNoise | None:
    """Return the noise of all configurations together; None where each has one seed.

    >>> round(pool_noise([[1.0, 3.0], [0.0, 2.0]]).deviation ** 2, 6)
    2.0
    >>> pool_noise([[0.1, 0.1, 0.1], [0.3, 0.3]]).deviation  # their sums are rounded
    0.0
    >>> pool_noise([[1.0], [2.0]]) is None
    True
    """
    freedom = sum(len(group) - 1 for group in groups)
    if not freedom:
        return None
    is_relative = all(value > 0 for group in groups for value in group)
    squares = 0.0
    for group in groups:
        mean = fmean(group)
        if all(math.isclose(value, mean, rel_tol=ROUNDING) for value in group):
            continue
        unit = mean if is_relative else 1.0
        squares += sum(((value - mean) / unit) ** 2 for value in group)
    return SeedNoise(deviation=(squares / freedom) ** 0.5, freedom=freedom, is_relative=is_relative)


def clearly_worse(groups: Groups, *, minimize: bool, level: float) -> list[bool]:
    """Return for each configuration whether it is clearly worse than the one with the best mean.

    level: how often a configuration that is as good may be called worse (one-sided)
    One whose own values are further apart than the pooled noise counts with its own.

    >>> clearly_worse([[5.0, 5.2], [9.1, 9.4], [5.1, 5.3]], minimize=True, level=0.025)
    [False, True, False]
    """
    from scipy.special import stdtr  # no command that only starts need wait for it

    noise = pool_noise(groups)
    if noise is None or noise.deviation == 0:  # equal values are no measure of noise
        return [False] * len(groups)
    means = [fmean(group) for group in groups]
    variances = [
        max((noise.deviation * noise.scale_of(mean)) ** 2, _variance(group)) / len(group)
        for mean, group in zip(means, groups, strict=True)
    ]
    leader = best_place(means, minimize=minimize)
    worse = []
    for mean, spread in zip(means, variances, strict=True):
        lead = mean - means[leader] if minimize else means[leader] - mean
        t = lead / (spread + variances[leader]) ** 0.5
        worse.append(bool(stdtr(noise.freedom, -t) < level))
    return worse


def _variance(values: Sequence[float]) -> float:
    return variance(values) if len(values) > 1 else 0.0


def probabilities_best(groups: Groups, *, minimize: bool, draws: int = DRAWS) -> list[float] | None:
    """Return for each configuration how probable it is that its true mean is the best.

    None where each has one seed, or the seeds of each gave equal values: nothing is known of the
    noise then.

    The posterior is that of a hierarchical model: a configuration's mean varies around its true
    one by the pooled noise, and the true ones vary around a common centre. How much of the spread
    of the means is noise is unknown, and every share is equally likely beforehand. So means that
    lie within the noise are drawn together, and the winner of a close race is not overrated.

    The numbers are drawn from the same seed each time.
    """
    noise = pool_noise(groups)
    if noise is None or noise.deviation == 0:  # equal values are no measure of noise
        return None
    means = np.array([fmean(group) for group in groups])
    sign = 1.0 if minimize else -1.0
    generator = np.random.default_rng(0)
    scales = np.array([noise.scale_of(float(mean)) for mean in means])
    counts = np.array([len(group) for group in groups])
    deviations = noise.deviation * np.sqrt(
        noise.freedom / generator.chisquare(noise.freedom, draws)
    )
    within = (deviations[:, None] * scales) ** 2 / counts  # (draws, configurations)
    share = generator.uniform(size=draws)  # of the spread that is noise
    between = (within.mean(1) * (1 - share) / share)[:, None]
    precision = 1 / (within + between)
    centre = (precision * means).sum(1) / precision.sum(1)
    misfit = (precision * (means - centre[:, None]) ** 2).sum(1)
    likelihood = (np.log(precision).sum(1) - np.log(precision.sum(1)) - misfit) / 2
    weights = np.exp(likelihood - likelihood.max())
    centre += generator.standard_normal(draws) / np.sqrt(precision.sum(1))
    width = np.sqrt(within * between / (within + between))
    drawn = (means * between + centre[:, None] * within) / (within + between)
    drawn += generator.standard_normal(drawn.shape) * width
    best = (sign * drawn).argmin(1)
    found = np.bincount(best, weights=weights, minlength=len(groups)) / weights.sum()
    return [float(probability) for probability in found]


def best_place(values: Sequence[float], *, minimize: bool) -> int:
    """Return the place of the best value, of equal ones the first.

    >>> best_place([3.0, 1.0, 1.0], minimize=True), best_place([3.0, 1.0], minimize=False)
    (1, 0)
    """
    places = range(len(values))
    return min(places, key=lambda place: values[place] if minimize else -values[place])
