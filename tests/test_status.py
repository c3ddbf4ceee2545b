"""`make status`: who runs what, and what is left, from the trial database alone."""

from __future__ import annotations

import csv
import random
import re
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path

import optuna
import pytest
from rich.cells import cell_len
from rich.console import Console
from sqlalchemy import text

from search.__main__ import main
from search.cli.status import describe, show_status
from search.setup.stored_study import write_identity
from search.strategies.promotion import AshaPruner
from search.strategies.pruners import make_pruner
from search.strategies.repeating import REPEATED
from search.trials.epoch_report import EpochReport
from search.trials.outcomes import Ending
from search.trials.queue import TrialQueue
from search.trials.rung_work import stretches_left
from search.trials.study_record import write_record
from search.trials.study_status import StudyStatus, read_status
from storage.database.file_records import create_file_tables
from storage.database.finishes import Finish
from storage.database.job_claims import claim_job, release_job
from storage.database.leases import GRACE
from storage.database.running import RunningTrial
from storage.errors import StudyNotFound
from storage.frames import connected
from tests.queues import make_study
from tests.test_joining import IDENTITY, RECORD

RUNNING = RunningTrial(
    number=22,
    owner="m:7:x",
    host="node-17.cluster.example",
    device="cuda:0 NVIDIA H200",
    pid=12345,
    seconds=200.0,
    silent=2.0,
    epoch=7,
    value=1.23456e-05,
    pace=4.9,
)
STATUS = StudyStatus(
    name="cae",
    metric="mse",
    total=50,
    epochs=20,
    counts=Counter(complete=18, pruned=3, running=1, waiting=2),
    running=[RUNNING],
    costs=[100.0],
    finish=None,
)
FINISH = Finish(fence=1, owner=None, renewed=3, runs="r", place="a:/runs", result=None)


def begin(url: str) -> TrialQueue:
    queue = make_study(url, "cae")
    write_identity(queue.study, IDENTITY)
    write_record(queue.study, replace(RECORD, trials=9))
    return queue


def read(url: str) -> StudyStatus:
    with connected(url) as connection:
        return read_status(connection, "cae")


def test_who_runs_what_is_read_from_the_database(storage_url: str) -> None:
    queue = begin(storage_url)
    first, second = queue.claim(9), queue.claim(9)
    assert first is not None
    assert second is not None
    queue.set_attributes(first, {"host": "here", "device": "cpu", "pid": 7})
    for epoch in (1, 2):
        queue.report(first, EpochReport(epoch, 0.5 / epoch, {"epoch_seconds": 2.0 * epoch}))
    found = read(storage_url)
    assert (found.total, found.epochs, found.ended, found.metric) == (
        9,
        IDENTITY.epochs,
        0,
        "value",
    )
    begun, fresh = found.running
    assert (begun.number, begun.owner, begun.host, begun.device, begun.pid) == (
        0, queue.owner, "here", "cpu", 7,
    )  # fmt: skip
    assert (begun.epoch, begun.value, begun.pace) == (2, 0.25, 4.0)
    assert begun.silent is not None
    assert 0 <= begun.silent < 30
    assert 0 <= begun.seconds < 30, "a time zone does not count"
    assert (fresh.number, fresh.epoch, fresh.value, fresh.host) == (1, 0, None, None)
    assert found.pace() == pytest.approx(4.0)
    # 3 epochs are left of the first, 5 of the second; 7 trials follow: 9 of 20 s each by two
    assert found.seconds_left() == pytest.approx(92.0, abs=2)

    queue.end(first, Ending.complete(0.25, 2).with_attributes({"seconds": 8.0}))
    queue.release(second.number)
    found = read(storage_url)
    assert (found.ended, found.counts["waiting"], found.running, found.costs) == (1, 1, [], [8.0])
    assert found.seconds_left() is None, "nobody works"


def test_a_trial_that_pauses_waits_for_no_worker(storage_url: str) -> None:
    queue = begin(storage_url)
    queue.study.pruner = AshaPruner()
    trial = queue.claim(9)
    assert trial is not None
    assert not queue.reach_rung(trial, rung=1, value=0.5)
    queue.release(trial.number)
    found = read(storage_url)
    assert (found.counts["paused"], found.counts["waiting"], found.ended) == (1, 0, 0)


