"""Parameters that a person wants to see tried: ``make study NAME=cae TRY='lr=0.001 latent=27'``.

    read_tries([{"lr": "0.001"}], space)     # {"TRY lr=0.001": {"lr": 0.001}}
    remember_tries(opened, tries)            # for workers that join, also those of an engine
    remembered_tries(opened, space)

They are tried in the same way as the study's references, and before them. The sampler draws the
parameters that a set leaves out. A trial keeps the name of its set, so that the same command tries
each set once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from search.errors import BadVariable, unknown_name
from search.setup.checks import is_within
from search.trials.retries import read_retries
from storage.errors import short

KEY = "genstudy:tries"  # system attribute of a study: what the last call of `make study` gave
LISTED = 8  # choices that a message names

Tries = Mapping[str, Mapping[str, Any]]
"""Parameters by the name of their set."""


def read_tries(
    written: Sequence[Mapping[str, str]], space: Mapping[str, BaseDistribution]
) -> dict[str, dict[str, Any]]:
    """Return the sets of parameters as values, by a name that says them.

    Raises `BadVariable` for a parameter that is not in ``space``, and for a value outside it.
    """
    found = {}
    for texts in written:
        values = {name: _read_value(name, text, space) for name, text in texts.items()}
        found[" ".join(["TRY", *(f"{name}={value}" for name, value in values.items())])] = values
    return found


def remember_tries(study: optuna.Study, tries: Tries) -> None:
    """Keep the sets with the stored study; they replace those of an earlier call."""
    plain = {name: dict(values) for name, values in tries.items()}
    attributes = study._storage.get_study_system_attrs(study._study_id)
    if attributes.get(KEY, {}) != plain:
        study._storage.set_study_system_attr(study._study_id, KEY, plain)


def remembered_tries(
    study: optuna.Study, space: Mapping[str, BaseDistribution]
) -> dict[str, dict[str, Any]]:
    """Return the sets that the last call gave.

    A set outside ``space`` is left out: anybody may write into a database.
    """
    kept = study._storage.get_study_system_attrs(study._study_id).get(KEY)
    found = {}
    for name, values in kept.items() if isinstance(kept, dict) else ():
        known = isinstance(values, dict) and values.keys() <= space.keys()
        if known and all(is_within(space[each], value) for each, value in values.items()):
            found[name] = values
    return found


def check_stored_room(tries: Tries, study: optuna.Study, trials: int) -> None:
    """Raise `BadVariable` if the study has no room for the sets that no trial has tried yet.

    trials: of the study in all
    """
    stored = study.get_trials(deepcopy=False)
    left = tries.keys() - {trial.user_attrs.get("reference") for trial in stored}
    check_room(len(left), trials, begun=len(stored) - len(read_retries(study).made))


def check_room(sets: int, trials: int, *, begun: int = 0) -> None:
    """Raise `BadVariable` if ``trials`` in all are too few for so many further ``sets``.

    begun: trials that have begun
    """
    if sets and begun + sets > trials:
        raise BadVariable(
            f"{begun} of TRIALS={trials} trials have begun, which leaves no room for TRY; give "
            f"TRIALS={begun + sets} or more"
        )


def _read_value(name: str, text: str, space: Mapping[str, BaseDistribution]) -> Any:
    if name not in space:
        raise BadVariable("TRY: " + unknown_name("parameter", name, space))
    for value in _readings(text, space[name]):
        if is_within(space[name], value):
            return value
    hint = "; separate parameters by spaces, without commas" if text.endswith(",") else ""
    raise BadVariable(f"TRY: {name}={short(text)} is not {describe_range(space[name])}{hint}")


def _readings(text: str, distribution: BaseDistribution) -> list[Any]:
    """Return the values that ``text`` may mean."""
    if isinstance(distribution, CategoricalDistribution):
        return [choice for choice in distribution.choices if _is_same(text, choice)]
    try:
        return [int(text) if isinstance(distribution, IntDistribution) else float(text)]
    except (ValueError, OverflowError):
        return []


def _is_same(text: str, choice: Any) -> bool:
    """Whether ``text`` names a choice as a person types it: 0.10 for 0.1, and true for True."""
    if text == str(choice) or (isinstance(choice, bool) and text == str(choice).lower()):
        return True
    try:
        return not isinstance(choice, bool | str) and choice == float(text)
    except ValueError:
        return False


def describe_range(distribution: BaseDistribution) -> str:
    """Return what values a parameter may have: ``from 0.001 to 0.1``, ``one of adam, sgd``."""
    if isinstance(distribution, CategoricalDistribution):
        shown = [str(choice) for choice in distribution.choices[:LISTED]]
        more = ", ..." if len(distribution.choices) > LISTED else ""
        return f"one of {', '.join(shown)}{more}"
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    kind = "a whole number " if isinstance(distribution, IntDistribution) else "a number "
    step = distribution.step if distribution.step not in (None, 1) else None
    steps = f" in steps of {step:g}" if step else ""
    return f"{kind}from {distribution.low:g} to {distribution.high:g}{steps}"
