"""Trials that failed by an error are tried again once the study was mended.

    found = find_mended(study, version)         # failed trials whose code has changed since
    retries = read_retries(study)
    retries.numbers                             # failed trials that no longer count

A failed trial stays in the table, with its reason. A new trial takes over its parameters, says so
in its attribute ``retries``, and counts in its place: so exactly TRIALS trials end beside the
failed ones. ``version`` is a digest of the study's files. While it is the same, the same error
would come again, and nothing is retried.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace

import optuna
from optuna.trial import FrozenTrial, TrialState

from search.trials.outcomes import Outcome
from storage.database.json_texts import parse_json

ATTRIBUTE = "retries"  # of the study: which trials; of a trial: which one it retries
VERSION = "version"  # of a trial that failed: of the files that made it


@dataclass(frozen=True, kw_only=True)
class Retries:
    """Numbers of failed trials that are tried again.

    waiting: those for which no new trial was made yet; made: those that have one
    """

    waiting: tuple[int, ...] = ()
    made: tuple[int, ...] = ()

    @property
    def numbers(self) -> tuple[int, ...]:
        return (*self.made, *self.waiting)

    def with_waiting(self, numbers: list[int]) -> Retries:
        """Return these retries and ``numbers``, which wait."""
        return replace(self, waiting=(*self.waiting, *numbers))

    def with_one_made(self) -> tuple[int, Retries]:
        """Return the first number that waits, and the retries once its trial is made."""
        first, *others = self.waiting
        return first, replace(self, waiting=tuple(others), made=(*self.made, first))


def read_retries(study: optuna.Study) -> Retries:
    """Return what the stored study says of retries."""
    written = study.user_attrs.get(ATTRIBUTE)
    if written is None:
        return Retries()
    return Retries(**{name: tuple(numbers) for name, numbers in parse_json(written).items()})


def write_retries(study: optuna.Study, retries: Retries) -> None:
    """Store which trials are tried again."""
    study.set_user_attr(ATTRIBUTE, json.dumps(asdict(retries)))


def find_mended(study: optuna.Study, version: str) -> list[int]:
    """Return the numbers of trials that failed by an error in other files than today's."""
    failed = study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
    known = read_retries(study).numbers
    return [
        trial.number for trial in failed if trial.number not in known and _is_mended(trial, version)
    ]


def is_retry(trial: FrozenTrial) -> bool:
    """Whether ``trial`` takes the place of one that failed."""
    return ATTRIBUTE in trial.user_attrs


def _is_mended(trial: FrozenTrial, version: str) -> bool:
    """Whether a trial failed by an error, and ``version`` is not that of its files."""
    before = trial.user_attrs.get(VERSION)  # older versions of genstudy did not write it
    is_error = trial.user_attrs.get("outcome") == Outcome.FAILED
    return is_error and before is not None and before != version