def test_a_trial_whose_worker_is_silent_counts_as_one_to_come(storage_url: str) -> None:
    queue = begin(storage_url)
    queue.claim(9)
    with queue.engine.begin() as connection:
        connection.execute(text(f"UPDATE genstudy_leases SET renewed = renewed - {2 * GRACE}"))
    found = read(storage_url)
    assert found.running[0].silent is not None
    assert found.running[0].silent > GRACE
    assert found.alive == []
    assert found.seconds_left() is None


def test_a_study_of_another_tool_is_shown_as_far_as_it_can_be(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'other.db'}"
    study = optuna.create_study(study_name="cae", storage=url)
    study.ask()
    study.set_user_attr("definition", "{")
    study._storage.remove_session()  # type: ignore[attr-defined]
    found = read(url)
    assert (found.total, found.epochs, found.ended) == (None, None, 0)
    assert (found.running[0].owner, found.running[0].silent, found.pace()) == (None, None, None)
    with pytest.raises(StudyNotFound, match="no study 'vae'"), connected(url) as connection:
        read_status(connection, "vae")


@pytest.mark.parametrize("width", [80, 100, 150])
def test_the_table_fits_and_cuts_no_number(width: int) -> None:
    said = StringIO()
    many = [replace(RUNNING, number=22 + index) for index in range(3)]
    many.append(replace(RUNNING, number=7, host=None, device=None, pid=None, silent=None))
    many.append(replace(RUNNING, number=8, silent=400.0, host="\x1b[31m"))
    console = Console(file=said, width=width, markup=False, emoji=False, highlight=False)
    show_status(console, replace(STATUS, running=many))
    lines = said.getvalue().splitlines()
    table = [line for line in lines if re.match(r"\s*(\d+|trial)  ", line)]
    assert max(map(cell_len, table)) <= width
    assert "\x1b" not in said.getvalue()
    for word in ("1.23456e-05", "7/20", "4.9 s/epoch", "node-17", "7 min"):
        assert word in said.getvalue()


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "study cae: 21 of 50 trials have ended, 18 complete, 3 pruned, 0 failed"),
        ({}, "1 trial running, 2 waiting for a worker, 26 not begun, 4.9 s/epoch together, about "),
        (
            {"counts": Counter(complete=18, running=1, paused=9)},
            "1 trial running, 9 paused until they are among the best, 22 not begun",
        ),
        (
            {"counts": Counter(complete=18, waiting=2, paused=9), "running": [], "costs": [20, 40]},
            "0 trials running, 2 waiting for a worker, 9 paused until they are among the best, "
            "21 not begun, about 12 min left for one worker",
        ),
        ({"total": None}, "study cae: 21 have ended, 18 complete, 3 pruned, 0 failed"),
        (
            {"finish": replace(FINISH, owner="m:7:x")},
            "a:/runs retrains and exports the best",
        ),
        (
            {"finish": replace(FINISH, result={"top": 3, "trial": 7, "validation": 0.5})},
            "rank 1 is exported in a:/runs, trial 7, validation mse 0.5",
        ),
        (
            {"finish": replace(FINISH, result={"top": 3, "trial": 7, "goals": "mse 0.5, code 9"})},
            "the front is exported in a:/runs, the first is trial 7: mse 0.5, code 9",
        ),
        (
            {"jobs": ["export of rank 1", "retraining of trial 7, seed 2"]},
            "the best are retrained and exported; machines are at: export of rank 1; retraining of",
        ),
    ],
)  # fmt: skip
def test_what_is_left_is_said_in_words(changes: dict[str, object], line: str) -> None:
    lines = describe(replace(STATUS, **changes))  # type: ignore[arg-type]
    assert any(each.startswith(line) for each in lines), lines


def test_no_time_is_left_while_the_last_trial_is_only_measured() -> None:
    (trial,) = STATUS.running
    assert STATUS.epochs is not None
    for epoch in (1, STATUS.epochs):
        last = replace(STATUS, total=22, counts=Counter(complete=21, running=1),
                       running=[replace(trial, epoch=epoch)])  # fmt: skip
        assert (" left" in describe(last)[1]) == (epoch == 1)


def test_before_a_trial_has_ended_nobody_says_what_is_left() -> None:
    assert replace(STATUS, costs=[], running=[]).machine_seconds_left() is None
    assert replace(STATUS, stretches=0, running=[]).machine_seconds_left() is None


