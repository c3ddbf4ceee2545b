"""`STOP=auto`: a study ends when it may gain less than the noise between seeds."""

from __future__ import annotations

import itertools
import math
import random
from statistics import fmean

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.strategies.prospect import expected_gain
from search.strategies.repeating import REPEATED, repeats_another
from search.strategies.samplers import grid_size, make_sampler
from search.strategies.stopping import (
    LEAST,
    MOST_REPEATS,
    REPEATS,
    StoppingSampler,
    describe_limit,
    look_ahead,
    with_stop,
)
from storage import trials
from tests.user import User, WriteStudy, set_constants

FEW_DIGITS = True


@pytest.mark.parametrize("minimize", [True, False])
@pytest.mark.parametrize("count", [2, 5, 8])
def test_the_gain_is_what_half_of_the_trials_would_have_missed(count: int, minimize: bool) -> None:
    draws = random.Random(count)
    values = [draws.gauss(0, 1) for _ in range(count)]
    best = min if minimize else max
    halves = itertools.combinations(values, count // 2)
    missed = abs(fmean(map(best, halves)) - best(values))
    found = expected_gain(values, count, minimize=minimize)
    assert found == pytest.approx(missed)  # as many trials again: one doubling
    assert expected_gain(values, 3 * count, minimize=minimize) == pytest.approx(2 * missed)
    assert expected_gain(values, 0, minimize=minimize) == 0


def ended(number: int, value: float | None, repeats: int | None = None) -> FrozenTrial:
    trial = create_trial(
        state=TrialState.PRUNED if value is None else TrialState.COMPLETE,
        value=value,
        system_attrs={} if repeats is None else {REPEATED: repeats},
    )
    trial.number = number
    return trial


def study_of(values: list[float | None], repeated: list[float | None]) -> list[FrozenTrial]:
    """The first trial is the best, and is repeated."""
    first = [ended(number, value) for number, value in enumerate(values)]
    return first + [ended(len(first) + n, value, 0) for n, value in enumerate(repeated)]


def test_a_study_that_cannot_stop_early_is_told_so() -> None:
    short = describe_limit(LEAST + REPEATS)
    assert short is not None
    assert f"TRIALS={LEAST + REPEATS} leaves it nothing to stop" in short
    assert describe_limit(LEAST + REPEATS + 1) is None


def test_nothing_is_said_before_the_noise_is_measured_over_enough_trials() -> None:
    values: list[float | None] = [1.0, *[2.0] * LEAST]
    assert look_ahead(study_of(values, []), 100, minimize=True) is None
    assert look_ahead(study_of(values, [1.1, None]), 100, minimize=True) is None
    assert look_ahead(study_of(values[:9], [1.1, 1.2]), 100, minimize=True) is None
    assert look_ahead(study_of(values, [1.1, 1.2]), 100, minimize=True) is not None


def test_a_study_whose_best_is_far_ahead_of_what_seeds_differ_by_goes_on() -> None:
    values: list[float | None] = [1.0, *[2.0 + n for n in range(LEAST)]]
    exact = look_ahead(study_of(values, [1.001, 0.999]), 100, minimize=True)
    assert exact is not None
    assert exact.pays
    noisy = look_ahead(study_of(values, [9.0, 17.0]), 100, minimize=True)
    assert noisy is not None
    assert not noisy.pays
    assert "STOP=auto: 77 more trials may bring" in noisy.words


def test_a_pruned_trial_counts_as_the_worst_complete_one() -> None:
    short: list[float | None] = [1.0, 3.0, *[2.0] * LEAST]
    with_pruned = look_ahead(study_of([*short, None, None], [1.1, 1.2]), 99, minimize=True)
    with_worst = look_ahead(study_of([*short, 3.0, 3.0], [1.1, 1.2]), 99, minimize=True)
    assert with_pruned == with_worst


def test_a_trial_that_pauses_counts_as_one_that_has_ended_and_one_that_waits_does_not() -> None:
    known = study_of([1.0, 3.0, *[2.0] * LEAST], [1.1, 1.2])
    paused = create_trial(state=TrialState.WAITING, intermediate_values={0: 2.5})
    found = look_ahead([*known, paused, paused], 99, minimize=True)
    assert found == look_ahead([*known, ended(30, None), ended(31, None)], 99, minimize=True)
    waiting = create_trial(state=TrialState.WAITING)
    assert look_ahead([*known, waiting], 99, minimize=True) == look_ahead(known, 99, minimize=True)


@pytest.mark.parametrize("state", [TrialState.FAIL, TrialState.PRUNED])
def test_a_repeat_that_ends_without_a_value_is_replaced_until_too_many_have(
    state: TrialState,
) -> None:
    sampler = with_stop(make_sampler("random", seed=0, space={}), "auto", trials=99)
    study = optuna.create_study(sampler=sampler)
    for _ in range(LEAST):
        trial = study.ask()
        study.tell(trial, trial.suggest_float("x", 0, 1))
    for _ in range(MOST_REPEATS):
        trial = study.ask()
        assert repeats_another(study.get_trials()[trial.number])
        study.tell(trial, state=state)
    last = study.ask()
    assert not repeats_another(study.get_trials()[last.number])


@pytest.mark.parametrize("kind", ["random", "tpe", "cmaes", "qmc"])
def test_the_best_is_repeated_with_all_its_parameters_and_then_the_study_stops(kind: str) -> None:
    drawing = make_sampler(kind, seed=0, space={})
    sampler = with_stop(drawing, "auto", trials=60)
    assert isinstance(sampler, StoppingSampler)
    study = optuna.create_study(sampler=sampler)
    draws = random.Random(0)
    count = 0
    while not sampler.has_stopped and count < 60:
        trial = study.ask()
        x = trial.suggest_float("x", -1, 1)
        if trial.suggest_categorical("branch", ["a", "b"]) == "b":
            x += trial.suggest_int("shift", 0, 2)
        study.tell(trial, abs(x) / 50 + draws.gauss(1, 0.3))
        count += 1
    repeats = [t for t in study.trials if REPEATED in t.system_attrs]
    assert len(repeats) == REPEATS
    source = study.trials[repeats[0].system_attrs[REPEATED]]
    assert all(each.params == source.params for each in repeats)
    assert source.value == min(t.value for t in study.trials[: repeats[0].number] if t.value)
    assert LEAST + REPEATS <= count < 60
    assert sampler.reason.startswith("STOP=auto: ")


def test_without_noise_a_study_runs_to_its_end() -> None:
    sampler = with_stop(make_sampler("random", seed=0, space={}), "auto", trials=40)
    study = optuna.create_study(sampler=sampler)
    for _ in range(40):
        trial = study.ask()
        study.tell(trial, math.sin(trial.suggest_float("x", 0, 6)))
        assert not sampler.has_stopped


def test_a_grid_keeps_its_size_and_a_sampler_without_stop_is_itself() -> None:
    space = {"x": optuna.distributions.CategoricalDistribution(["a", "b", "c"])}
    grid = make_sampler("grid", seed=0, space=space)
    assert with_stop(grid, None, trials=9) is grid
    assert grid_size(with_stop(grid, "auto", trials=9)) == grid_size(grid) == 3


@pytest.mark.parametrize("kind", ["grid", "brute_force"])
def test_a_sampler_that_has_tried_all_ends_the_study_with_stop_too(kind: str) -> None:
    choices = ["a", "b", "c"]
    space = {"x": optuna.distributions.CategoricalDistribution(choices)}
    sampler = with_stop(make_sampler(kind, seed=0, space=space), "auto", trials=9)
    study = optuna.create_study(sampler=sampler)
    for _ in choices:
        assert not sampler.has_tried_all(study)
        trial = study.ask()
        trial.suggest_categorical("x", choices)
        study.tell(trial, 1.0)
    assert sampler.has_tried_all(study)
    assert (sampler.has_stopped, sampler.reason) == (True, "")


def test_a_stop_on_a_grid_counts_whether_it_is_asked_with_all_trials_or_with_the_points() -> None:
    space = {"x": optuna.distributions.CategoricalDistribution(["a", "b", "c"])}
    grid = make_sampler("grid", seed=0, space=space)
    assert with_stop(grid, "auto", trials=9).label == with_stop(grid, "auto", trials=3).label


def test_a_study_ends_early_says_why_and_goes_on_without_stop(
    user: User, study_file: WriteStudy
) -> None:
    name = study_file()
    set_constants(user, LEAST=3, SHARE=1e9)  # after three trials, whatever they bring
    code, out, error = user.run(NAME=name, TRIALS=12, WORKERS=1, TOP=1, STOP="auto")
    assert (code, error) == (0, ""), out
    assert "more trials may bring" in out
    assert f"{3 + REPEATS} trials, not 12" in out
    assert (user.runs / "exports/small/1/README.md").exists()
    frame = trials("small", storage=user.url)
    assert len(frame) == 3 + REPEATS
    assert frame.groupby(["channels", "latent", "lr"]).size().max() == 1 + REPEATS
    assert frame["seed"].nunique() == len(frame)
    code, out, error = user.run(NAME=name, TRIALS=12, WORKERS=1, TOP=1, STOP="auto")
    assert (code, error) == (0, ""), out
    assert len(trials("small", storage=user.url)) == 3 + REPEATS
    code, out, error = user.run(NAME=name, TRIALS=7, WORKERS=1, TOP=0)
    assert (code, error) == (0, ""), out
    assert len(trials("small", storage=user.url)) == 7


def test_a_study_whose_trials_pause_ends_early_and_its_repeats_train_to_the_end(
    user: User, study_file: WriteStudy
) -> None:
    name = study_file()
    set_constants(user, LEAST=3, SHARE=1e9)  # after three trials, whatever they bring
    code, out, error = user.run(
        NAME=name, TRIALS=20, EPOCHS=3, PRUNER="asha", WORKERS=1, TOP=0, STOP="auto"
    )
    assert (code, error) == (0, ""), out
    assert "more trials may bring" in out
    frame = trials("small", storage=user.url)
    assert len(frame) < 10
    assert set(frame["state"]) == {"COMPLETE", "PRUNED"}
    same = frame.groupby(["channels", "latent", "lr"])["state"]
    assert [list(states) for _, states in same if len(states) > 1] == [["COMPLETE"] * 3]
