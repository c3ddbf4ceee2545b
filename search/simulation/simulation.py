"""A study that is played from its stored curves: workers, a pruner and a clock, and no training.

    played = Simulation(curves, plan, make_pruner("asha")).run()
    played.epochs, played.wall, played.best

The pruner is the real one: Optuna's classes on a study in memory, or those of
`search.strategies.pruners`. If trials pause, the rules of `search.trials.paused` and
`storage.database.rungs` decide what a free worker takes and which trial is promoted. An epoch takes
its recorded seconds; starting and drawing take no time. Epochs that end at the same moment do so in
the order in which they began.
"""

from __future__ import annotations

import heapq
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner
from optuna.trial import Trial, TrialState

from search.front import Vector
from search.simulation.stored_curves import Curve
from search.strategies.promotion import AshaPruner
from search.trials.paused import Pauses, choose_next, find_pauses
from storage.database.rungs import Arrival, goes_on_at_once


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is simulated.

    workers: how many train at once; epochs: most of a trial; minimize: whether less is better
    word: names the study; Hyperband draws its brackets from it
    """

    workers: int
    epochs: int
    minimize: bool
    word: str


@dataclass(frozen=True, kw_only=True)
class Played:
    """What a simulated study has cost and found.

    epochs: of all trials; machine, wall: seconds, of all workers together and by the clock
    winner, best: number of its best complete trial, and its value as the study saw it; None: no
        trial is complete
    complete, pruned: how many trials ended so
    """

    epochs: int
    machine: float
    wall: float
    winner: int | None
    best: float | None
    complete: int
    pruned: int


@dataclass
class PlayedTrial:
    """A trial of the simulation: its curve, and how far it is.

    epoch: how many it has reported; state: in Optuna's words, or PAUSED
    """

    curve: Curve
    trial: Trial
    epoch: int = 0
    state: str = "RUNNING"


class Simulation:
    """One run over ``curves``, in their order."""

    def __init__(self, curves: Sequence[Curve], plan: Plan, pruner: BasePruner) -> None:
        self.curves = curves
        self.plan = plan
        self.pruner = pruner
        self.study = optuna.create_study(
            study_name=plan.word,
            storage=optuna.storages.InMemoryStorage(),
            direction="minimize" if plan.minimize else "maximize",
            sampler=optuna.samplers.RandomSampler(seed=0),
            pruner=pruner,
        )
        self.trials: list[PlayedTrial] = []  # by their number in the simulation
        self.arrivals: dict[tuple[int, int], tuple[float, bool]] = {}  # value, whether it waits
        self.events: list[tuple[float, int, int]] = []  # end of an epoch, its place, the trial
        self.begun = 0  # epochs, for their order
        self.now = 0.0
        self.idle = plan.workers
        self.cost = 0.0

    def run(self) -> Played:
        """Play until no worker finds anything to do."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            self._employ()
            while self.events:
                self.now, _, number = heapq.heappop(self.events)
                self._end_epoch(number)
                self._employ()
        ended = Counter(each.state for each in self.trials)
        best = self._find_best()
        return Played(
            epochs=sum(each.epoch for each in self.trials),
            machine=self.cost,
            wall=self.now,
            winner=None if best is None else best.curve.number,
            best=None if best is None else self._value(best),
            complete=ended["COMPLETE"],
            pruned=ended["PRUNED"],
        )

    def complete_vectors(self) -> list[Vector]:
        """Return the vectors of the complete trials, of curves with several goals."""
        return [
            each.curve.vector(each.epoch, minimize=self.plan.minimize)
            for each in self.trials
            if each.state == "COMPLETE"
        ]

    def _find_best(self) -> PlayedTrial | None:
        complete = [each for each in self.trials if each.state == "COMPLETE"]
        sign = 1 if self.plan.minimize else -1

        def rank(played: PlayedTrial) -> tuple[float, int]:
            return sign * self._value(played), played.curve.number

        return min(complete, key=rank, default=None)

    def _employ(self) -> None:
        """Let every idle worker take a trial, as long as there is one."""
        while self.idle and self._take():
            pass

    def _take(self) -> bool:
        """Let one idle worker take the next trial. False: there is none."""
        states = Counter(each.state for each in self.trials)
        choice = choose_next(states, self._pauses(), self._has_new)
        if choice is None:
            return False
        if choice.paused is None:
            self.trials.append(PlayedTrial(self.curves[len(self.trials)], self.study.ask()))
            self._begin_epoch(len(self.trials) - 1)
        elif choice.goes_on:
            self._promote(choice.paused)
            self.trials[choice.paused].state = "RUNNING"
            self._begin_epoch(choice.paused)
        else:
            self._end(choice.paused, TrialState.PRUNED)  # it takes no time
            return True
        self.idle -= 1
        return True

    def _has_new(self) -> bool:
        return len(self.trials) < len(self.curves)

    def _begin_epoch(self, number: int) -> None:
        played = self.trials[number]
        seconds = played.curve.seconds[played.epoch]
        self.cost += seconds
        heapq.heappush(self.events, (self.now + seconds, self.begun, number))
        self.begun += 1

    def _end_epoch(self, number: int) -> None:
        """Report an epoch, and let the trial end, pause or go on."""
        played = self.trials[number]
        played.trial.report(played.curve.values[played.epoch], played.epoch)
        played.epoch += 1
        rung = self._rung_of(played)
        if played.epoch == self.plan.epochs:
            self._end(number, TrialState.COMPLETE)
        elif self._is_pruned(played):
            self._end(number, TrialState.PRUNED)
        elif rung is not None and not self._reach(number, rung):
            played.state = "PAUSED"
        else:
            self._begin_epoch(number)
            return
        self.idle += 1

    def _is_pruned(self, played: PlayedTrial) -> bool:
        """Whether the pruner ends a trial after the epoch that it has just reported."""
        return played.trial.should_prune()

    def _rung_of(self, played: PlayedTrial) -> int | None:
        """Return the rung that a trial has reached; None: none."""
        if not isinstance(self.pruner, AshaPruner):
            return None
        rungs = self.pruner.rung_epochs(self.plan.epochs, played.trial.number)
        return played.epoch if played.epoch in rungs else None

    def _end(self, number: int, state: TrialState) -> None:
        played = self.trials[number]
        value = self._value(played) if state == TrialState.COMPLETE else None
        self.study.tell(played.trial, value, state=state)
        played.state = state.name

    def _value(self, played: PlayedTrial) -> float:
        return played.curve.best(played.epoch, minimize=self.plan.minimize)

    def _reach(self, number: int, rung: int) -> bool:
        """Note that a trial has reached a rung; return whether it goes on at once."""
        assert isinstance(self.pruner, AshaPruner)
        self.arrivals[number, rung] = (self._value(self.trials[number]), True)
        there = [each for each in self._arrivals() if each.rung == rung]
        own = next(each for each in there if each.trial_id == number)
        if goes_on_at_once(
            there,
            own,
            factor=self.pruner.reduction_factor,
            minimize=self.plan.minimize,
            bracket_of=self.pruner.bracket_of,
        ):
            self._promote(number)
            return True
        return False

    def _promote(self, number: int) -> None:
        for (trial, rung), (value, _) in list(self.arrivals.items()):
            if trial == number:
                self.arrivals[trial, rung] = (value, False)

    def _pauses(self) -> Pauses:
        if not isinstance(self.pruner, AshaPruner):
            return Pauses()
        return find_pauses(self._arrivals(), self.pruner, minimize=self.plan.minimize)

    def _arrivals(self) -> list[Arrival]:
        """Return the arrivals at rungs in the form of the trial database: pausing is WAITING."""
        states = ["WAITING" if each.state == "PAUSED" else each.state for each in self.trials]
        return [
            Arrival(number, rung, value, waits, states[number], number)
            for (number, rung), (value, waits) in self.arrivals.items()
        ]
