"""Studies with several goals: what a study file may say, the values of trials, and pruning by
domination."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from optuna.trial import TrialState

from models.cae import CAE, CAEConfig
from models.costs import COSTS, known_costs, measure_costs
from models.gan import GAN
from models.vae import VAE, VAEConfig
from search.errors import BadVariable
from search.front import (
    RunningFront,
    Vector,
    as_costs,
    choose_spread,
    hypervolume,
    is_beyond,
    volumes_of_first,
)
from search.front import front_places as places_of_front
from search.goals import Goal, TrialResult, read_goals
from search.setup.loading import load_study
from search.strategies.front_pruner import FrontPruner
from search.strategies.pruners import make_pruner
from search.strategies.samplers import SAMPLERS, make_sampler
from search.study import StudySpec
from search.trials.study_front import front_of, shares_of_volume
from search.worker.trial import run_trial
from storage import curves, trials
from storage.database.connection import open_storage
from storage.database.returns import let_return
from storage.database.transactions import write
from storage.database.trial_frame import VIOLATING
from storage.database.vectors import read_measured, read_vectors
from tests.trials import SMALL, Diverging, MakeContext, OneProgram, run_one

FEW_DIGITS = True

TWO = ("mse", "code")
GOALS = read_goals(TWO, "minimize", costs=COSTS)
SPACE = {"x": optuna.distributions.FloatDistribution(0.0, 1.0)}


def a_spec(**values: Any) -> StudySpec:
    return StudySpec(
        **{
            "model": CAE, "suggest": lambda trial: CAEConfig(), "data": "digits",
            "metric": TWO, "trials": 4, "epochs": 2, **values,
        }
    )  # fmt: skip


# ---- what a study file says ----


def test_goals_have_a_direction_each_or_one_for_all() -> None:
    spec = a_spec(
        metric=("mse", "code", "latency_1"), direction=("minimize", "maximize", "minimize")
    )
    assert [(goal.name, goal.minimize, goal.is_cost) for goal in spec.goals] == [
        ("mse", True, False), ("code", False, True), ("latency_1", True, True),
    ]  # fmt: skip
    assert (spec.quality, spec.minimizes, spec.pruner) == ("mse", True, "front")
    assert [goal.direction for goal in a_spec(direction="maximize").goals] == ["maximize"] * 2


def test_one_goal_stays_what_it_was() -> None:
    spec = a_spec(metric="mse")
    assert (spec.metric, spec.direction, spec.pruner) == ("mse", "minimize", "median")
    assert not spec.has_several_goals
    assert replace(a_spec(), seed=1).goals == a_spec().goals


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"metric": ("mse", "mse")}, "names a goal twice"),
        ({"metric": ("mse", "cod")}, "unknown goal 'cod'.*did you mean 'code'"),
        ({"metric": ("code", "mse")}, "unknown metric 'code'"),
        ({"metric": ()}, "names 0 goals; give 1 to 4"),
        ({"metric": 3}, "neither a name nor names of several goals"),
        ({"direction": ("minimize",)}, "has 1 words for 2 goals"),
        ({"direction": "down"}, "is not 'minimize' or 'maximize'"),
        ({"then": "classifier"}, "no export is the best of all; leave then out"),
        ({"constraints": 3}, "constraints must be a function"),
        ({"metric": "mse", "constraints": lambda result: [0.0]}, "this study has one"),
        (
            {"model": GAN, "suggest": lambda trial: SMALL, "metric": ("frechet", "code")},
            "unknown goal 'code'",
        ),
    ],
)
def test_goals_that_make_no_sense_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        a_spec(**values)


# ---- costs ----


def test_costs_are_those_of_the_exported_programs() -> None:
    model = CAE(CAEConfig(channels=4, latent=11), (1, 28, 28))
    weights = sum(each.numel() for each in model.parameters())
    assert measure_costs(model, ["code", "parameters"]) == {"code": 11.0, "parameters": weights}
    vae = VAE(VAEConfig(latent=3), (1, 28, 28))
    assert measure_costs(vae, ["code"]) == {"code": 3.0}


def test_a_gan_costs_its_generator_alone() -> None:
    model = GAN(SMALL, (1, 28, 28))
    generator = sum(each.numel() for each in model.generator.parameters())
    assert measure_costs(model, ["parameters"]) == {"parameters": generator}
    assert generator < sum(each.numel() for each in model.parameters())
    assert "code" not in known_costs(GAN)


@pytest.mark.usefixtures("quick_onnx")
def test_a_latency_is_measured_and_leaves_the_model_as_it_was() -> None:
    model = OneProgram(CAEConfig(channels=4, latent=11), (1, 28, 28)).train()
    before = {name: each.clone() for name, each in model.state_dict().items()}
    found = measure_costs(model, ["latency_64", "latency_1"])
    assert 0 < found["latency_1"] < found["latency_64"] < 10_000, "in milliseconds"
    assert model.training
    assert all(torch.equal(before[name], each) for name, each in model.state_dict().items())


# ---- the front ----


def test_the_front_is_what_nobody_beats_in_every_goal() -> None:
    costs = as_costs([(1, 5), (2, 3), (2, 4), (3, 1), (3, 3)], GOALS)
    assert places_of_front(costs) == [0, 1, 3]
    turned = as_costs([(1, 5), (2, 3)], read_goals(TWO, ("minimize", "maximize"), costs=COSTS))
    assert places_of_front(turned) == [0]


def test_what_stands_for_a_front_is_chosen_one_by_one() -> None:
    front = as_costs([(0, 10), (1, 9), (2, 2), (9, 1), (10, 0)], GOALS)
    first, *others = choose_spread(front, 5)
    assert first == 2, "the knee dominates most"
    assert sorted([first, *others]) == [0, 1, 2, 3, 4]
    for count in range(1, 5):
        assert choose_spread(front, count) == [first, *others][:count]
    volumes = [hypervolume(front[[first, *others][: count + 1]], front) for count in range(5)]
    assert volumes == sorted(volumes)


@pytest.mark.parametrize("goals", [2, 3])
def test_what_is_not_looked_at_again_would_not_have_been_chosen(goals: int) -> None:
    drawn = np.random.default_rng(goals).integers(0, 30, size=(60, goals)).astype(float)
    front = drawn[places_of_front(drawn)]
    chosen: list[int] = []
    for place in choose_spread(front, 8):
        left = [each for each in range(len(front)) if each not in chosen]
        volumes = [hypervolume(front[[*chosen, each]], front) for each in left]
        assert place == left[int(np.argmax(volumes))]
        chosen.append(place)


@pytest.mark.parametrize("goals", [2, 3, 4])
def test_what_each_vector_adds_makes_up_the_volume_of_all(goals: int) -> None:
    drawn = np.random.default_rng(goals).integers(0, 30, size=(80, goals)).astype(float)
    front = drawn[places_of_front(drawn)]
    front = np.concatenate([front, front[:1]])  # the same vector again adds nothing
    volumes = volumes_of_first(front)
    for count in (1, 2, len(front) // 2, len(front)):
        assert volumes[count - 1] == pytest.approx(hypervolume(front[:count], front))
    assert volumes[-1] == volumes[-2]


def test_a_long_front_of_four_goals_is_shown_in_a_moment() -> None:
    drawn = np.abs(np.random.default_rng(0).normal(size=(200, 4)))
    front = 1 - drawn / np.linalg.norm(drawn, axis=1, keepdims=True)  # all are on it
    began = time.process_time()
    assert sorted(choose_spread(front, 200)) == [*range(200)]
    volumes = volumes_of_first(front)
    assert volumes == sorted(volumes)
    assert time.process_time() - began < 10, "a volume of all for each one takes a minute"


def test_the_volume_is_that_of_the_rectangles() -> None:
    front = as_costs([(0.0, 10.0), (5.0, 0.0)], GOALS)  # on the scale: (0, 1) and (1, 0)
    assert hypervolume(front, front) == pytest.approx(1.1 * 0.1 + 0.1 * 1.1 - 0.1 * 0.1)
    assert hypervolume(as_costs([(5.6, 0.0)], GOALS), front) == 0.0, "beyond the reference"


def test_a_front_that_is_one_point_has_a_volume() -> None:
    alone = as_costs([(3.0, 4.0), (3.0, 4.0)], GOALS)
    assert choose_spread(alone, 2) == [0, 1]
    assert hypervolume(alone, alone) == pytest.approx(1.1**2)


def test_a_display_follows_the_front() -> None:
    front = RunningFront(GOALS)
    assert [front.add(0, (0.5, 20)), front.add(1, (0.6, 30)), front.add(2, (0.4, 30))] == [
        True, False, True,
    ]  # fmt: skip
    assert front.add(3, (0.4, 10))
    assert front.describe() == "front of 1: mse 0.4 to 0.4, code 10 to 10"


# ---- pruning ----


def vectors(*costs: tuple[float, float]) -> list[Vector]:
    return [Vector(costs=each) for each in costs]


def test_who_is_beyond_the_better_half_is_pruned() -> None:
    line = vectors((1, 4), (2, 3), (3, 2), (4, 1))  # one rank
    assert not is_beyond(Vector(costs=(5, 0.5)), line, keep=0.5), "the best in one goal"
    assert is_beyond(Vector(costs=(5, 5)), line, keep=0.5)
    assert not is_beyond(Vector(costs=(5, 5)), line, keep=0.9), "four of five are before it"
    behind = vectors((5, 5), (6, 6), (7, 7), (8, 8), (9, 9))
    assert not is_beyond(Vector(costs=(5, 5)), [*line, *behind], keep=0.5), "four of ten are"


def test_who_violates_constraints_comes_after_those_that_do_not() -> None:
    sound = vectors((9, 9), (9, 8))
    best = Vector(costs=(0, 0), violation=1.0)
    assert is_beyond(best, sound, keep=0.5)
    assert not is_beyond(best, [Vector(costs=(0, 0), violation=2.0)] * 3, keep=0.5)
    assert not is_beyond(Vector(costs=(9, 9)), [best] * 9, keep=0.5)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("front(keep=1.5)", "keep=1.5 is not a share"),
        ("front(n_startup_trials=0)", "whole number of at least 1"),
        ("front(goals=())", "unknown argument 'goals'"),
        ("median", "'median' compares one value of each trial.*mse, code.*'front' or 'none'"),
        ("asha", "'asha' promotes the best of a rung"),
        ("hyperband", "compares one value"),
    ],
)
def test_pruners_of_several_goals(written: str, message: str) -> None:
    with pytest.raises(BadVariable, match=message):
        make_pruner(written, GOALS)


def test_a_pruner_by_domination_needs_several_goals() -> None:
    assert isinstance(make_pruner("FrontPruner(keep=0.3)", GOALS), FrontPruner)
    with pytest.raises(BadVariable, match="this study has one; take another"):
        make_pruner("front", GOALS[:1])


def test_vectors_are_read_at_equal_epochs(storage_url: str) -> None:
    storage = open_storage(storage_url)
    study = optuna.create_study(study_name="s", storage=storage, directions=["minimize"] * 3)
    goals = read_goals(("mse", "kl", "code"), "minimize", costs=COSTS)
    ids = []
    for number in range(3):
        trial = study.ask()
        ids.append(trial._trial_id)
        storage.write_attributes(trial._trial_id, {"cost_code": 5 + number, "cost_other": "x"})
        for epoch in (1, 2):
            measured = {"valid_kl": 0.25 * epoch, "train_kl": 9.0, "violation": float(number)}
            storage.write_epoch(trial._trial_id, epoch, epoch - 1, number + epoch / 10, measured)
    storage.set_trial_user_attr(study.ask()._trial_id, "cost_code", 1)  # it has no epoch yet
    with storage.engine.connect() as connection:
        assert read_vectors(connection, study._study_id, 1, goals) == {
            ids[0]: ((0.2, 0.5, 5), 0.0),
            ids[1]: ((1.2, 0.5, 6), 1.0),
            ids[2]: ((2.2, 0.5, 7), 2.0),
        }
        assert read_measured(connection, ids[0], 1) == {"kl": 0.25}
        assert read_vectors(connection, study._study_id, 2, goals) == {}


def test_a_frame_knows_who_violates_constraints(storage_url: str) -> None:
    storage = open_storage(storage_url)
    study = optuna.create_study(study_name="s", storage=storage, directions=["minimize"] * 2)
    for number in range(3):
        trial = study.ask()
        trial.set_constraint("size", number - 1)
        study.tell(trial, [1.0, 2.0])
    assert trials("s", storage=storage_url).attrs[VIOLATING] == [2]


def test_a_trial_that_returns_forgets_its_constraints(storage_url: str) -> None:
    storage = open_storage(storage_url)
    study = optuna.create_study(study_name="s", storage=storage, directions=["minimize"] * 2)
    trial = study.ask()
    trial.set_constraint("size", 1.0)
    trial.set_user_attr("violation", 1.0)
    study.tell(trial, [1.0, 2.0])
    with write(storage.engine) as connection:
        let_return(connection, trial._trial_id)
    found = storage.get_trial(trial._trial_id)
    assert (found.constraints, found.values, found.user_attrs) == ({}, None, {})


# ---- trials ----


def test_a_trial_is_worth_the_vector_of_its_best_epoch(make_context: MakeContext) -> None:
    context = make_context(metric=("mse", "code", "parameters"))
    row = run_one(context)
    (trial,) = context.queue.study.get_trials()
    frame = curves("small", storage=context.run.storage)
    assert trial.values == [frame["value"].min(), trial.params["latent"], row["cost_parameters"]]
    assert (row["value_0"], row["value_1"], row["cost_code"]) == (
        trial.values[0], trial.values[1], trial.params["latent"],
    )  # fmt: skip


def test_other_goals_are_those_of_the_epoch_that_is_the_best_by_the_first(
    make_gan_context: MakeContext,
) -> None:
    context = make_gan_context(
        metric=("frechet", "coverage", "parameters"),
        direction=("minimize", "maximize", "minimize"),
        pruner="none",
    )
    row = run_one(context)
    frame = curves("small", storage=context.run.storage)
    best = frame.sort_values("valid_frechet").iloc[0]
    assert (row["value_0"], row["value_1"]) == (best["valid_frechet"], best["valid_coverage"])
    assert row["value_2"] == row["cost_parameters"] > 0


def test_a_trial_that_goes_on_is_not_measured_again(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = make_context(metric=("mse", "latency_1"))
    trial = context.queue.claim(9)
    assert trial is not None
    context.queue.set_attributes(trial, {"cost_latency_1": 0.5})

    def measure(model: object, names: Sequence[str]) -> dict[str, float]:
        assert not names, "an earlier attempt has measured it"
        return {}

    monkeypatch.setattr("search.worker.goals.measure_costs", measure)
    run_trial(context, trial)
    (stored,) = context.queue.study.get_trials()
    assert stored.values[1] == 0.5


def test_a_hopeless_trial_is_pruned_at_equal_epochs(make_context: MakeContext) -> None:
    context = make_context(metric=TWO, pruner="front(n_startup_trials=3, n_warmup_steps=1)")
    queue = context.queue
    for _ in range(3):  # better than any training, and smaller than any code
        done = queue.claim(9)
        assert done is not None
        queue.set_attributes(done, {"cost_code": 1.0})
        for step in range(2):
            queue.storage.set_trial_intermediate_value(done._trial_id, step, 0.001)
        queue.study.tell(done, [0.001, 1.0])
    row = run_one(context)
    assert (row["state"], row["outcome"], row["epochs"]) == ("PRUNED", "pruned", 2)
    assert np.isnan(row["value_0"]), "of several goals Optuna keeps no value of a pruned trial"
    pruned = queue.study.get_trials()[-1]
    assert pruned.constraints == {"untrained": pytest.approx(1 / 3)}


def test_a_trial_that_is_good_in_one_goal_is_kept(make_context: MakeContext) -> None:
    context = make_context(metric=TWO, pruner="front(n_startup_trials=1)")
    queue = context.queue
    for _ in range(6):
        done = queue.claim(9)
        assert done is not None
        queue.set_attributes(done, {"cost_code": 1000.0})  # a large code
        for step in range(3):
            queue.storage.set_trial_intermediate_value(done._trial_id, step, 0.001)
        queue.study.tell(done, [0.001, 1000.0])
    assert run_one(context)["state"] == "COMPLETE"


def test_a_trial_that_diverges_has_no_values(make_context: MakeContext) -> None:
    context = make_context(model=Diverging, metric=TWO)
    assert run_one(context)["outcome"] == "diverged"
    (trial,) = context.queue.study.get_trials()
    assert trial.values is None
    assert list(trial.constraints) == ["finite"]


# ---- constraints ----


def smaller_than(limit: float) -> Callable[[TrialResult], Sequence[float]]:
    return lambda result: [result.values["code"] - limit, result.values["mse"] - 100]


def test_constraints_are_told_to_the_sampler_and_keep_off_the_front(
    make_context: MakeContext,
) -> None:
    context = make_context(metric=TWO, constraints=smaller_than(0))
    row = run_one(context)
    (trial,) = context.queue.study.get_trials()
    assert trial.constraints == {"0": trial.params["latent"], "1": pytest.approx(-100, abs=1)}
    assert row["violation"] == trial.params["latent"]
    assert front_of([trial], GOALS) == []
    frame = curves("small", storage=context.run.storage)
    assert frame["violation"].tolist() == [trial.params["latent"]] * 3, "after each epoch"


def test_constraints_that_hold_leave_no_trace(make_context: MakeContext) -> None:
    context = make_context(metric=TWO, constraints=smaller_than(1000))
    assert "violation" not in run_one(context)
    (trial,) = context.queue.study.get_trials()
    assert front_of([trial], GOALS) == [trial]


@pytest.mark.parametrize("found", [None, [float("nan")], "0", ["a"]])
def test_constraints_that_are_no_numbers_are_a_mistake(
    make_context: MakeContext, found: object
) -> None:
    context = make_context(metric=TWO, constraints=lambda result: found)
    row = run_one(context)
    assert row["outcome"] == "failed"
    assert "return a list of finite numbers" in row["reason"]


def test_a_simulation_of_one_goal_refuses_the_pruner_of_several(
    refused: Callable[..., str],
) -> None:
    curves_of_one = "tests/benchmarks/curves/cae-digits.parquet"
    said = refused("simulate", NAME=curves_of_one, PRUNER="front")
    assert "compares trials by several goals, and this study has one" in said


# ---- samplers ----


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name not in ("cmaes", "preference")])
def test_samplers_know_several_goals_and_trials_that_ended_early(name: str) -> None:
    space = {"x": optuna.distributions.FloatDistribution(0.0, 1.0, step=0.05)}
    written = {"gp": "gp(n_startup_trials=3)", "tpe": "tpe(n_startup_trials=3)"}.get(name, name)
    sampler = make_sampler(written, seed=0, space=space, goals=GOALS)
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    for number in range(6):
        trial = study.ask()
        x = trial.suggest_float("x", 0.0, 1.0, step=0.05)
        if number % 3 == 1:
            study._storage.set_trial_intermediate_value(trial._trial_id, 0, x)
            trial.set_constraint("untrained", 0.5)
            study.tell(trial, state=TrialState.PRUNED)
            continue
        trial.set_constraint("0", x - 0.9)
        study.tell(trial, [x, 1 - x])
    states = [trial.state for trial in study.get_trials()]
    assert states.count(TrialState.COMPLETE) == 4


@pytest.mark.parametrize("sampler", ["cmaes", "preference", optuna.samplers.CmaEsSampler(seed=0)])
def test_samplers_that_follow_one_value_are_refused(sampler: Any) -> None:
    with pytest.raises(BadVariable, match="2 goals; take 'nsgaii'"):
        make_sampler(sampler, seed=0, space=SPACE, goals=GOALS)


# ---- the front of a stored study ----


def a_trial(number: int, *values: float, **constraints: float) -> optuna.trial.FrozenTrial:
    trial = optuna.trial.create_trial(
        values=list(values),
        system_attrs={f"constraints:{name}": value for name, value in constraints.items()},
    )
    trial.number = number
    return trial


def test_the_front_of_a_study_has_the_knee_first() -> None:
    trials = [
        a_trial(0, 10, 0), a_trial(1, 2, 2), a_trial(2, 0, 10), a_trial(3, 3, 3),
        a_trial(4, 0, 0, size=1.0), optuna.trial.create_trial(state=TrialState.PRUNED),
    ]  # fmt: skip
    front = front_of(reversed(trials), GOALS)
    assert [trial.number for trial in front] == [1, 0, 2]
    shares = shares_of_volume(front, GOALS)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_goals_of_optunas_own_studies_have_names() -> None:
    from search.goals import goals_of

    study = optuna.create_study(directions=["minimize", "maximize"])
    assert goals_of(study) == (
        Goal(name="value_0", minimize=True), Goal(name="value_1", minimize=False),
    )  # fmt: skip


def test_code_that_measures_costs_counts_as_code_where_they_are_goals(
    study_file: Callable[..., Path],
) -> None:
    several = {'metric="mse"': 'metric=("mse", "code")', 'pruner="none"': 'pruner="front"'}
    with_costs, without = (
        load_study(str(study_file(replace=several))),
        load_study(str(study_file())),
    )
    assert any(path.endswith("models/costs.py") for path in with_costs.code)
    assert not any(path.endswith("models/costs.py") for path in without.code)
