"""Samplers whose draws follow the trial, not the worker that runs it.

    TrialSeeded(lambda seed: TPESampler(seed=seed), seed=0)    # a sampler for every trial
    TrialSeeded.around(TPESampler(seed=42), seed=0)            # the same of a sampler object
    OneSequence(GridSampler(...))                              # trials are places in one sequence

Optuna's samplers carry random state from trial to trial, so that workers with one seed repeat each
other's trials. Here every trial draws with random state of its own, seeded from (study seed, trial
number).

A sampler may also stop the study, as Optuna's grid and brute force do when nothing is left to try.
Optuna's own loop does not run here, so `StudySampler.has_stopped` takes note of it, and
`search.trials.queue` hands out no further trial.
"""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, BruteForceSampler, GridSampler, QMCSampler
from optuna.samplers._lazy_random_state import LazyRandomState
from optuna.search_space import IntersectionSearchSpace
from optuna.trial import FrozenTrial, TrialState

from models.seeds import derive_seed
from search.errors import BadVariable

SamplerFactory = Callable[[int], BaseSampler]
"""``seed -> sampler``, for samplers of Optuna that have no name here."""

VISITS_ALL = (GridSampler, BruteForceSampler)  # they go through all points, then stop
IN_SEQUENCE = (GridSampler, QMCSampler)  # all trials share one sequence, and so one seed


