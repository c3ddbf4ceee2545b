"""Which worker runs which trial: exactly as many end as were asked for, over both databases."""

from __future__ import annotations

import time

import optuna
import pytest

import search.trials.queue
from search.trials.owner import owner_name
from search.trials.queue import TrialQueue
from storage import curves, trials
from storage.database import leases
from storage.database.study_lock import study_lock
from tests.preloaded import Preloaded
from tests.queues import make_study
from tests.user import living

FEW_DIGITS = True

optuna.logging.set_verbosity(optuna.logging.WARNING)


def test_exactly_as_many_trials_as_asked_for(storage_url: str) -> None:
    queue = make_study(storage_url)
    taken = [queue.claim(3) for _ in range(5)]
    assert [trial.number if trial else None for trial in taken] == [0, 1, 2, None, None]


def test_a_released_trial_is_taken_again_as_the_same_trial(storage_url: str) -> None:
    queue = make_study(storage_url)
    trial = queue.claim(2)
    assert trial is not None
    lr = trial.suggest_float("lr", 0, 1)
    trial.report(0.5, 0)
    queue.release(trial.number)
    assert queue.count() == {"WAITING": 1}
    again = queue.claim(2)
    assert again is not None
    assert again.number == trial.number
    assert again.suggest_float("lr", 0, 1) == lr
    assert curves("s", storage=storage_url)["value"].tolist() == [0.5]
    assert queue.count() == {"RUNNING": 1}


def test_an_interrupted_trial_beyond_a_lowered_number_waits_for_a_higher_one(
    storage_url: str,
) -> None:
    queue = make_study(storage_url)
    ended, interrupted = queue.claim(3), queue.claim(3)
    assert ended is not None
    assert interrupted is not None
    queue.release(interrupted.number)
    queue.study.tell(ended.number, 0.5)
    assert queue.claim(1) is None
    assert queue.count() == {"COMPLETE": 1, "WAITING": 1}
    again = queue.claim(2)
    assert again is not None
    assert again.number == interrupted.number


def test_a_trial_whose_worker_died_is_taken_back_at_once(
    storage_url: str, preloaded: Preloaded
) -> None:
    queue = make_study(storage_url)
    dead = TrialQueue(queue.study, queue.storage, owner=owner_name(1))
    with living(dead.owner, preloaded):
        trial = dead.claim(1)
    assert trial is not None
    again = queue.claim(1)
    assert again is not None
    assert again.number == trial.number


def test_a_trial_of_a_living_worker_is_left_alone(storage_url: str, preloaded: Preloaded) -> None:
    queue = make_study(storage_url)
    other = TrialQueue(queue.study, queue.storage, owner=owner_name(1))
    with living(other.owner, preloaded):
        assert other.claim(1) is not None
        assert queue.claim(1) is None
    assert queue.claim(1) is not None


