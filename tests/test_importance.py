"""Which parameters mattered: what chance alone gives is not called an effect, and an effect is."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import optuna
import optuna_dashboard
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.reporting.dashboard_view import DashboardView
from search.reporting.figures import draw_importances
from search.reporting.importance import MOST_TRIALS, Importance, measure_importance
from search.reporting.searched import describe_told
from storage.database.connection import open_storage
from storage.database.optuna_storage import TrialStorage

SPACE: dict[str, BaseDistribution] = {
    "lr": FloatDistribution(1e-5, 1e-1, log=True),
    "kind": CategoricalDistribution(["a", "b", "c"]),
}
QUICK = 39  # repeats: one of twenty is then two of forty


def drawn_trials(count: int, seed: int, effect: float = 0.0) -> list[FrozenTrial]:
    """Trials with random parameters, whose values are noise and ``effect`` times lr's decades."""
    chance = random.Random(seed)
    trials = []
    for number in range(count):
        decades = chance.uniform(0, 4)
        trial = create_trial(
            params={"lr": 1e-5 * 10**decades, "kind": chance.choice("abc")},
            distributions=SPACE,
            value=effect * decades + chance.gauss(0, 1),
            state=TrialState.PRUNED if number % 4 == 3 else TrialState.COMPLETE,
        )
        trial.number = number
        trials.append(trial)
    return trials


def test_noise_is_hardly_ever_called_an_effect() -> None:
    """At most about one of twenty parameters is; without a null level the top one always was."""
    told, tops = 0, []
    for seed in range(15):
        found = measure_importance(drawn_trials(16, seed), minimize=True, repeats=QUICK)
        told += sum(each.is_told for each in found)
        tops.append(found[0].share)
    assert told <= 4  # of 30: 1.5 are expected
    assert max(tops) > 0.8  # so large a share is no effect


@pytest.mark.parametrize("minimize", [True, False])
def test_a_strong_effect_is_found(minimize: bool) -> None:
    for seed in range(3):
        found = measure_importance(
            drawn_trials(24, seed, effect=3), minimize=minimize, repeats=QUICK
        )
        assert (found[0].name, found[0].is_told) == ("lr", True)
        for each in found:
            assert each.low is not None
            assert each.high is not None
            assert 0 <= each.low <= each.share <= each.high <= 1


def test_the_same_trials_give_the_same_numbers_whatever_their_order_and_seeds() -> None:
    trials = drawn_trials(20, 1, effect=1)
    first = measure_importance(trials, minimize=True, repeats=9)
    random.seed(5)
    assert measure_importance(trials[::-1], minimize=True, repeats=9) == first
    quick = measure_importance(trials, minimize=True, repeats=0)
    assert [(each.name, each.share) for each in quick] == [(e.name, e.share) for e in first]
    assert sum(each.share for each in first) == pytest.approx(1)
    assert not any(each.is_told for each in quick)


def test_shares_are_those_of_optunas_evaluator() -> None:
    trials = drawn_trials(30, 2, effect=1)
    study = optuna.create_study()
    study.add_trials(
        create_trial(params=t.params, distributions=SPACE, value=t.value) for t in trials
    )
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.25)
    expected = optuna.importance.get_param_importances(study, evaluator=evaluator)
    found = measure_importance(trials, minimize=True, repeats=0)
    assert {each.name: each.share for each in found} == pytest.approx(expected)


def test_of_very_many_trials_some_are_compared_in_bounded_time() -> None:
    trials = drawn_trials(6 * MOST_TRIALS, 3, effect=3)
    began = time.process_time()
    found = measure_importance(trials, minimize=True, repeats=3)
    assert found[0].name == "lr"
    few = drawn_trials(6 * MOST_TRIALS, 3, effect=3)[::6]
    assert measure_importance(few, minimize=True, repeats=3) == found
    assert time.process_time() - began < 5  # of 0.3 s


def test_too_few_trials_and_parameters_that_all_chose_alike_give_nothing() -> None:
    assert measure_importance(drawn_trials(7, 0), minimize=True, repeats=3) == []
    only: dict[str, BaseDistribution] = {"lr": FloatDistribution(1e-3, 1e-3)}
    same = [
        create_trial(params={"lr": 1e-3}, distributions=only, value=float(value))
        for value in range(9)
    ]
    assert measure_importance(same, minimize=True, repeats=3) == []


def importance(name: str, share: float, chance: float) -> Importance:
    return Importance(
        name=name, share=share, low=share / 2, high=min(1.2 * share, 1), chance=chance
    )


def test_the_sentence_names_what_can_be_told_and_says_where_nothing_can() -> None:
    lr, beta = importance("lr", 0.6, 0.2), importance("beta", 0.3, 0.2)
    width, kind = importance("width", 0.05, 0.2), importance("kind", 0.05, 0.2)
    assert describe_told([width, kind]).startswith("No parameter can be told from chance: ")
    assert describe_told([lr, width]) == "lr can be told from chance. The other parameter cannot."
    assert describe_told([lr, beta, width, kind]) == (
        "lr and beta can be told from chance. The other 2 parameters cannot."
    )
    assert describe_told([lr]) == "lr can be told from chance."


def test_the_figure_shows_interval_and_chance_beside_each_bar() -> None:
    svg = draw_importances([importance("lr", 0.6, 0.2), importance("kind", 0.1, 2.5)]).svg
    assert svg.count('class="bar complete"') == svg.count('class="bar pruned"') == 1
    assert svg.count("line span") == 2
    assert svg.count("line best") == 1  # a level beyond the figure is not drawn
    assert "60% (30% – 72%)" in svg
    assert "cannot be told from it" in svg


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_the_dashboard_shows_the_shares_of_the_report(tmp_path: Path, direction: str) -> None:
    storage = open_storage(f"sqlite:///{tmp_path / 'studies.db'}")
    study = optuna.create_study(storage=storage, direction=direction)  # type: ignore[arg-type]
    study.add_trials(drawn_trials(20, 4, effect=1))
    shown = ask_for_importance(storage, study._study_id)
    expected = measure_importance(study.trials, minimize=direction == "minimize", repeats=0)
    assert shown == [
        [
            {"name": e.name, "importance": e.share, "distribution": type(SPACE[e.name]).__name__}
            for e in expected
        ]
    ]
    both = optuna.create_study(storage=storage, directions=["minimize", "maximize"])
    both.add_trials(
        create_trial(params=t.params, distributions=SPACE, values=[float(number), -float(number)])
        for number, t in enumerate(drawn_trials(20, 4))
    )
    assert len(ask_for_importance(storage, both._study_id)) == 2  # as optuna-dashboard has it


def ask_for_importance(storage: TrialStorage, study_id: int) -> list[list[dict[str, object]]]:
    said: list[str] = []
    environ = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": f"/api/studies/{study_id}/param_importances",
        "wsgi.input": None,
        "SERVER_NAME": "here",
        "SERVER_PORT": "80",
        "wsgi.url_scheme": "http",
    }
    view = DashboardView(optuna_dashboard.wsgi(storage), storage)
    (body,) = view(environ, lambda status, headers: said.append(status))
    assert said == ["200 OK"]
    found: list[list[dict[str, object]]] = json.loads(body)["param_importances"]
    return found