class StudySampler(BaseSampler):
    """What both kinds share: another sampler draws, and they note that it stops the study.

    label: which sampler it is, in a word; a stop counts for a sampler with this label
    draws_alone: whether all parameters of a trial have to be drawn before another trial begins
    reason: why it has stopped the study; empty: nothing is left to try
    """

    reason = ""

    def __init__(self, label: str, *, draws_alone: bool) -> None:
        self.label = label
        self.draws_alone = draws_alone
        self.has_stopped = False

    @property
    def points(self) -> int | None:
        """How many points a grid has; None for every other sampler."""
        return None

    @abstractmethod
    def _sampler_of(self, trial: FrozenTrial) -> BaseSampler:
        """Return the sampler that draws for this trial."""

    @abstractmethod
    def any_sampler(self) -> BaseSampler:
        """Return a sampler that draws for no trial, and knows what all of them know."""

    def has_tried_all(self, study: Study) -> bool:
        """Whether every point has a trial, which may still run: one more would repeat a point.

        Optuna's samplers repeat points then: on their own they cannot tell a worker that has begun
        a point from one that will never end it.
        """
        sampler = self.any_sampler() if self.draws_alone else self
        begun = study.get_trials(deepcopy=False)
        begun = [trial for trial in begun if trial.state is not TrialState.WAITING]
        if not (begun and visits_all(sampler)):
            return False
        if grids := [part for part in parts_of(sampler) if isinstance(part, GridSampler)]:
            points = {trial.system_attrs.get("grid_id") for trial in begun}
            return all(points >= set(range(len(grid._all_grids))) for grid in grids)
        stops: list[bool] = []
        with _hearing_stop(study, lambda: stops.append(True)):
            sampler.after_trial(study, begun[-1], TrialState.FAIL, None)  # as if it ended now
        return bool(stops)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._sampler_of(trial).before_trial(study, trial)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._sampler_of(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._sampler_of(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        sampler = self._sampler_of(trial)
        return sampler.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Tell the sampler that its trial ends, and note if it stops the study then."""
        with _hearing_stop(study, self._note_stop):
            self._sampler_of(trial).after_trial(study, trial, state, values)

    def _note_stop(self) -> None:
        self.has_stopped = True


@contextmanager
def _hearing_stop(study: Study, stop: Callable[[], None]) -> Iterator[None]:
    """Call ``stop`` where a sampler stops the study: Optuna's own raises outside of its loop."""
    held = object.__getattribute__(study, "__dict__")  # Hyperband's studies hide it
    before = held.get("stop")  # a sampler inside of another may have replaced it already
    study.stop = stop  # type: ignore[method-assign]
    try:
        yield
    finally:
        if before is None:
            del held["stop"]
        else:
            held["stop"] = before


class TrialSeeded(StudySampler):
    """Makes a new sampler for every trial, seeded from (study seed, trial number).

    independent: make one for every parameter, too; a trial that goes on after only some of its
    parameters were drawn then gets the same others
    """

    def __init__(
        self,
        make: SamplerFactory,
        seed: int,
        *,
        label: str = "sampler",
        independent: bool = False,
        draws_alone: bool = False,
    ) -> None:
        super().__init__(label, draws_alone=draws_alone)
        self.make = make
        self.seed = seed
        self.independent = independent
        self.shown: int | None = None
        self.inner: dict[int, BaseSampler] = {}  # by trial number, while the trial runs
        self.known_spaces: dict[str, IntersectionSearchSpace] = {}
        self.known_study: Study | None = None

    @classmethod
    def around(cls, sampler: BaseSampler, seed: int) -> TrialSeeded:
        """Return one that draws as ``sampler``, an object that a user has made, does.

        The seed that the user gave it counts beside the study's. Optuna's own samplers keep what
        they know in the trial database, so each trial has a copy. Another sampler may keep it in
        itself, so its trials share the object, and only its random state follows the trial.
        """
        own = _seed_given_to(sampler)
        if own is not None:
            seed = derive_seed(seed, "seed of the sampler", own)
        is_optunas = type(sampler).__module__.startswith("optuna.")

        def make(trial_seed: int) -> BaseSampler:
            made = deepcopy(sampler) if is_optunas else sampler
            seed_sampler(made, trial_seed)
            return made

        return cls(make, seed, label=type(sampler).__name__, draws_alone=visits_all(sampler))

    def _sampler_of(self, trial: FrozenTrial) -> BaseSampler:
        """Return the sampler of this trial, which is made at its first use."""
        if trial.number not in self.inner:
            sampler = self.make(derive_seed(self.seed, "sampler", trial.number))
            if not isinstance(sampler, BaseSampler):
                raise BadVariable(f"sampler made {sampler!r} of a seed; return a sampler of Optuna")
            self.inner[trial.number] = sampler
        return self.inner[trial.number]

    def any_sampler(self) -> BaseSampler:
        return self.make(self.seed)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        self._share_known_space(self._sampler_of(trial), study)
        return super().infer_relative_search_space(study, trial)

    def _share_known_space(self, sampler: BaseSampler, study: Study) -> None:
        """Let samplers of all trials share what is known of the parameters that all trials have, so
        that it is not found out anew each time.

        Hyperband shows each trial another part of the study. Nothing is shared there.
        """
        if type(study) is not Study:
            return
        if self.known_study is not study:
            self.known_study, self.known_spaces = study, {}
        for name, value in vars(sampler).items():
            if isinstance(value, IntersectionSearchSpace):
                setattr(sampler, name, self.known_spaces.setdefault(name, value))

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        if self.independent:
            sampler = self.make(derive_seed(self.seed, "sampler", trial.number, param_name))
            return sampler.sample_independent(study, trial, param_name, param_distribution)
        return super().sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        super().after_trial(study, trial, state, values)
        self.inner.pop(trial.number, None)


class OneSequence(StudySampler):
    """A sampler whose trials are places in one sequence, which the trial database keeps."""

    def __init__(self, inner: BaseSampler, *, label: str = "sampler") -> None:
        super().__init__(label, draws_alone=True)
        self.inner = inner

    @classmethod
    def around(cls, sampler: BaseSampler, seed: int) -> OneSequence:
        """Return one that draws as ``sampler``, an object that a user has made, does.

        Each worker has made its own object. A sequence without a seed would be another one in
        each, so it gets the study's; what it leaves to an independent sampler follows the trial.
        """
        for part in parts_of(sampler):
            if not isinstance(part, QMCSampler):
                continue
            independent = part._independent_sampler
            if not isinstance(independent, StudySampler):  # else an earlier call has done it
                if _seed_given_to(independent) is None:
                    part._seed = derive_seed(seed, "sequence")
                part._independent_sampler = TrialSeeded.around(independent, seed)
        return cls(sampler, label=type(sampler).__name__)

    @property
    def points(self) -> int | None:
        return len(self.inner._all_grids) if isinstance(self.inner, GridSampler) else None

    def _sampler_of(self, trial: FrozenTrial) -> BaseSampler:
        return self.inner

    def any_sampler(self) -> BaseSampler:
        return self.inner


def is_in_sequence(sampler: BaseSampler) -> bool:
    """Whether all trials have to share this sampler's one sequence."""
    return any(isinstance(part, IN_SEQUENCE) for part in parts_of(sampler))


def visits_all(sampler: BaseSampler) -> bool:
    """Whether the sampler goes through all points, so that no two trials may draw at once."""
    return any(isinstance(part, VISITS_ALL) for part in parts_of(sampler))


def uses_seed(make: SamplerFactory) -> bool:
    """Whether the samplers that ``make`` returns for two seeds have different random state."""
    first, second = ([_draw(each) for each in _generators_of(make(seed))] for seed in (1, 2))
    return not first or first != second


def seed_sampler(sampler: BaseSampler, seed: int) -> None:
    """Seed all random generators inside of ``sampler``, those of its parts among them.

    Optuna's own ``reseed_rng`` takes no seed.
    """
    for index, part in enumerate(parts_of(sampler)):
        for name, value in list(vars(part).items()):
            own = derive_seed(seed, "generator", index, name)
            if isinstance(value, LazyRandomState):
                value.rng.seed(own)
            elif isinstance(value, np.random.RandomState | random.Random):
                value.seed(own)
            elif isinstance(value, np.random.Generator):
                setattr(part, name, np.random.default_rng(own))


def _seed_given_to(sampler: BaseSampler) -> int | None:
    """Return a number that follows from the seed a user gave; None if they gave none."""
    drawn = (_draw(each) for each in _generators_of(sampler))
    return next((number for number in drawn if number is not None), None)


def _draw(generator: LazyRandomState) -> int | None:
    """Return what the generator would draw next; None if it was never seeded."""
    return None if generator._rng is None else int(deepcopy(generator).rng.randint(2**31))


def _generators_of(sampler: BaseSampler) -> Iterator[LazyRandomState]:
    for part in parts_of(sampler):
        yield from (value for value in vars(part).values() if isinstance(value, LazyRandomState))


def parts_of(sampler: BaseSampler) -> Iterator[BaseSampler]:
    """Yield the sampler and all samplers that it holds, each once."""
    waiting, seen = [sampler], set()
    while waiting:
        part = waiting.pop(0)
        if id(part) in seen or not isinstance(part, BaseSampler):
            continue
        seen.add(id(part))
        yield part
        waiting.extend(value for value in vars(part).values() if isinstance(value, BaseSampler))