def test_a_silent_machine_loses_its_trial_after_the_grace_period(
    storage_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = make_study(storage_url)
    other = TrialQueue(queue.study, queue.storage, owner="another-machine:1:1")
    assert other.claim(1) is not None
    assert queue.claim(1) is None
    trial_id = queue.id_of(0)
    assert leases.renew_lease(queue.engine, trial_id, other.owner)
    monkeypatch.setattr(leases, "GRACE", 0.2)
    monkeypatch.setattr(search.trials.abandoned, "SECOND_LOOK", 0.3)
    assert queue.claim(1) is None  # it was renewed since
    time.sleep(0.5)
    assert queue.claim(1) is None  # as after an outage: who lives has yet to renew
    time.sleep(0.5)
    assert queue.claim(1) is not None
    assert not leases.renew_lease(queue.engine, trial_id, other.owner)  # it lost its trial


def test_a_kept_lease_outlives_the_grace_period(
    storage_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "GRACE", 2.5)
    monkeypatch.setattr(leases, "RENEWAL", 0.2)
    queue = make_study(storage_url)
    other = TrialQueue(queue.study, queue.storage, owner="another-machine:1:1")
    trial = other.claim(1)
    assert trial is not None
    with other.keep_lease(trial.number):
        time.sleep(4.0)
        assert queue.claim(1) is None


def test_a_trial_that_kills_its_workers_is_failed_with_the_reason(storage_url: str) -> None:
    queue = make_study(storage_url)
    for attempt in range(leases.MAX_ATTEMPTS):
        other = TrialQueue(queue.study, queue.storage, owner=f"another-machine:{attempt}:1")
        assert other.claim(1) is not None
        queue.reclaim_from(other.owner)
    assert queue.claim(1) is None
    (row,) = trials("s", storage=storage_url).to_dict("records")
    assert row["state"] == "FAIL"
    died = f"its worker died {leases.MAX_ATTEMPTS} times"
    assert row["reason"] == f"{died} without getting further"


def test_a_clean_release_is_not_held_against_a_trial(storage_url: str) -> None:
    queue = make_study(storage_url)
    for _ in range(leases.MAX_ATTEMPTS + 2):
        trial = queue.claim(1)
        assert trial is not None
        queue.release(trial.number)
    assert queue.count() == {"WAITING": 1}


def test_a_trial_that_we_ended_ourselves_is_not_blamed(storage_url: str) -> None:
    queue = make_study(storage_url)
    for attempt in range(leases.MAX_ATTEMPTS + 2):
        other = TrialQueue(queue.study, queue.storage, owner=f"another-machine:{attempt}:1")
        assert other.claim(1) is not None
        queue.reclaim_from(other.owner, blame=False)
    assert queue.count() == {"WAITING": 1}


def test_a_trial_that_was_taken_back_is_nobodys_until_it_is_claimed(storage_url: str) -> None:
    queue = make_study(storage_url)
    late = TrialQueue(queue.study, queue.storage, owner="another-machine:1:1")
    assert late.claim(1) is not None
    assert late.renew(0)
    queue.reclaim_from(late.owner)
    assert not late.renew(0)  # it wakes up before anybody has gone on with the trial
    assert queue.count() == {"WAITING": 1}


def test_a_trial_that_is_somebody_elses_cannot_be_released(storage_url: str) -> None:
    queue = make_study(storage_url)
    late = TrialQueue(queue.study, queue.storage, owner="another-machine:1:1")
    assert late.claim(1) is not None
    queue.reclaim_from(late.owner)
    assert queue.claim(1) is not None
    late.release(0)
    assert queue.count() == {"RUNNING": 1}


TAKE_ALL = """
import os, sys
from search.trials.owner import owner_name
from search.trials.queue import open_queue
from storage.database import leases

queue = open_queue("s", sys.argv[1], owner=owner_name(os.getpid()))
while (trial := queue.claim(20)) is not None:
    queue.study.tell(trial, 0.0)
    leases.end_lease(queue.engine, queue.id_of(trial.number))
    print(trial.number)
"""


def test_many_processes_end_exactly_as_many_trials_as_asked_for(
    storage_url: str, preloaded: Preloaded
) -> None:
    make_study(storage_url)
    pool = [preloaded.run_program(TAKE_ALL, storage_url) for _ in range(4)]
    taken: list[int] = []
    for process in pool:
        out, error = process.communicate(timeout=120)
        assert process.returncode == 0, error
        taken += map(int, out.split())
    assert sorted(taken) == list(range(20))
    assert trials("s", storage=storage_url)["state"].tolist() == ["COMPLETE"] * 20


def test_the_study_lock_is_held_by_one_at_a_time(storage_url: str, preloaded: Preloaded) -> None:
    queue = make_study(storage_url)
    program = (
        "import sys, time\n"
        "from storage.database.connection import open_engine\n"
        "from storage.database.study_lock import study_lock\n"
        "engine = open_engine(sys.argv[1])\n"
        "with study_lock(engine, 1):\n"
        "    print('held', flush=True); time.sleep(1.5)\n"
    )
    holder = preloaded.run_program(program, storage_url)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    began = time.monotonic()
    with study_lock(queue.engine, 1):
        assert time.monotonic() - began > 0.5
    holder.communicate(timeout=60)
