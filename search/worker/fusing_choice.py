"""How many trials a worker holds at once, and which of them are trained as one program.

    choice = FusingChoice(asked=None, on_gpu=True)        # FUSE=auto; see `most_trials`
    choice.most                                           # trials to hold
    for group in choice.group(keys):                      # trial -> key, as `fusing_key` gives it
        choice.note_alone(number, key, seconds)           # a group of one
        choice.note_together(key, count, seconds)
    choice.end_round()

Trials with equal keys can be trained together. Where a number is asked for (FUSE=4) they are.
Otherwise it is measured whether that pays: an epoch of a group has to take less than the epochs of
its trials alone. And a worker holds more trials only as long as that saves time: with four, eight,
sixteen, it has to save clearly more than with half as many. Where trials hardly ever agree, as in a
study of network sizes, it goes back to one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping
from statistics import median

from models.base import Model
from models.training.fused_steps import may_fuse

MOST = 16  # trials that FUSE=auto holds
FIRST = 4  # trials that it tries first
ROUNDS = 4  # in which every trial has an epoch, that make a measurement
GAIN = 1.1  # more trials have to raise the epochs a second by a tenth
ENOUGH = 2  # epochs that make a time known
LATEST = 5  # epochs whose median counts


def most_trials(fuse: int | None, *, on_gpu: bool) -> int:
    """Return how many trials a worker may hold. fuse: FUSE; None: auto"""
    if fuse is not None:
        return fuse
    return MOST if on_gpu else 1


def may_train_together(fuse: int | None, family: type[Model], device: str) -> bool:
    """Return whether a worker on ``device`` may train trials of a family as one program."""
    return may_fuse(family) and most_trials(fuse, on_gpu=device.startswith("cuda")) > 1


class FusingChoice:
    """What one worker has measured of epochs alone and together.

    asked: FUSE; None: auto
    most: how many trials to hold; is_settled: that number does not change any more
    """

    def __init__(self, *, asked: int | None, on_gpu: bool) -> None:
        self.limit = most_trials(asked, on_gpu=on_gpu)
        self.measures = asked is None
        self.most = min(FIRST, self.limit) if self.measures else self.limit
        self.is_settled = self.limit == 1 or not self.measures
        self._alone: dict[Hashable, list[float]] = defaultdict(list)
        self._together: dict[tuple[Hashable, int], list[float]] = defaultdict(list)
        self._begun: set[object] = set()  # trials and groups whose first epoch was timed
        self._refused: set[Hashable] = set()
        self._rounds: list[tuple[float, float]] = []  # seconds alone, and as it was
        self._round = [0.0, 0.0]
        self._is_known = True  # whether all times of the round are
        self._before, self._earlier = 1, 1.0  # how many were held before, and their gain

    def group(self, keys: Mapping[int, Hashable | None]) -> list[list[int]]:
        """Return which trials are trained together now. Many groups may have one trial."""
        agreeing: dict[Hashable, list[int]] = {}
        for number, key in keys.items():
            own = key is None or key in self._refused
            agreeing.setdefault(("alone", number) if own else key, []).append(number)
        groups = []
        for key, numbers in agreeing.items():
            if self._wants_single_time(key, numbers):
                self._is_known = False
                groups.append([numbers[0]])  # it is measured alone
                numbers = numbers[1:]
            if len(numbers) > 1 and self._pays(key, len(numbers)):
                groups.append(numbers)
            else:
                groups += [[number] for number in numbers]
        return groups

    def note_alone(self, number: int, key: Hashable | None, seconds: float) -> None:
        """Note an epoch that a trial had alone. The first one records its step."""
        self._round[0] += seconds
        self._round[1] += seconds
        if not self._is_first(number):
            times = self._alone[key]
            times.append(seconds)
            del times[:-LATEST]

    def note_together(self, key: Hashable, count: int, seconds: float) -> None:
        """Note an epoch of ``count`` trials together. The first one records their step."""
        if self._is_first((key, count)):
            self._is_known = False
            return
        times = self._together[key, count]
        times.append(seconds)
        del times[:-LATEST]
        alone = self._alone[key]
        if len(alone) < ENOUGH:
            self._is_known = False
            return
        self._round[0] += count * median(alone)
        self._round[1] += seconds

    def refuse(self, key: Hashable) -> None:
        """Train trials with this key alone from now on: they have failed together."""
        self._refused.add(key)

    def end_round(self, held: int) -> None:
        """Decide whether to hold more trials, or fewer. held: how many have had an epoch"""
        if self._is_known and held >= self.most:
            self._rounds.append((self._round[0], self._round[1]))
        self._round, self._is_known = [0.0, 0.0], True
        if self.is_settled or len(self._rounds) < ROUNDS:
            return
        alone, spent = (sum(each) for each in zip(*self._rounds, strict=True))
        gain = alone / spent if spent else 1.0
        self._rounds.clear()
        if gain < GAIN * self._earlier:
            self.most, self.is_settled = self._before, True
        elif self.most < self.limit:
            self._before, self._earlier = self.most, gain
            self.most = min(2 * self.most, self.limit)
        else:
            self.is_settled = True

    def _is_first(self, what: object) -> bool:
        is_first = what not in self._begun
        self._begun.add(what)
        return is_first

    def _wants_single_time(self, key: Hashable, numbers: list[int]) -> bool:
        """Whether it is not known yet how long an epoch alone takes."""
        return self.measures and len(numbers) > 1 and len(self._alone.get(key, [])) < ENOUGH

    def _pays(self, key: Hashable, count: int) -> bool:
        """Whether ``count`` trials are faster together, as far as is measured."""
        together, alone = self._together.get((key, count), []), self._alone.get(key, [])
        if not self.measures or len(together) < ENOUGH or len(alone) < ENOUGH:
            return True
        return median(together) < count * median(alone)
