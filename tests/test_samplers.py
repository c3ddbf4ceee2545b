"""Samplers and pruners by name: Optuna's own, seeded by trial."""

from __future__ import annotations

import warnings
from typing import Any

import optuna
import pytest
from optuna.trial import Trial, TrialState

from search.errors import BadVariable
from search.goals import Goal
from search.setup.checks import check_strategies
from search.strategies.arguments import parse_call
from search.strategies.pruners import PRUNERS, make_pruner
from search.strategies.samplers import SAMPLERS, grid_points, grid_size, make_sampler
from search.strategies.seeded import TrialSeeded

SPACE = {
    "width": optuna.distributions.IntDistribution(1, 3),
    "kind": optuna.distributions.CategoricalDistribution(["a", "b"]),
}
PRUNERS_WITH_ARGUMENTS = [  # of one goal; `test_goals` has the other
    {"threshold": "threshold(upper=99)"}.get(name, name) for name in PRUNERS if name != "front"
]
ONE = (Goal(name="mse", minimize=True),)
FLOATS = {"x": optuna.distributions.FloatDistribution(0.0, 1.0)}


def suggest(trial: Trial) -> dict[str, Any]:
    trial.suggest_int("width", 1, 3)
    trial.suggest_categorical("kind", ["a", "b"])
    return trial.params


def sampled(chosen: Any, seed: int, order: list[int] | None = None, count: int = 6) -> Any:
    """Parameters by trial number, as several workers would draw them, each with its sampler."""
    storage = optuna.storages.InMemoryStorage()
    study = optuna.create_study(storage=storage)
    found = {}
    workers = [make_sampler(chosen, seed=seed, space=SPACE) for _ in range(2)]
    for index in order or range(count):
        study.sampler = workers[index % 2]
        trial = study.ask()
        found[trial.number] = suggest(trial)
        study.tell(trial, float(trial.number))
    return found


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_runs_by_name_and_follows_the_seed(name: str) -> None:
    first, again = sampled(name, seed=1), sampled(name, seed=1)
    assert first == again
    assert len(first) == 6


@pytest.mark.parametrize("name", ["random", "tpe"])
def test_workers_with_one_seed_draw_different_trials(name: str) -> None:
    found = sampled(name, seed=0, count=8)
    assert len({str(parameters) for parameters in found.values()}) > 2
    assert sampled(name, seed=2, count=8) != found


def test_a_random_trial_depends_on_seed_and_number_alone() -> None:
    """Whoever runs it, whatever ran before, whether it was interrupted between two parameters."""
    expected = sampled("random", seed=3)
    study = optuna.create_study(storage=optuna.storages.InMemoryStorage())
    study.sampler = make_sampler("random", seed=3, space=SPACE)
    for number in range(6):
        trial = study.ask()
        trial.suggest_int("width", 1, 3)  # and the worker is killed here
        study.sampler = make_sampler("random", seed=3, space=SPACE)
        resumed = Trial(study, trial._trial_id)
        assert suggest(resumed) == expected[number]
        study.tell(trial, 0.0)


