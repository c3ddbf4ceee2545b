"""`make simulate`: stored curves are played by the real pruners, with a clock and no training."""

from __future__ import annotations

import csv
import itertools
import math
import os
import random
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState
from rich.cells import cell_len
from rich.console import Console

from search.__main__ import main
from search.cli.simulate import choose_setting, describe
from search.errors import BadVariable
from search.front import Vector, front_places
from search.goals import Goal
from search.setup.stored_study import write_identity
from search.simulation.curve_file import read_curve_file, write_curve_file
from search.simulation.front_simulation import FrontSimulation
from search.simulation.orders import Outcome, Setting, as_it_ran, play_orders
from search.simulation.simulation import Plan, Played, Simulation
from search.simulation.stored_curves import (
    AboutStudy,
    Curve,
    NoCurves,
    StoredCurves,
    read_curves,
)
from search.simulation.table import outcome_table
from search.strategies.pruners import make_pruner
from search.trials.epoch_report import EpochReport
from search.trials.outcomes import Ending
from search.trials.owner import owner_name
from search.trials.queue import TrialQueue
from search.trials.study_record import write_record
from search.variables import Variables
from storage.database.connection import open_storage
from tests.benchmarks.curves import main as keep_curves
from tests.queues import make_study
from tests.test_joining import IDENTITY, RECORD

EPOCHS = 9
GOALS = (Goal(name="mse", minimize=True), Goal(name="code", minimize=False, is_cost=True))
ABOUT = AboutStudy(
    study="cae",
    metric="mse",
    minimize=True,
    epochs=EPOCHS,
    sampler="random",
    pruner="median",
    workers=2,
    wall=40.0,
)


def make_curves(count: int, seed: int = 0) -> list[Curve]:
    """Curves that fall towards levels of their own, and cross; an epoch takes 1 to 3 seconds."""
    rng = random.Random(seed)
    found = []
    for number in range(count):
        level, slope, pace = rng.uniform(0.1, 1), rng.uniform(0.5, 4), rng.uniform(1, 3)
        values = tuple(level + math.exp(-epoch / slope) for epoch in range(EPOCHS))
        curve = Curve(number=number, outcome="complete", values=values, seconds=(pace,) * EPOCHS)
        found.append(curve)
    return found


def play(
    curves: list[Curve], pruner: str, workers: int = 1, epochs: int = EPOCHS
) -> tuple[Simulation, Played]:
    plan = Plan(workers=workers, epochs=epochs, minimize=True, word="s")
    simulation = Simulation(curves, plan, make_pruner(pruner))
    return simulation, simulation.run()


def train_all(queue: TrialQueue, curves: list[Curve]) -> list[tuple[int, str]]:
    """Do what a worker does with all trials, in the trial database; epochs and state of each."""
    while trial := queue.claim(len(curves)):
        stored = queue.storage.get_trial(trial._trial_id).intermediate_values
        values = curves[trial.number].values
        if queue.pauses(trial):
            queue.study.tell(trial, state=TrialState.PRUNED)
        for epoch in range(len(stored) + 1, EPOCHS + 1):
            if queue.storage.get_trial(trial._trial_id).state.is_finished():
                break
            trial.report(values[epoch - 1], epoch - 1)
            is_rung = epoch in queue.rung_epochs(EPOCHS, trial)
            if epoch == EPOCHS:
                queue.study.tell(trial, min(values))
            elif trial.should_prune():
                queue.study.tell(trial, state=TrialState.PRUNED)
            elif is_rung and not queue.reach_rung(trial, rung=epoch, value=min(values[:epoch])):
                queue.release(trial.number)
                break
        queue.storage.end_attempt(trial._trial_id)
    return [(len(t.intermediate_values), t.state.name) for t in queue.study.get_trials()]