def train(queue: TrialQueue, trial: optuna.trial.Trial, pace: float) -> int:
    """Train a trial until it pauses or ends; return how many epochs that took."""
    done = len(queue.study._storage.get_trial(trial._trial_id).intermediate_values)
    value = random.Random(trial.number).random()
    rungs = queue.rung_epochs(IDENTITY.epochs, trial)
    for epoch in range(done + 1, IDENTITY.epochs + 1):
        queue.report(trial, EpochReport(epoch, value, {"epoch_seconds": pace}))
        if epoch in rungs and not queue.reach_rung(trial, rung=epoch, value=value):
            queue.release(trial.number)
            return epoch - done
    queue.end(trial, Ending.complete(value, IDENTITY.epochs))
    return IDENTITY.epochs - done


@pytest.mark.parametrize(
    "pruner", ["asha", "asha(reduction_factor=2)", "asha(reduction_factor=2,brackets=2)"]
)
def test_what_is_left_of_a_study_with_rungs_is_what_its_promotions_take(
    storage_url: str, pruner: str
) -> None:
    queue = begin(storage_url)
    write_record(queue.study, replace(RECORD, trials=16, pruner=pruner))
    queue.study.pruner = make_pruner(pruner)
    said: list[float | None] = []
    trained: list[int] = []
    while (trial := queue.claim(16)) is not None:
        if queue.pauses(trial):
            queue.end(trial, Ending.pruned(1, None))
            continue
        trained.append(train(queue, trial, pace=2.0))
        said.append(read(storage_url).machine_seconds_left())
    left = [2.0 * sum(trained[place + 1 :]) for place in range(len(trained))]
    assert queue.count()["COMPLETE"] > 0
    assert said[-1] is None, "paused trials are ended, which takes no time"
    # a good one that comes late is promoted beside those that were: nobody knows that before
    assert [each or 0.0 for each in said] == pytest.approx(left, abs=0.25 * 2.0 * sum(trained))
    assert said[-2] == left[-2] > 0, "when all others pause, the rungs say it exactly"


def test_a_billion_trials_to_come_are_counted_at_once() -> None:
    pruner = AshaPruner(brackets=3)
    fresh = range(5, 10**9)
    left = stretches_left([], pruner, epochs=20, fresh=fresh, minimize=True)
    few = stretches_left([], pruner, epochs=20, fresh=range(5, 5 + 17_000), minimize=True)
    assert left.keys() == few.keys()
    for epochs, count in few.items():
        assert left[epochs] / left.total() == pytest.approx(count / few.total(), rel=0.01)
    alike = dict(pruner.count_alike(range(5, 40)))
    assert sum(alike.values()) == 35
    assert list(alike) == [*range(5, 22)]


def test_a_running_trial_of_a_study_with_rungs_is_left_at_its_next_one(storage_url: str) -> None:
    queue = begin(storage_url)
    write_record(queue.study, replace(RECORD, trials=2, pruner="asha(min_resource=3)"))
    queue.study.pruner = make_pruner("asha(min_resource=3)")
    trial = queue.claim(2)
    assert trial is not None
    queue.report(trial, EpochReport(1, 0.5, {"epoch_seconds": 4.0}))
    # 2 epochs until its rung, 3 of the other trial; with two there nobody is promoted, and the
    # best goes on to the end
    assert read(storage_url).seconds_left() == pytest.approx(5 * 4.0, abs=2)


def test_a_repeat_of_the_best_is_left_at_its_end_whatever_the_rungs(storage_url: str) -> None:
    queue = begin(storage_url)
    write_record(queue.study, replace(RECORD, trials=2, pruner="asha(min_resource=3)"))
    queue.study.pruner = make_pruner("asha(min_resource=3)")
    trial = queue.claim(2)
    assert trial is not None
    queue.storage.set_trial_system_attr(trial._trial_id, REPEATED, 7)
    queue.report(trial, EpochReport(1, 0.5, {"epoch_seconds": 4.0}))
    left = IDENTITY.epochs - 1 + 3  # the other trial pauses at its rung
    assert read(storage_url).seconds_left() == pytest.approx(left * 4.0, abs=2)
    work = queue.work_left(queue.count(), epochs=IDENTITY.epochs, total=2, running=[0])
    assert work is not None
    assert (work.stop_of(0, 1), work.stop_of(1, 1)) == (IDENTITY.epochs, 3)
    assert work.stretches == Counter({3: 1})