@pytest.mark.parametrize(("name", "count"), [("tpe", 14), ("cmaes", 14), ("gp", 8)])
def test_what_is_known_of_the_space_is_shared_without_changing_a_draw(
    name: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parameters that only some trials have, trials that run meanwhile, two studies in turn."""

    def drawn() -> list[dict[str, Any]]:
        found = []
        sampler = make_sampler(f"{name}(n_startup_trials=4)", seed=0, space=FLOATS)
        for direction in ("minimize", "maximize"):
            study = optuna.create_study(sampler=sampler, direction=direction)
            waiting = []
            for number in range(count):
                trial = study.ask()
                trial.suggest_float("x", 0.0, 1.0)
                trial.suggest_float("y", 0.0, 1.0 if number < count // 2 else 2.0)
                if number != count - 2:
                    trial.suggest_int("n", 1, 9)
                found.append(trial.params)
                waiting.append(trial)
                if number % 3:  # each third runs on for a while
                    study.tell(waiting.pop(0), found[-1]["x"])
        return found

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # experimental samplers, ranges that change
        shared = drawn()
        monkeypatch.setattr(TrialSeeded, "_share_known_space", lambda *_: None)
        assert drawn() == shared


def test_the_space_of_a_study_is_gone_through_once() -> None:
    sampler = make_sampler("tpe", seed=0, space=FLOATS)
    study = optuna.create_study(sampler=sampler)
    for number in range(5):
        trial = study.ask()
        trial.suggest_float("x", 0.0, 1.0)
        study.tell(trial, 0.0)
        assert isinstance(sampler, TrialSeeded)
        (known,) = sampler.known_spaces.values()
        assert known._cached_trial_number == number


def test_arguments_reach_optuna() -> None:
    sampler = make_sampler("tpe(n_startup_trials=2, multivariate=False)", seed=0, space=SPACE)
    study = optuna.create_study(sampler=sampler)
    trial = study.ask()
    inner = sampler.inner[trial.number]  # type: ignore[attr-defined]
    assert inner._n_startup_trials == 2
    assert not inner._multivariate
    assert inner._constant_liar


def test_a_function_of_a_seed_is_a_sampler_too() -> None:
    seeds: list[int] = []

    def make(seed: int) -> optuna.samplers.BaseSampler:
        seeds.append(seed)
        return optuna.samplers.RandomSampler(seed=seed)

    sampled(make, seed=0, count=3)
    assert len(set(seeds)) == 6  # a sampler a trial, and three that are only looked at


def test_a_grid_visits_every_point_once() -> None:
    found = sampled("grid", seed=0, count=6)
    assert len({str(parameters) for parameters in found.values()}) == 6
    assert grid_size(make_sampler("grid", seed=0, space=SPACE)) == 6
    assert grid_size(make_sampler("random", seed=0, space=SPACE)) is None


def test_a_grid_lists_stepped_floats() -> None:
    stepped = {"x": optuna.distributions.FloatDistribution(0.0, 1.0, step=0.25)}
    assert grid_points(stepped) == {"x": [0.0, 0.25, 0.5, 0.75, 1.0]}


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("randm", r"unknown sampler 'randm'; did you mean 'random'\? available: "),
        ("tpe(startup=3)", "startup"),
        ("tpe(n_startup_trials=", "is not NAME or NAME"),
        ("__import__('os').system('true')", "is not NAME or NAME"),
        ("tpe(n_startup_trials=open)", "is not NAME or NAME"),
        ("tpe(**{'a': 1})", "is not NAME or NAME"),
        ("tpe;random", "is not NAME or NAME"),
        ("", "is not NAME or NAME"),
        ("tpe\0", "is not NAME or NAME"),
        ("qmc(qmc_type='nothing')", "qmc_type"),
    ],
)
def test_a_wrong_sampler_is_one_line(written: str, message: str) -> None:
    with pytest.raises(BadVariable, match=message) as caught:
        make_sampler(written, seed=0, space=SPACE)
    assert "\n" not in str(caught.value).strip()


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("tpe(n_startup_trials='a')", "cannot draw a trial: .*'str'"),
        ("grid(search_space={'zz': [1]})", "cannot draw a trial: .*not found in the given grid"),
        ("grid(search_space={'width': [9], 'kind': ['a']})", "out of range"),
        ("grid(search_space=3)", "sampler 'grid"),
    ],
)
def test_arguments_that_only_a_draw_shows_to_be_wrong_are_one_line(
    written: str, message: str
) -> None:
    with pytest.raises(BadVariable, match=message):
        check_strategies(
            suggest, make_sampler(written, seed=0, space=SPACE), make_pruner("none"), ONE
        )


@pytest.mark.parametrize("written", ["hyperband(max_resource=0)", "hyperband(min_resource='x')"])
def test_a_pruner_that_cannot_judge_is_one_line(written: str) -> None:
    with pytest.raises(BadVariable):
        check_strategies(
            suggest, make_sampler("random", seed=0, space=SPACE), make_pruner(written), ONE
        )


@pytest.mark.parametrize("sampler", [*SAMPLERS])
@pytest.mark.parametrize("pruner", PRUNERS_WITH_ARGUMENTS)
def test_every_sampler_and_pruner_passes_its_check(sampler: str, pruner: str) -> None:
    check_strategies(suggest, make_sampler(sampler, seed=0, space=SPACE), make_pruner(pruner), ONE)


def test_a_grid_over_a_continuous_parameter_says_how_to_list_it() -> None:
    with pytest.raises(BadVariable, match=r"x is continuous; .*search_space={'x'"):
        make_sampler("grid", seed=0, space=FLOATS)
    listed = make_sampler("grid(search_space={'x': [0.1, 0.2]})", seed=0, space=FLOATS)
    assert grid_size(listed) == 2


@pytest.mark.parametrize("name", PRUNERS_WITH_ARGUMENTS)
def test_every_pruner_runs_by_name(name: str) -> None:
    study = optuna.create_study(pruner=make_pruner(name))
    for number in range(8):
        trial = study.ask()
        for step in range(4):
            trial.report(float(number + step), step)
            trial.should_prune()
        study.tell(trial, float(number))


def test_the_median_pruner_prunes_after_its_warm_up() -> None:
    """n_startup_trials=3, n_warmup_steps=2, steps from 0: the third epoch is the first to prune."""
    study = optuna.create_study(pruner=make_pruner("median(n_startup_trials=3, n_warmup_steps=2)"))
    answers = []
    for number in range(4):
        trial = study.ask()
        for step in range(4):
            trial.report(9.0 if number == 3 else 1.0, step)
            answers.append(trial.should_prune())
        study.tell(trial, 1.0, state=TrialState.COMPLETE)
    assert answers == [False] * 14 + [True, True]


def test_optunas_own_pruner_objects_are_taken() -> None:
    own = optuna.pruners.ThresholdPruner(upper=1.0)
    assert make_pruner(own) is own


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("medan", r"unknown pruner 'medan'; .*did you mean 'median'"),
        ("median(warmup=2)", "pruner 'median"),
        ("percentile(200)", "pruner 'percentile"),
        ("median(n_startup_trials=-1)", "pruner 'median"),
    ],
)
def test_a_wrong_pruner_is_one_line(written: str, message: str) -> None:
    with pytest.raises(BadVariable, match=message):
        make_pruner(written)


def test_calls_are_read_as_literals() -> None:
    assert parse_call(" a_b ( 1, 'x', y=[2.5, None], z={'k': True}) ") == (
        "a_b", [1, "x"], {"y": [2.5, None], "z": {"k": True}},
    )  # fmt: skip


@pytest.mark.parametrize(
    "written",
    [
        "random(seed=42)",
        "RandomSampler(seed=42)",
        "optuna.samplers.TPESampler(seed=42, multivariate=True)",
        optuna.samplers.RandomSampler(seed=42),
        optuna.samplers.TPESampler(seed=42),
        lambda seed: optuna.samplers.PartialFixedSampler(
            {"kind": "a"}, optuna.samplers.TPESampler(seed=42)
        ),
        optuna.samplers.RandomSampler,
        lambda seed: optuna.samplers.TPESampler(seed=42),
        lambda seed: optuna.samplers.RandomSampler(),
    ],
)
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_seed_inside_a_sampler_makes_trials_differ_and_repeats_them(written: Any) -> None:
    found = sampled(written, seed=0, count=8)
    assert len({str(parameters) for parameters in found.values()}) > 2
    assert sampled(written, seed=0, count=8) == found


@pytest.mark.parametrize(
    "make",
    [
        lambda seed: f"random(seed={seed})",
        lambda seed: optuna.samplers.RandomSampler(seed=seed),
        lambda seed: optuna.samplers.NSGAIISampler(seed=seed),
    ],
)
def test_the_seed_inside_a_sampler_counts(make: Any) -> None:
    assert sampled(make(1), seed=0) == sampled(make(1), seed=0)
    assert sampled(make(1), seed=0) != sampled(make(2), seed=0)


@pytest.mark.parametrize("given", [None, 7])
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_workers_share_one_sequence_also_where_nobody_has_seeded_it(given: int | None) -> None:

    def make() -> optuna.samplers.QMCSampler:
        return optuna.samplers.QMCSampler(
            scramble=True,
            seed=given,
            warn_asynchronous_seeding=False,
            warn_independent_sampling=False,
        )

    def draw(seed: int, order: list[int]) -> Any:
        study = optuna.create_study()
        workers = [make_sampler(make(), seed=seed, space=FLOATS) for _ in range(2)]
        for index in order:
            study.sampler = workers[index]
            trial = study.ask()
            study.tell(trial, trial.suggest_float("x", 0, 1))
        return [trial.params["x"] for trial in study.trials]

    alone = draw(0, [0] * 6)
    assert draw(0, [0, 1, 1, 0, 1, 0]) == alone
    assert len(set(alone)) == 6
    assert draw(1, [0] * 6)[0] != alone[0]
    assert (draw(1, [0] * 6)[1:] == alone[1:]) == (given is not None)


def test_a_sampler_of_somebody_else_keeps_what_it_knows() -> None:
    """As those of OptunaHub: derived from Optuna's base, with random state and a memory."""

    class Counting(optuna.samplers.RandomSampler):
        seen = 0

        def after_trial(self, *_: Any) -> None:
            self.seen += 1

    own = Counting(seed=1)
    found = sampled(own, seed=0, count=6)
    assert own.seen == 6
    assert found == sampled(Counting(seed=1), seed=0, order=[0, 0, 1, 1, 0, 1])
    assert len({str(parameters) for parameters in found.values()}) > 2


@pytest.mark.parametrize("given", ["'x'", "-1", "1.5", "True"])
def test_a_seed_that_is_no_whole_number_is_one_line(given: str) -> None:
    with pytest.raises(BadVariable, match=r"seed=.* is not a whole number from 0 on"):
        make_sampler(f"tpe(seed={given})", seed=0, space=SPACE)


GRID: dict[str, list[Any]] = {"width": [1, 2, 3], "kind": ["a", "b"]}


@pytest.mark.parametrize(
    "chosen",
    [
        "brute_force",
        "grid",
        optuna.samplers.GridSampler(GRID, seed=1),
        lambda seed: optuna.samplers.BruteForceSampler(seed=seed),
        lambda seed: optuna.samplers.GridSampler(GRID, seed=seed),
    ],
)
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_sampler_that_goes_through_all_points_stops_with_the_last(chosen: Any) -> None:
    """With two workers, one trial each at a time, as under the lock of the queue."""
    storage = optuna.storages.InMemoryStorage()
    study = optuna.create_study(storage=storage)
    workers = [make_sampler(chosen, seed=5, space=SPACE) for _ in range(2)]
    assert all(worker.draws_alone for worker in workers)
    found: list[str] = []
    running: list[Trial] = []
    while len(found) != grid_size(workers[0]) and not any(each.has_stopped for each in workers):
        study.sampler = workers[len(found) % 2]
        trial = study.ask()
        found.append(str(suggest(trial)))
        running.append(trial)
        if len(running) == 2:
            study.tell(running.pop(0), 0.0)
    assert len(found) == len(set(found)) == 6


def test_a_function_that_raises_or_returns_something_else_is_one_line() -> None:
    def raises(seed: int) -> optuna.samplers.BaseSampler:
        raise RuntimeError("no such thing")

    with pytest.raises(BadVariable, match="RuntimeError: no such thing"):
        make_sampler(raises, seed=0, space=SPACE)
    for wrong in (3, int, lambda seed: seed):
        with pytest.raises(BadVariable, match=r"sampler(=| made )"):
            make_sampler(wrong, seed=0, space=SPACE)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("written", "kind"),
    [
        ("MedianPruner(n_startup_trials=3)", optuna.pruners.MedianPruner),
        ("optuna.pruners.ThresholdPruner(upper=1.0)", optuna.pruners.ThresholdPruner),
        ("wilcoxon(p_threshold=0.2)", optuna.pruners.WilcoxonPruner),
        ("NopPruner()", optuna.pruners.NopPruner),
    ],
)
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_pruner_may_be_written_as_in_optuna(written: str, kind: type) -> None:
    assert isinstance(make_pruner(written), kind)