@pytest.mark.parametrize(
    "pruner", ["asha", "median", "asha(min_resource=2, reduction_factor=2)", "asha(brackets=2)"]
)
def test_one_worker_does_what_the_queue_does(tmp_path: Path, pruner: str) -> None:
    curves = make_curves(14, seed=3)
    queue = make_study(f"sqlite:///{tmp_path / 'studies.db'}")
    queue.study.pruner = make_pruner(pruner)
    real = train_all(queue, curves)
    simulation, played = play(curves, pruner)
    assert [(each.epoch, each.state) for each in simulation.trials] == real
    assert played.epochs == sum(epochs for epochs, _ in real)
    assert played.epochs < 14 * EPOCHS
    assert played.best == queue.study.best_value
    assert played.winner == queue.study.best_trial.number


def train_with_goals(url: str, curves: list[Curve], pruner: str) -> TrialQueue:
    """Do what a worker does with all trials of two goals, in the trial database."""
    storage = open_storage(url)
    study = optuna.create_study(
        study_name="two", storage=storage, directions=["minimize", "maximize"],
        pruner=make_pruner(pruner, GOALS),
    )  # fmt: skip
    study._storage.set_study_system_attr(study._study_id, "study:metric_names", ["mse", "code"])
    write_identity(study, replace(IDENTITY, epochs=EPOCHS, metric="mse, code"))
    write_record(study, replace(RECORD, pruner=pruner))
    queue = TrialQueue(study, storage, owner=owner_name(os.getpid()))
    while (trial := queue.claim(len(curves))) is not None:
        curve = curves[trial.number]
        size = -curve.vectors[0].costs[1]
        queue.set_attributes(trial, {"cost_code": size})
        for epoch, value in enumerate(curve.values, start=1):
            queue.report(trial, EpochReport(epoch, value, {"epoch_seconds": 1.0}))
            if epoch == EPOCHS:
                queue.study.tell(trial, [min(curve.values), size])
            elif queue.try_should_prune(trial):
                queue.study.tell(trial, state=TrialState.PRUNED)
                break
        queue.storage.end_attempt(trial._trial_id)
    return queue


def with_sizes(curves: list[Curve]) -> list[Curve]:
    """The same curves with a second goal, of which more is better."""
    return [
        replace(each, vectors=tuple(Vector(costs=(value, -sizes)) for value in each.values))
        for each, sizes in zip(curves, itertools.cycle([3.0, 5.0, 2.0, 8.0]), strict=False)
    ]


def test_pruning_by_domination_is_what_the_queue_does(tmp_path: Path) -> None:
    curves = with_sizes(make_curves(16, seed=3))
    queue = train_with_goals(f"sqlite:///{tmp_path / 'studies.db'}", curves, "front")
    real = [(len(t.intermediate_values), t.state.name) for t in queue.study.get_trials()]
    plan = Plan(workers=1, epochs=EPOCHS, minimize=True, word="s")
    simulation = FrontSimulation(curves, plan, make_pruner("front"))
    played = simulation.run()
    assert [(each.epoch, each.state) for each in simulation.trials] == real
    assert played.pruned > 0
    assert len(simulation.complete_vectors()) == played.complete > 0


