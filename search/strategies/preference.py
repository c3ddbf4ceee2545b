"""A search in which a person decides: ``make study NAME=gan SAMPLER=preference``.

Trials are trained as always, and each ends with a picture. optuna-dashboard shows the candidates
side by side; a click on the worst makes room for the next trial. No values are compared. Strengths
follow from the choices (`storage.database.preferences`), and the next parameters and the trials
that are retrained follow from the strengths.

    PreferenceSampler                      draws parameters from the choices; random ones at first
    search.supervisor.preference_prompt    says whether there is room for another trial, what is
                                           asked, and when everything is decided

The stored study has a name of its own, NAME-preference. Its trials are complete once they are
trained, with the study's metric as value. Whether they wait for a person follows from the choices
alone, so that no trial is held, taken back or trained again because somebody takes their time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from optuna import Study, create_study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, GPSampler, RandomSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from storage.database.preferences import pairs_of, strengths_of

NAME = "preference"  # of the sampler; the stored study's name ends with it
DRAWN = "preference:parameters"  # system attribute of a trial: the parameters drawn for it
SHOWN = 4  # so many fit side by side on a page, and the worst of four is seen at a glance


def is_preference(sampler: object) -> bool:
    """Return whether ``sampler``, as a study or a variable names it, asks a person."""
    return isinstance(sampler, str) and sampler.strip().partition("(")[0].strip() == NAME


class PreferenceSampler(BaseSampler):
    """Optuna's Gaussian process on the strengths that follow from a person's choices.

    A trial that no choice is about yet is pending: the process expects nothing new near it. What is
    drawn is kept with the trial, since another worker may draw before ``suggest`` asks for the
    parameters. A trial that could not be trained to its end counts as worse than the worst.

    shown: trials on the page at once, 2 to 64
    """

    def __init__(self, *, shown: int = SHOWN, seed: int | None = None) -> None:
        if type(shown) is not int or not 2 <= shown <= 64:
            raise ValueError(f"shown={shown!r} is not a whole number from 2 to 64")
        self.shown = shown
        self.seed = seed
        self.space = IntersectionSearchSpace()

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self.space.calculate(study)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        storage, study_id = study._storage, study._study_id
        strengths = strengths_of(pairs_of(storage.get_study_system_attrs(study_id)))
        if not strengths or not search_space:
            return {}
        memory = create_study(
            storage=InMemoryStorage(),
            direction="maximize",
            sampler=GPSampler(
                seed=self.seed,
                n_startup_trials=1,
                independent_sampler=RandomSampler(seed=self.seed),
                warn_independent_sampling=False,
            ),
        )
        others = [t for t in study.get_trials(deepcopy=False) if t.number != trial.number]
        memory.add_trials(_known_trials(others, search_space, strengths))
        drawn = memory.ask(search_space).params
        storage.set_trial_system_attr(trial._trial_id, DRAWN, drawn)
        return drawn

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        return RandomSampler(seed=self.seed).sample_independent(
            study, trial, param_name, param_distribution
        )


def _known_trials(
    trials: Iterable[FrozenTrial],
    space: dict[str, BaseDistribution],
    strengths: Mapping[int, float],
) -> Iterator[FrozenTrial]:
    """Yield trials for the Gaussian process: those that have all parameters of ``space``."""
    for trial in trials:
        parameters = {**trial.system_attrs.get(DRAWN, {}), **trial.params}
        if trial.state == TrialState.FAIL or not space.keys() <= parameters.keys():
            continue
        strength = strengths.get(trial.number)
        if trial.state == TrialState.PRUNED:  # diverged, lost, or too large
            strength = min(strengths.values()) - 1
        yield create_trial(
            state=TrialState.RUNNING if strength is None else TrialState.COMPLETE,
            value=strength,
            params={name: parameters[name] for name in space},
            distributions=space,
        )
