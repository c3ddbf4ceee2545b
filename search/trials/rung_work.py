"""What a study whose trials pause at rungs still trains, as far as its rungs tell.

    found = stretches_left(arrivals, pruner, epochs=27, fresh=range(12, 40), minimize=True)
    found[2]                 # how many stretches of 2 epochs: each leads a trial to its next rung
    RungWork(stretches=found, pruner=pruner, epochs=27).mean_epochs     # of a stretch

One in `reduction_factor` of the trials that reach a rung is promoted there, and goes on. Which
trials these are is not known before, but their number follows from the rungs.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import count

from search.strategies.promotion import AshaPruner
from storage.database.rungs import Arrival, find_leader, list_promoted


@dataclass(frozen=True, kw_only=True)
class RungWork:
    """The work that is left between rungs.

    stretches: how many no worker has begun, by their epochs
    epochs: of a whole trial
    whole: numbers of the trials that run and pause at no rung (`STOP=auto` repeats the best)
    """

    stretches: Counter[int]
    pruner: AshaPruner
    epochs: int
    whole: Collection[int] = frozenset()

    @property
    def mean_epochs(self) -> float:
        """The epochs of a stretch that no worker has begun; 0.0 where none is left."""
        total = sum(epochs * count for epochs, count in self.stretches.items())
        return total / max(1, self.stretches.total())

    def stop_of(self, number: int, done: int) -> int:
        """Return the epoch after which a trial with so many epochs ``done`` pauses or ends."""
        if number in self.whole:
            return self.epochs
        return next_stop(self.pruner, self.epochs, number, done)


def stretches_left(
    arrivals: Collection[Arrival],
    pruner: AshaPruner,
    *,
    epochs: int,
    fresh: range = range(0),
    running: Iterable[int] = (),
    waiting: int = 0,
    minimize: bool,
    has_complete: bool = True,
) -> Counter[int]:
    """Return how many stretches no worker has begun, by their epochs.

    epochs: of a whole trial; fresh: numbers of the trials that have not begun
    running: numbers of those that run and may pause; their present stretch is left out
    waiting: how many were interrupted and wait for a worker: each has at most a stretch
    has_complete: whether a trial is complete; if not, the best goes on to the end
    """
    reached = _last_rungs(arrivals)
    found: Counter[int] = Counter()
    found[next_stop(pruner, epochs, 0, 0)] += waiting
    coming: Counter[tuple[int, int]] = Counter()  # by bracket and rung: how many arrive there yet
    for number, alike in pruner.count_alike(fresh):
        first = next_stop(pruner, epochs, number, 0)
        found[first] += alike
        coming[pruner.bracket_of(number), first] += alike
    for number in running:
        coming[pruner.bracket_of(number), next_stop(pruner, epochs, number, reached[number])] += 1
    there: defaultdict[tuple[int, int], list[Arrival]] = defaultdict(list)
    for each in arrivals:
        there[pruner.bracket_of(each.number), each.rung].append(each)
    for bracket in range(pruner.brackets):
        number = next(each for each in count() if pruner.bracket_of(each) == bracket)
        for rung in pruner.rung_epochs(epochs, number):
            promoted = _promoted_yet(there[bracket, rung], coming[bracket, rung], pruner, minimize)
            after = next_stop(pruner, epochs, number, rung)
            found[after - rung] += promoted
            coming[bracket, after] += promoted
    is_any = has_complete or any(coming[bracket, epochs] for bracket in range(pruner.brackets))
    leader = find_leader(arrivals, minimize=minimize)
    if not is_any and leader is not None:
        found[epochs - max(each.rung for each in arrivals if each.trial_id == leader)] += 1
    return found


def next_stop(pruner: AshaPruner, epochs: int, number: int, done: int) -> int:
    """Return the epoch after which a trial with so many epochs ``done`` pauses or ends."""
    return next((rung for rung in pruner.rung_epochs(epochs, number) if rung > done), epochs)


def _promoted_yet(there: Sequence[Arrival], coming: int, pruner: AshaPruner, minimize: bool) -> int:
    """Return how many more trials go on from a rung at which ``coming`` more arrive."""
    factor = pruner.reduction_factor
    now = len(list_promoted(there, factor=factor, minimize=minimize))
    gone = sum(not each.waits for each in there)
    return max(now, (len(there) + coming) // factor - gone)


def _last_rungs(arrivals: Iterable[Arrival]) -> Counter[int]:
    """Return the last rung that each trial has reached, by its number; 0: none."""
    found: Counter[int] = Counter()
    for each in arrivals:
        found[each.number] = max(found[each.number], each.rung)
    return found