def test_of_several_goals_the_hypervolume_counts(
    storage_url: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    curves = with_sizes(make_curves(12))
    train_with_goals(storage_url, curves, "none")
    stored = read_curves("two", storage_url)
    assert [curve.vectors for curve in stored.full] == [curve.vectors for curve in curves]
    assert [(goal.name, goal.minimize) for goal in stored.about.goals] == [
        ("mse", True), ("code", False),
    ]  # fmt: skip
    whole = as_it_ran(stored)
    assert (whole.volume, whole.best, whole.rank) == (1.0, None, None)
    best = {vector.costs for vector in (each.vector(EPOCHS, minimize=True) for each in curves)}
    assert whole.on_front == len(front_places(np.array(sorted(best))))
    setting = Setting(pruner="front", workers=2, trials=12, epochs=EPOCHS)
    for outcome in play_orders(stored, setting, seed=0, orders=5):
        assert outcome.epochs < 12 * EPOCHS
        assert outcome.volume is not None
        assert 0.5 < outcome.volume <= 1.0
    (few,) = play_orders(stored, replace(setting, trials=1), seed=0, orders=1)
    assert few.on_front == 1
    assert few.volume is not None
    assert few.volume < 1
    for name, value in {"NAME": "two", "STORAGE": storage_url, "PRUNER": "front"}.items():
        monkeypatch.setenv(name, value)
    assert main(["simulate"]) == 0
    said = capfd.readouterr().out
    for word in ("hypervolume", "on the front", "as it ran: none", "front, 1 worker", "100.0 %"):
        assert word in said
    assert "rank" not in said
    monkeypatch.setenv("PRUNER", "asha")
    assert main(["simulate"]) == 2
    assert "take 'front' or 'none'" in capfd.readouterr().err


def test_an_epoch_takes_its_recorded_seconds_and_who_is_free_takes_the_next() -> None:
    curves = [
        Curve(number=number, outcome="complete", values=(1.0,), seconds=(seconds,))
        for number, seconds in enumerate([1.0, 2.0, 3.0])
    ]
    for workers, wall in ((1, 6.0), (2, 4.0), (3, 3.0), (9, 3.0)):
        _, played = play(curves, "none", workers, epochs=1)
        assert (played.wall, played.machine, played.epochs) == (wall, 6.0, 3)
        assert (played.complete, played.pruned, played.winner) == (3, 0, 0)


@pytest.mark.parametrize(
    "pruner", ["asha", "hyperband", "successive_halving", "median", "wilcoxon", "percentile"]
)
def test_every_pruner_plays_with_any_number_of_workers(pruner: str) -> None:
    curves = make_curves(30)
    for workers in (1, 4, 16):
        simulation, played = play(curves, pruner, workers)
        assert played.complete + played.pruned == 30
        assert played.machine == pytest.approx(
            sum(sum(each.curve.seconds[: each.epoch]) for each in simulation.trials)
        )
        assert played.machine / workers <= played.wall * (1 + 1e-9) <= played.machine * (1 + 1e-9)
        assert played.winner is not None


def test_a_study_in_which_nothing_is_complete_has_found_nothing() -> None:
    _, played = play(make_curves(3), "threshold(upper=0.0)")
    assert (played.complete, played.best, played.winner) == (0, None, None)


def test_the_same_seed_plays_the_same_orders_for_all_settings() -> None:
    stored = StoredCurves(about=ABOUT, curves=tuple(make_curves(20)))
    setting = Setting(pruner="asha", workers=3, trials=8, epochs=EPOCHS)
    first, again, other = (
        list(play_orders(stored, setting, seed=seed, orders=5)) for seed in (0, 0, 1)
    )
    assert first == again != other
    assert len(set(first)) > 1, "one order is luck"
    free = replace(setting, pruner="none")
    whole = list(play_orders(stored, free, seed=0, orders=5))
    for ours, theirs in zip(first, whole, strict=True):
        assert theirs.epochs == 8 * EPOCHS > ours.epochs
        assert ours.best is not None
        assert theirs.best is not None
        assert ours.best >= theirs.best, "the same eight trials"


@pytest.mark.parametrize("minimize", [True, False])
def test_the_winner_is_placed_among_all_full_curves(minimize: bool) -> None:
    curves = [
        Curve(number=number, outcome="complete", values=(value,), seconds=(1.0,))
        for number, value in enumerate([4.0, 2.0, 1.0, 3.0])
    ]
    about = replace(ABOUT, minimize=minimize, epochs=1)
    stored = StoredCurves(about=about, curves=tuple(curves))
    setting = Setting(pruner="none", workers=1, trials=1, epochs=1)
    found = {
        each.best: (each.rank, each.behind)
        for each in play_orders(stored, setting, seed=0, orders=60)
    }
    least = {4.0: (4, 3.0), 3.0: (3, 2.0), 2.0: (2, 1.0), 1.0: (1, 0.0)}
    most = {4.0: (1, 0.0), 3.0: (2, 0.25), 2.0: (3, 0.5), 1.0: (4, 0.75)}
    assert found == (least if minimize else most)
    assert as_it_ran(stored).best == (1.0 if minimize else 4.0)


def store(url: str) -> TrialQueue:
    """A study of the trial database: two complete trials, one that was pruned, one that failed."""
    queue = make_study(url, "cae")
    write_identity(queue.study, replace(IDENTITY, epochs=2))
    write_record(queue.study, replace(RECORD, devices="2 x cpu, 1 x cuda:0", pruner="median"))
    for number in range(4):
        trial = queue.claim(4)
        assert trial is not None
        for epoch in (1, 2)[: 1 if number == 2 else 2]:
            value = 0.5 / (number + epoch)
            queue.report(trial, EpochReport(epoch, value, {"epoch_seconds": 0.5 * epoch}))
        if number == 2:
            queue.end(trial, Ending.pruned(1, None))
        elif number == 3:
            queue.end(trial, Ending.failed(KeyError("x")))
        else:
            queue.end(trial, Ending.complete(0.5 / (number + 2), 2))
    return queue


def test_curves_are_read_from_the_database_and_kept_in_a_file(
    storage_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(storage_url)
    stored = read_curves("cae", storage_url)
    about = stored.about
    assert (about.metric, about.epochs, about.minimize, about.workers) == ("mse", 2, True, 3)
    assert (about.sampler, about.pruner, about.timed) == ("tpe", "median", True)
    assert 0 <= about.wall < 60
    assert [curve.number for curve in stored.full] == [0, 1]
    assert stored.full[1].values == (0.25, 0.5 / 3)
    assert stored.full[1].seconds == (0.5, 1.0)
    assert stored.short == {"pruned": 1, "failed": 1}
    ran = as_it_ran(stored)
    assert (ran.epochs, ran.machine, ran.best) == (7, 5.0, 0.5 / 3)
    monkeypatch.setenv("STORAGE", storage_url)
    path = tmp_path / "curves" / "cae.parquet"
    assert keep_curves(["cae", str(path)]) == 0
    assert read_curve_file(path) == stored
    assert path.stat().st_size < 10_000


def test_a_study_of_another_tool_is_played_with_the_mean_seconds_of_its_trials(
    tmp_path: Path,
) -> None:
    url = f"sqlite:///{tmp_path / 'other.db'}"
    study = optuna.create_study(study_name="cae", storage=url, direction="maximize")
    for number in range(3):
        trial = study.ask()
        for step in range(2):
            trial.report(float(number), step)
        study.tell(trial, float(number))
    study._storage.remove_session()  # type: ignore[attr-defined]
    stored = read_curves("cae", url)
    assert (len(stored.full), stored.about.epochs, stored.about.timed) == (3, 2, False)
    assert not stored.about.minimize
    setting = Setting(pruner="none", workers=1, trials=3, epochs=2)
    assert "each takes its trial's mean" in describe(stored, setting)[-1]
    (first,) = play_orders(stored, setting, seed=0, orders=1)
    assert (first.best, first.rank, first.epochs) == (2.0, 1, 6)


def test_what_a_person_has_to_know_is_said() -> None:
    curves = (*make_curves(3), replace(make_curves(4)[3], outcome="pruned"))
    stored = StoredCurves(about=replace(ABOUT, sampler="tpe(seed=1)"), curves=curves)
    setting = choose_setting(stored, Variables(epochs=4))
    assert setting == Setting(pruner="median", workers=2, trials=3, epochs=4)
    said = " ".join(describe(stored, setting))
    for part in (
        "3 of 3 full curves of 9 epochs, in 20 random orders",
        "1 trial with a short curve is left out (1 pruned); the others are better than the average",
        "the sampler tpe(seed=1) drew each trial with those before it in mind",
        "schedules are those of 9 epochs",
        "3 curves are few: what a pruner finds here is mostly chance",
    ):
        assert part in said
    plain = StoredCurves(about=ABOUT, curves=tuple(make_curves(9)))
    assert len(describe(plain, choose_setting(plain, Variables()))) == 1


@pytest.mark.parametrize(
    ("given", "about", "line"),
    [
        ({"trials": 4}, {}, "TRIALS=4 is more than the 3 trials with full curves"),
        ({"epochs": 10}, {}, "EPOCHS=10 is more than the 9 epochs of its curves"),
        ({"pruner": "meridian"}, {}, "unknown pruner 'meridian'"),
        ({}, {"pruner": "MedianPruner"}, "whose arguments are not stored: name one, PRUNER=median"),
    ],
)
def test_more_than_the_curves_hold_is_refused(
    given: dict[str, object], about: dict[str, str], line: str
) -> None:
    stored = StoredCurves(about=replace(ABOUT, **about), curves=tuple(make_curves(3)))  # type: ignore[arg-type]
    with pytest.raises(BadVariable, match=line):
        choose_setting(stored, Variables(**given))  # type: ignore[arg-type]


def test_a_study_without_a_full_curve_is_refused_with_the_fix() -> None:
    short = tuple(replace(each, outcome="pruned") for each in make_curves(2))
    fix = r"of 9 epochs \(2 pruned\); .*make study NAME=cae PRUNER=none"
    with pytest.raises(NoCurves, match=fix):
        StoredCurves(about=ABOUT, curves=short).check()


def test_complete_trials_that_reported_no_number_have_no_curve(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'other.db'}"
    study = optuna.create_study(study_name="cae", storage=url)
    trial = study.ask()
    trial.report(math.nan, 0)
    study.tell(trial, 0.5)
    study._storage.remove_session()  # type: ignore[attr-defined]
    with pytest.raises(NoCurves, match=r"\(none has reported any\); train some to the end"):
        read_curves("cae", url).check()


def test_mistakes_are_one_line(refused: Callable[..., str], tmp_path: Path) -> None:
    other = tmp_path / "other.parquet"
    other.write_text("no table")
    assert "NAME is not set" in refused("simulate")
    assert "there is no file" in refused("simulate", NAME=tmp_path / "none.parquet")
    assert "holds no curves of a study" in refused("simulate", NAME=other)
    assert "no trial database at" in refused("simulate", NAME="cae")


@pytest.mark.parametrize("width", [80, 100, 150])
def test_the_table_fits_and_cuts_no_number(width: int) -> None:
    one = Outcome(
        epochs=12345,
        machine=45_000.0,
        wall=9_000.0,
        best=0.0123456,
        rank=3,
        behind=0.041,
        complete=20,
        pruned=180,
    )
    two = replace(one, epochs=13345, wall=9_999.0, best=0.0133456, rank=1, behind=0.0)
    none = replace(one, best=None, rank=None, behind=None)
    rows = [("as it ran: median", [one]), ("asha, 16 workers", [one, two]), ("no", [none])]
    said = StringIO()
    console = Console(file=said, width=width)
    console.print(outcome_table("mse", rows, all_epochs=[12345, 24690, 24690]))
    assert max(map(cell_len, said.getvalue().splitlines())) <= width
    for word in (
        "100 %", "12,845 ± 707", "52 %", "12 h 30 min", "2 h 38 min ± 12 min", "0.01285 ± 0.00071",
        "2.1 % ± 2.9 %", "2.0 (1 to 3)",
    ):  # fmt: skip
        assert word in said.getvalue()


def test_the_command_shows_a_table_or_writes_every_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "cae.parquet"
    write_curve_file(path, StoredCurves(about=ABOUT, curves=tuple(make_curves(9))))
    given = {"NAME": path, "PRUNER": "asha", "WORKERS": 3}
    for name, value in given.items():
        monkeypatch.setenv(name, str(value))
    assert main(["simulate"]) == 0
    out = capfd.readouterr().out
    for word in ("as it ran: median", "no pruner, 3 workers", "asha, 3 workers", "100 %"):
        assert word in out
    monkeypatch.setenv("CSV", str(tmp_path / "t.csv"))
    assert main(["simulate"]) == 0
    assert "41 rows -> " in capfd.readouterr().out
    rows = list(csv.DictReader((tmp_path / "t.csv").read_text().splitlines()))
    assert [row["order"] for row in rows[:3]] == ["0", "0", "1"]
    assert {row["setting"] for row in rows[21:]} == {"asha, 3 workers"}
    before = path.read_bytes()
    monkeypatch.setenv("PARQUET", str(path))
    assert main(["simulate"]) == 2, "the curves stay"
    assert "it is a file of something else than such a table" in capfd.readouterr().err
    assert path.read_bytes() == before
    for _ in range(2):
        monkeypatch.setenv("PARQUET", str(tmp_path / "t.parquet"))
        assert main(["simulate"]) == 0, "a table of before may be overwritten"