def test_what_machines_have_claimed_after_the_search_is_told(tmp_path: Path) -> None:
    queue = begin(f"sqlite:///{tmp_path / 'studies.db'}")
    engine, token = queue.engine, IDENTITY.token
    create_file_tables(engine)
    for name in ("retrain-7-repeat-2", "export-1", "export-2", "x" * 200):
        assert claim_job(engine, token, name, owner="m:7:x", seen=0) == 1
    release_job(engine, token, "export-2", 1)
    with connected(f"sqlite:///{tmp_path / 'studies.db'}") as connection:
        status = read_status(connection, "cae")
    assert status.jobs == ["export of rank 1", "retraining of trial 7, seed 2", "another job"]


def test_nobody_at_work_is_said_with_what_helps() -> None:
    for changes, wanted in (
        ({"running": []}, "make worker NAME=cae goes on with what was begun"),
        (
            {"running": [replace(RUNNING, silent=99.0)]},
            "the worker of trial 22 is silent: others will take over its trial",
        ),
        (
            {"running": [replace(RUNNING, number=n, silent=99.0) for n in (22, 25)]},
            "the workers of trials 22, 25 are silent: others will take these over",
        ),
        ({"running": [], "counts": Counter(complete=1)}, "make worker NAME=cae takes the next"),
        ({"running": [], "counts": Counter(complete=50)}, None),
        ({}, None),
    ):
        said = StringIO()
        show_status(Console(file=said, width=200), replace(STATUS, **changes))  # type: ignore[arg-type]
        assert ("nobody works at it" in said.getvalue()) == (wanted is not None)
        assert (wanted or "") in said.getvalue()


def test_a_program_reads_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = begin(f"sqlite:///{tmp_path / 'studies.db'}")
    trial = queue.claim(9)
    assert trial is not None
    queue.set_attributes(trial, {"host": "=1+1", "device": "cpu"})
    for name, value in {"NAME": "cae", "RUNS": tmp_path, "CSV": tmp_path / "t.csv"}.items():
        monkeypatch.setenv(name, str(value))
    assert main(["status"]) == 0
    (row,) = csv.DictReader((tmp_path / "t.csv").read_text().splitlines())
    assert (row["study"], row["number"], row["host"], row["epochs"]) == ("cae", "0", "'=1+1", "5")
    assert row["value"] == ""
    assert main(["status"]) == 0, "a table of before may be overwritten"


@pytest.mark.parametrize("variable", ["CSV", "PARQUET"])
def test_a_table_never_takes_the_place_of_something_else(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
) -> None:
    begin(f"sqlite:///{tmp_path / 'studies.db'}")
    mine = tmp_path / "study.py"
    mine.write_text("STUDY = 1\n")
    for name, value in {"NAME": "cae", "RUNS": tmp_path, variable: mine}.items():
        monkeypatch.setenv(name, str(value))
    assert main(["status"]) == 2
    said = capfd.readouterr().err
    assert "study.py: it is a file of something else than such a table; name another" in said
    assert mine.read_text() == "STUDY = 1\n"


def test_a_wrong_name_is_one_line(refused: Callable[..., str]) -> None:
    assert "no trial database at" in refused("status", NAME="cae")
    assert "NAME is not set; say which study: make status" in refused("status", NAME="")
    assert "torch" in sys.modules, "the tests have it; tests/test_house.py checks the command"


def test_trials_that_one_worker_holds_take_turns(storage_url: str) -> None:
    queue = begin(storage_url)
    first, second = queue.claim(9), queue.claim(9)
    assert first is not None
    assert second is not None
    for trial, seconds in ((first, 1.0), (second, 3.0)):
        queue.report(trial, EpochReport(1, 0.5, {"epoch_seconds": seconds}))
    found = read(storage_url)
    assert [trial.pace for trial in found.running] == [4.0, 4.0], "each waits for the other"
    assert found.pace() == pytest.approx(2.0)
    alone = replace(found, costs=[10.0], running=[replace(found.running[0], owner="another")])
    several = replace(found, costs=[10.0])
    # 7 trials follow: each of the two takes 20 seconds, as long as two that are held
    assert several.seconds_left() == pytest.approx(16 + 4 * 20, abs=3)
    assert alone.seconds_left() == pytest.approx(16 + 8 * 10, abs=3)
