"""Samplers whose draws follow the trial, not the worker that runs it.

    TrialSeeded(lambda seed: TPESampler(seed=seed), seed=0)    # a sampler for every trial
    TrialSeeded.around(TPESampler(seed=42), seed=0)            # from an object of the user
    OneSequence(GridSampler(...))                              # trials take places in one sequence

Optuna's samplers carry random state from trial to trial, so that workers with one seed repeat each
other's trials. Here every trial draws with random state of its own, seeded from (study seed, trial
number).

A sampler may also stop the study, as Optuna's grid and brute force do when nothing is left to try.
Optuna's own loop does not run here. So `StudySampler.has_stopped` notes the stop, and
`search.trials.queue` hands out no further trial.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, BruteForceSampler, GridSampler, QMCSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.trial import FrozenTrial, TrialState

from models.seeds import derive_seed
from search.errors import BadVariable
from search.strategies.random_state import parts_of, seed_given_to, seed_sampler

SamplerFactory = Callable[[int], BaseSampler]
"""``seed -> sampler``, for samplers of Optuna that have no name here."""

VISITS_ALL = (GridSampler, BruteForceSampler)  # they go through all points, then stop
IN_SEQUENCE = (GridSampler, QMCSampler)  # all trials share one sequence, and so one seed


class StudySampler(BaseSampler):
    """The base of both kinds: another sampler draws, and this one notes if it stops the study.

    label: names the sampler; a stop counts only for a sampler with the same label
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
        """Return a sampler that knows the study, but draws for no trial."""

    def has_tried_all(self, study: Study) -> bool:
        """Whether every point has a trial, which may still run: one more would repeat a point.

        Optuna's samplers would repeat points then. They cannot tell a point that another worker is
        trying from one whose trial will never end.
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
        """Tell the sampler that its trial ends, and note whether it stops the study."""
        with _hearing_stop(study, self._note_stop):
            self._sampler_of(trial).after_trial(study, trial, state, values)

    def _note_stop(self) -> None:
        self.has_stopped = True


@contextmanager
def _hearing_stop(study: Study, stop: Callable[[], None]) -> Iterator[None]:
    """Call ``stop`` if a sampler stops the study: Optuna's method raises outside of its loop."""
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

    independent: make one for every parameter, too. A trial that goes on after some of its
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
        """Return one that draws in the way of ``sampler``, an object that a user has made.

        The seed that the user gave it counts beside the study's. Optuna's own samplers keep what
        they know in the trial database, so each trial gets a copy of the object. Another sampler
        may keep it in itself, so its trials share the object, and only its random state follows
        the trial.
        """
        own = seed_given_to(sampler)
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
        """Let the samplers of all trials share what is known of the parameters that all trials
        have, so that it is found out once.

        Hyperband shows each trial another part of the study, so nothing is shared there.
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
        """Return one that draws in the way of ``sampler``, an object that a user has made.

        Each worker has made its own object. Without a seed each would have another sequence, so
        it gets the study's seed. Parameters that it leaves to an independent sampler follow the
        trial.
        """
        for part in parts_of(sampler):
            if not isinstance(part, QMCSampler):
                continue
            independent = part._independent_sampler
            if not isinstance(independent, StudySampler):  # else an earlier call has done it
                if seed_given_to(independent) is None:
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
