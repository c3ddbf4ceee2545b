"""The race of the configurations that are trained again: which of them get another seed.

    race = run_race({7: {1: 0.021, 2: 0.022}, 3: {1: 0.034, 2: 0.035}}, seeds=3, minimize=True)
    race.missing          # ((7, 3),): trial 7 is trained with its third seed
    race.counted          # {7: 3, 3: 2}: how many seeds of each trial count

Each configuration gets two seeds first. A configuration that is clearly worse than the leader then
gets no further seed; the others get one more, and so on. The probability that the truly best one is
dropped is at most `LEVEL` for the whole race. It is shared out over all comparisons (Bonferroni).
Each comparison is a one-sided t test with the noise of all configurations together.

The race follows from the values alone. So a run that was interrupted goes on with the same seeds,
however many workers train them and in whichever order they end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from search.trials.seed_statistics import clearly_worse

LEVEL = 0.05  # probability that a race drops the truly best configuration
FIRST = 2  # seeds of each configuration before any is dropped: one says nothing about the noise

Found = Mapping[int, Mapping[int, float | None]]  # trial -> repeat, from 1 -> its value;
# None: it has no model


@dataclass(frozen=True, kw_only=True)
class Race:
    """How far the race is.

    missing: (trial, repeat) that have to be trained next; none: the race is over
    counted: how many seeds of each trial count, those that are missing included
    """

    missing: tuple[tuple[int, int], ...]
    counted: Mapping[int, int]


def run_race(found: Found, *, seeds: int, minimize: bool, drops: bool = True) -> Race:
    """Run the race as far as the values allow.

    A configuration with a seed that gave no model gets no further one.
    drops: False: each configuration gets all its seeds, whatever their values

    >>> run_race({7: {1: 0.021}, 3: {1: 0.034}}, seeds=3, minimize=True).missing
    ((3, 2), (7, 2))
    >>> run_race({7: {1: 0.021}, 3: {1: 0.034}}, seeds=1, minimize=True).missing
    ()
    """
    counted = dict.fromkeys(sorted(found), min(FIRST, seeds))
    comparisons = max(1, len(found) - 1) * max(1, seeds - FIRST)
    while True:
        missing = [
            (repeat, number)
            for number, count in counted.items()
            for repeat in range(1, count + 1)
            if repeat not in found[number]
        ]
        if missing:  # the first seeds first
            in_turn = tuple((number, repeat) for repeat, number in sorted(missing))
            return Race(missing=in_turn, counted=counted)
        values = {number: _values(found[number], count) for number, count in counted.items()}
        whole = {number: kept for number, kept in values.items() if len(kept) == counted[number]}
        level = LEVEL / comparisons if drops else 0.0
        worse = clearly_worse([*whole.values()], minimize=minimize, level=level)
        further = [
            number
            for number, is_worse in zip(whole, worse, strict=True)
            if not is_worse and counted[number] < seeds
        ]
        if not further:
            return Race(missing=(), counted=counted)
        for number in further:
            counted[number] += 1


def _values(found: Mapping[int, float | None], count: int) -> list[float]:
    """Return the values of the first ``count`` seeds that have a model."""
    kept = [found[repeat] for repeat in range(1, count + 1)]
    return [value for value in kept if value is not None]
