"""What a study may still gain, beside how far another seed moves its best value.

    expected_gain(values, remaining=60, minimize=True)
    Prospect(ended=40, remaining=60, gain=0.001, noise=0.004).pays      # False

Half of the trials so far would have found E, the mean best of a random half. So the last doubling
of the study has gained E less the best of all. The next doubling gains about as much at most, since
improvements get smaller. R more trials after n are log2((n + R) / n) doublings. A study pays as
long as that gain is at least `SHARE` of the noise.

Optuna's terminator (Makarova et al. 2022) bounds the gain by a Gaussian process over the
parameters. Here only values count. So this holds for every sampler, for spaces with branches and
for pruned trials, and costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

SHARE = 0.5  # of the noise; in simulated studies of 100 trials, less was lost than with all of it


def expected_gain(values: Sequence[float], remaining: int, *, minimize: bool) -> float:
    """Return by how much ``remaining`` more trials may improve the best of ``values``, >= 0.

    values: of 2 trials or more, all finite

    >>> round(expected_gain([3.0, 1.0, 2.0, 4.0], 4, minimize=True), 6)  # 1, 2 or 3: six halves
    0.666667
    >>> expected_gain([3.0, 1.0, 2.0, 4.0], 0, minimize=True)
    0.0
    """
    ordered = sorted(values, reverse=not minimize)
    half = len(ordered) // 2
    expected, rest = 0.0, 1.0  # rest: chance that none of those before is in the half
    for place, value in enumerate(ordered[: len(ordered) - half + 1]):
        chance = rest * half / (len(ordered) - place)
        expected += chance * value
        rest -= chance
    doublings = math.log2((len(ordered) + remaining) / len(ordered))
    return abs(expected - ordered[0]) * doublings


@dataclass(frozen=True, kw_only=True)
class Prospect:
    """What a study may still gain, beside the noise between seeds.

    ended: trials that have, or pause; remaining: those that are left
    """

    ended: int
    remaining: int
    gain: float
    noise: float

    @property
    def pays(self) -> bool:
        """Whether the remaining trials may bring more than another seed."""
        return self.gain >= SHARE * self.noise

    @property
    def words(self) -> str:
        """Why the study stops."""
        return (
            f"STOP=auto: {self.remaining} more trials may bring {self.gain:.2g}, and seeds of the "
            f"best configuration differ by {self.noise:.2g}"
        )
