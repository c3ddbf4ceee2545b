"""Axes of a chart: from values to places on paper, and the numbers written along them.

    axis = fit_axis([0.01, 0.2, 0.03], start=260, end=20)     # logarithmic: 0.2 is WIDE times 0.01
    axis.place(0.03), axis.ticks(6)
    axis = CategoryAxis(names=("adam", "sgd"), start=0, end=100)

Places are in units of the chart, of which the whole is some hundreds wide.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDE = 4.0  # an axis is logarithmic if its largest value is this many times its smallest
EDGE = 0.04  # of an axis: what stays free at its ends
FAR = 3.0  # values this many times as far out as nine tenths of all lie beyond the axis


@dataclass(frozen=True, kw_only=True)
class Axis:
    """Numbers between two places. A number beyond the axis stands at its end.

    low, high: the numbers at ``start`` and ``end``; log: whether the axis is logarithmic
    whole: whether only whole numbers are written along it
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False
    whole: bool = False

    def place(self, value: float) -> float:
        """Return where ``value`` stands."""
        low, high, at = (self._scale(number) for number in (self.low, self.high, value))
        share = (at - low) / (high - low) if high > low else 0.5
        return self.start + (self.end - self.start) * min(max(share, 0.0), 1.0)

    def ticks(self, most: int) -> list[tuple[float, str]]:
        """Return at most ``most`` round numbers along the axis, each with its text."""
        if self.log:
            for subs in ((1, 2, 5), (1, 3), (1,)):
                found = _powers(self.low, self.high, subs)
                if len(found) <= most:
                    break
            found = found[:: -(-len(found) // most)]
            if len(found) > 1:
                return [(value, f"{value:g}") for value in found]
        return [(value, f"{value:.6g}") for value in self._steps(most)]

    def is_beyond(self, value: float) -> bool:
        """Whether ``value`` lies outside and is shown at the axis's end."""
        low, high = sorted((self.low, self.high))
        return not low <= value <= high

    def _scale(self, value: float) -> float:
        return math.log(max(value, self.low / 1e9)) if self.log else value

    def _steps(self, most: int) -> list[float]:
        """Return multiples of 1, 2 or 5 times a power of ten."""
        span = self.high - self.low
        if span <= 0:
            return [self.low]
        step = 10 ** math.floor(math.log10(span / most))
        step *= next(factor for factor in (1, 2, 5, 10, 20) if span / (factor * step) <= most - 1)
        if self.whole:
            step = max(1.0, step)
        first = math.ceil(self.low / step - 1e-9)
        return [k * step for k in range(first, math.floor(self.high / step + 1e-9) + 1)]


def _powers(low: float, high: float, subs: Sequence[int]) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [sub * 10.0**decade for decade in decades for sub in subs]
    return [value for value in found if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]


def fit_axis(
    values: Sequence[float],
    *,
    start: float,
    end: float,
    log: bool | None = None,
    whole: bool = False,
    minimize: bool | None = None,
) -> Axis:
    """Return an axis for finite ``values``.

    log: None lets the values decide
    minimize: which values are the good ones, so that a few of the others, far out, lie beyond
    """
    low, high = min(values), max(values)
    if log is None:
        log = low > 0 and high > WIDE * low
    scaled = sorted(math.log(value) if log else value for value in values)
    first, last = scaled[0], scaled[-1]
    ninth = len(scaled) * 9 // 10
    if minimize is True and last - first > FAR * (reach := scaled[ninth] - first) > 0:
        last = first + 1.3 * reach
    if minimize is False and last - first > FAR * (reach := last - scaled[-1 - ninth]) > 0:
        first = last - 1.3 * reach
    room = EDGE * (last - first) or abs(first) * EDGE or EDGE
    first, last = first - room, last + room
    if log:
        first, last = math.exp(first), math.exp(last)
    return Axis(low=first, high=last, start=start, end=end, log=log, whole=whole)


@dataclass(frozen=True, kw_only=True)
class CategoryAxis:
    """Words at equal distances between two places."""

    names: tuple[str, ...]
    start: float
    end: float

    def place(self, value: str) -> float:
        """Return where ``value`` stands."""
        share = (self.names.index(value) + 0.5) / len(self.names)
        return self.start + (self.end - self.start) * share

    def ticks(self, most: int) -> list[tuple[str, str]]:
        """Return at most ``most`` words along the axis, each with its text."""
        every = -(-len(self.names) // most)
        return [(name, name) for name in self.names[::every]]
