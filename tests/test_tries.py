"""Parameters that a person wants to see tried: TRY='lr=0.001 latent=27'."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from search.cli.study import _limit
from search.errors import BadVariable
from search.setup.loading import load_study
from search.setup.tries import (
    KEY,
    describe_range,
    read_tries,
    remember_tries,
    remembered_tries,
)
from search.variables import Variables, read_variables
from storage import trials
from tests.queues import make_study
from tests.user import User, WriteStudy

FEW_DIGITS = True

SPACE = {
    "lr": FloatDistribution(1e-4, 1e-2, log=True),
    "latent": IntDistribution(2, 64),
    "noise": FloatDistribution(0.0, 0.3, step=0.1),
    "width": CategoricalDistribution([0.5, 1.0]),
    "augment": CategoricalDistribution(["none", "translation,cutout"]),
    "shuffled": CategoricalDistribution([True, False]),
    "penalty": CategoricalDistribution([None, 10]),
}


def read(text: str) -> dict[str, dict[str, Any]]:
    return read_tries(read_variables({"TRY": text}).tries, SPACE)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("lr=0.001 latent=27", {"lr": 0.001, "latent": 27}),
        ("lr=1e-3", {"lr": 0.001}),
        ("noise=0.2", {"noise": 0.2}),
        ("width=1", {"width": 1.0}),
        ("width=0.50", {"width": 0.5}),
        ("augment=translation,cutout", {"augment": "translation,cutout"}),
        ("shuffled=true penalty=None", {"shuffled": True, "penalty": None}),
        ("shuffled=False penalty=10", {"shuffled": False, "penalty": 10}),
    ],
)
def test_parameters_are_read_as_the_space_has_them(text: str, values: dict[str, Any]) -> None:
    (found,) = read(text).values()
    assert found == values
    assert [type(value) for value in found.values()] == [type(v) for v in values.values()]


def test_sets_stand_behind_semicolons_and_have_names_that_say_them() -> None:
    found = read("lr=1e-3 latent=27; latent=8;")
    assert list(found) == ["TRY lr=0.001 latent=27", "TRY latent=8"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("noise=0.25", "noise=0.25 is not a number from 0 to 0.3 in steps of 0.1"),
        ("width=2", "width=2 is not one of 0.5, 1.0"),
        ("shuffled=1", "shuffled=1 is not one of True, False"),
        ("lr=inf", "lr=inf is not a number from 0.0001 to 0.01"),
        ("lr=0.001, latent=27", "to 0.01; separate parameters by spaces, without commas"),
        ("latnet=3", "'latnet'; did you mean 'latent'? available: augment, latent"),
    ],
)
def test_a_value_outside_the_space_is_refused_with_what_is_inside(text: str, words: str) -> None:
    with pytest.raises(BadVariable) as raised:
        read(text)
    assert words in str(raised.value)


def test_many_choices_are_named_in_part() -> None:
    assert describe_range(CategoricalDistribution(range(20))).endswith("6, 7, ...")


def test_a_person_s_parameters_are_tried_first_and_once(user: User, study_file: WriteStudy) -> None:
    name = study_file()
    asked: dict[str, Any] = {
        "NAME": name,
        "TRY": "latent=8 lr=0.001; channels=3",
        "TOP": 0,
        "WORKERS": 1,
    }
    code, _, error = user.run(TRIALS=3, **asked)
    assert code == 0, error
    first = trials("small", storage=user.url)
    assert first["reference"].tolist()[:2] == ["TRY latent=8 lr=0.001", "TRY channels=3"]
    assert (first["latent"].tolist()[0], first["lr"].tolist()[0]) == (8, 0.001)
    assert first["channels"].between(1, 3).all()  # which the sampler has drawn
    assert first["channels"].tolist()[1] == 3
    code, _, error = user.run(TRIALS=3, **asked)
    assert code == 0, error
    assert len(trials("small", storage=user.url)) == 3
    code, _, error = user.run(TRIALS=3, **{**asked, "TRY": "latent=2"})
    assert (code, "3 of TRIALS=3 trials have begun" in error) == (2, True), error
    code, _, error = user.run(TRIALS=4, **{**asked, "TRY": "latent=2"})
    assert code == 0, error
    assert trials("small", storage=user.url)["latent"].tolist()[3] == 2


def test_workers_that_join_try_what_the_last_call_gave(storage_url: str) -> None:
    study = make_study(storage_url).study
    assert remembered_tries(study, SPACE) == {}
    remember_tries(study, read("lr=0.001 latent=27; penalty=None"))
    remember_tries(study, last := read("width=1; shuffled=true"))
    assert remembered_tries(study, SPACE) == last
    assert list(remembered_tries(study, {"width": SPACE["width"]})) == ["TRY width=1.0"]
    study._storage.set_study_system_attr(study._study_id, KEY, {"TRY latent=1": {"latent": 1}})
    assert remembered_tries(study, SPACE) == {}, "a value outside the space"
    remember_tries(study, {})
    assert remembered_tries(study, SPACE) == {}


def test_a_study_that_runs_before_or_after_tries_and_measures_its_own() -> None:
    given = Variables(tries=({"lr": "0.1"},), inception=Path("weights"), trials=5)
    before = _limit(given, load_study("cae"))
    assert (before.tries, before.inception, before.trials) == ((), None, 5)
    assert _limit(given, load_study("gan_balance")).inception == Path("weights")


def test_a_mistake_in_try_leaves_all_as_it_was(
    refused: Callable[..., str], study_file: WriteStudy
) -> None:
    assert "TRY: lr=1 is not" in refused("study", NAME=study_file(), TRY="lr=1")
