"""What an attempt at a trial writes is refused once another attempt has begun, whatever it held."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from threading import Event, Thread

import optuna
import pytest
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import Trial, TrialState
from sqlalchemy import Engine, literal, text
from sqlalchemy.exc import OperationalError

import search.trials.abandoned
from search.trials import stored_trials
from search.trials.epoch_report import EpochReport
from search.trials.outcomes import Ending
from search.trials.queue import TrialQueue, open_queue
from storage import curves, trials
from storage.database import leases
from storage.database.connection import open_engine, open_storage
from storage.database.fences import TrialLost
from storage.database.schema import leases as lease_rows
from storage.database.study_lock import CREATION, study_lock

FEW_DIGITS = True

Open = Callable[..., TrialQueue]


@pytest.fixture
def opened(storage_url: str) -> Open:
    """Workers of one study, each with a storage of its own, as on machines of their own."""
    return make_workers(storage_url)


def make_workers(url: str) -> Open:
    optuna.create_study(study_name="s", storage=open_storage(url))

    def open_one(name: str) -> TrialQueue:
        return open_queue("s", url, owner=f"{name}:1:1")

    return open_one


def take_from(queue: TrialQueue, other: TrialQueue) -> Trial:
    """Let ``other`` go on with the trial of ``queue``, which does not hear of it."""
    other.reclaim_from(queue.owner)
    taken = other.claim(1)
    assert taken is not None
    return taken


REPORT = EpochReport(1, 0.5, {"valid_mse": 0.5})
WRITES: dict[str, Callable[[TrialQueue, Trial], object]] = {
    "report": lambda queue, trial: queue.report(trial, REPORT),
    "attributes": lambda queue, trial: queue.set_attributes(trial, {"pid": 1}),
    "one attribute": lambda queue, trial: trial.set_user_attr("late", 1),
    "artifact": lambda queue, trial: queue.storage.set_trial_system_attr(
        trial._trial_id, "artifacts:a", "{}"
    ),
    "parameter": lambda queue, trial: trial.suggest_float("x", 0, 1),
    "Optuna's report": lambda queue, trial: trial.report(0.5, 0),
    "note": lambda queue, trial: queue.write_note(trial._trial_id, "late"),
    "end": lambda queue, trial: queue.end(trial, Ending.complete(0.5, 1)),
}


@pytest.mark.parametrize("what", WRITES)
@pytest.mark.parametrize("when", ["taken back", "taken over"])
def test_a_late_write_is_refused(opened: Open, what: str, when: str) -> None:
    late, other = opened("late"), opened("other")
    trial = late.claim(1)
    assert trial is not None
    other.reclaim_from(late.owner)
    if when == "taken over":
        assert other.claim(1) is not None
    before = late.storage.get_trial(trial._trial_id)
    with pytest.raises(TrialLost):
        WRITES[what](late, trial)
    assert late.storage.get_trial(trial._trial_id) == before
    assert before.state == (TrialState.RUNNING if when == "taken over" else TrialState.WAITING)
    assert len(curves("s", storage=late.storage.url)) == 0


@pytest.mark.parametrize("what", WRITES)
def test_whoever_has_the_trial_may_write(opened: Open, what: str) -> None:
    late, other = opened("late"), opened("other")
    assert late.claim(1) is not None
    WRITES[what](other, take_from(late, other))


def test_a_worker_that_lost_a_trial_may_have_it_again(opened: Open) -> None:
    first, other = opened("first"), opened("other")
    assert first.claim(1) is not None
    assert take_from(first, other).number == 0
    first.release(0)  # as it does when it is refused
    trial = take_from(other, first)
    first.report(trial, REPORT)
    first.end(trial, Ending.complete(0.5, 1))
    assert trials("s", storage=first.storage.url)["state"].tolist() == ["COMPLETE"]


def test_attempts_are_numbered_upwards(opened: Open) -> None:
    """Checkpoints carry the number, so that a late attempt does not write over a later one's."""
    first, other = opened("first"), opened("other")
    trial = first.claim(1)
    assert trial is not None
    one, two = first.attempt_at(trial), other.attempt_at(take_from(first, other))
    assert one is not None
    assert two is not None
    assert one < two
    first.release(0)
    assert first.attempt_at(trial) is None


def test_a_late_release_takes_the_trial_from_nobody(opened: Open) -> None:
    late, other = opened("late"), opened("other")
    assert late.claim(1) is not None
    trial = take_from(late, other)
    late.release(0)
    other.report(trial, REPORT)
    assert other.count() == {"RUNNING": 1}


def lose_lock(queue: TrialQueue) -> None:
    """Let the server end the connection that holds the lock of the study."""
    operator = open_engine(queue.engine.url.render_as_string(hide_password=False))
    with operator.begin() as connection:
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' "
                "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            )
        )
    operator.dispose()


def test_a_lost_lock_is_no_error_and_makes_no_trial_too_many(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a file, nobody but its holder can free the lock."""
    queue = make_workers(postgres_url)("one")
    take = leases.take_lease
    calls = iter(range(99))

    def lose_it_first(*args: object, **named: object) -> leases.Attempt:
        if next(calls) % 2 == 0:
            lose_lock(queue)
        return take(*args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(leases, "take_lease", lose_it_first)
    numbers = []
    while (trial := queue.claim(3)) is not None:
        numbers.append(trial.number)
        queue.end(trial, Ending.complete(0.5, 1))
    assert numbers == [0, 1, 2]


def test_without_any_lock_no_study_has_too_many_trials(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if all locks were lost at once."""
    workers = [opened(str(index)) for index in range(6)]
    monkeypatch.setattr(stored_trials, "study_lock", lambda *_: nullcontext())

    def work(queue: TrialQueue) -> None:
        while (trial := queue.claim(10)) is not None:
            try:
                queue.end(trial, Ending.complete(0.5, 1))
            except UpdateFinishedTrialError:  # two took the same at once: one may go on
                queue.release(trial.number)

    threads = [Thread(target=work, args=(queue,)) for queue in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    work(workers[0])  # what nobody holds is taken up
    frame = trials("s", storage=workers[0].storage.url)
    assert frame["number"].tolist() == list(range(10))
    assert frame["state"].tolist() == ["COMPLETE"] * 10


def test_a_trial_that_another_process_has_ended_is_refused_at_once(opened: Open) -> None:
    """Over the one connection that a process has."""
    late, quick = opened("late"), opened("quick")
    trial = late.claim(1)
    assert trial is not None
    quick.storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
    began = time.monotonic()
    for change in (
        lambda: late.storage.set_trial_state_values(trial._trial_id, TrialState.WAITING),
        lambda: late.storage.set_trial_user_attr(trial._trial_id, "late", 1),
        lambda: trial.suggest_float("x", 0, 1),
        lambda: trial.report(0.5, 0),
    ):
        with pytest.raises(UpdateFinishedTrialError, match=r"has ended as FAIL and stays as it is"):
            change()
    assert time.monotonic() - began < 15


def test_a_claim_that_was_cut_off_is_taken_up_by_the_same_worker(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = opened("one")
    away = OperationalError("", {}, Exception("server closed the connection"))
    answers: list[object] = [away]
    draw = queue._next.draw

    def cut_off(trial: Trial, *, relative: bool) -> None:
        if answers:
            raise answers.pop()  # type: ignore[misc]
        draw(trial, relative=relative)

    monkeypatch.setattr(queue._next, "draw", cut_off)
    trial = queue.claim(1)
    assert trial is not None
    assert trial.number == 0
    queue.report(trial, REPORT)
    assert queue.count() == {"RUNNING": 1}


@pytest.mark.parametrize("hours", [-2, 2])
def test_a_clock_that_is_set_neither_frees_nor_holds_a_trial(
    opened: Open, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    monkeypatch.setattr(leases, "GRACE", 0.3)
    monkeypatch.setattr(search.trials.abandoned, "SECOND_LOOK", 0.2)
    lives, waits = opened("lives"), opened("waits")
    trial = lives.claim(1)
    assert trial is not None

    def set_clock() -> None:
        with lives.engine.begin() as connection:
            connection.execute(
                lease_rows.update().values(renewed=lease_rows.c.renewed + 3600 * hours)
            )

    assert waits.claim(1) is None
    set_clock()
    for _ in range(8):
        time.sleep(0.1)
        assert lives.renew(trial.number)
        assert waits.claim(1) is None, "it lives"
    set_clock()
    deadline = time.monotonic() + 10
    while waits.claim(1) is None:
        assert time.monotonic() < deadline, "its worker is gone, whatever the clock says"
        time.sleep(0.1)


@pytest.mark.parametrize("steps", [[7200.0], [-7200.0], [7200.0, -7200.0], [None]])
def test_a_server_whose_clock_jumps_or_stands_keeps_who_lives(
    opened: Open, monkeypatch: pytest.MonkeyPatch, steps: list[float | None]
) -> None:
    """The worker renews by the server's clock, of which nobody else reads what it says."""
    monkeypatch.setattr(leases, "GRACE", 0.3)
    monkeypatch.setattr(search.trials.abandoned, "SECOND_LOOK", 0.2)
    real, renewals = leases.database_time, iter(range(99))

    def set_clock(engine: Engine) -> object:
        step = steps[next(renewals) % len(steps)]
        return literal(1e9) if step is None else real(engine) + step

    lives, waits = opened("lives"), opened("waits")
    trial = lives.claim(1)
    assert trial is not None
    assert waits.claim(1) is None
    monkeypatch.setattr(leases, "database_time", set_clock)
    for _ in range(8):
        time.sleep(0.1)
        assert lives.renew(trial.number)
        assert waits.claim(1) is None, "it lives"
        with study_lock(waits.engine, 7):
            pass
    deadline = time.monotonic() + 10
    while waits.claim(1) is None:
        assert time.monotonic() < deadline, "its worker is gone, whatever the clock says"
        time.sleep(0.1)


def test_only_attempts_without_progress_count_against_a_trial(opened: Open) -> None:
    """As after five power cuts in one long trial."""
    watches = opened("watches")
    for attempt in range(leases.MAX_ATTEMPTS + 2):
        worker = opened(f"w{attempt}")
        trial = worker.claim(1)
        assert trial is not None
        for epoch in range(1, attempt + 2):  # those before are there already
            worker.report(trial, EpochReport(epoch, 0.5, {}))
        watches.reclaim_from(worker.owner)
    assert watches.count() == {"WAITING": 1}
    for attempt in range(leases.MAX_ATTEMPTS - 1):  # the last one that got further counts, too
        worker = opened(f"v{attempt}")
        trial = worker.claim(1)
        assert trial is not None
        worker.report(trial, EpochReport(1, 0.5, {}))  # as it was before
        watches.reclaim_from(worker.owner)
    assert watches.count() == {"FAIL": 1}


def test_a_training_that_stands_still_renews_no_lease(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "GRACE", 0.5)
    monkeypatch.setattr(leases, "RENEWAL", 0.1)
    monkeypatch.setattr(search.trials.abandoned, "SECOND_LOOK", 0.2)
    stuck, waits = opened("stuck"), opened("waits")
    trial = stuck.claim(1)
    assert trial is not None
    with stuck.keep_lease(trial.number, is_stuck=lambda: True):
        assert waits.claim(1) is None
        deadline = time.monotonic() + 10
        while waits.claim(1) is None:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_a_lock_under_another_takes_no_second_connection(storage_url: str) -> None:
    engine, taken = open_storage(storage_url).engine, Event()

    def take() -> None:
        with study_lock(open_storage(storage_url).engine, 7):
            taken.set()

    other = Thread(target=take)
    with study_lock(engine, CREATION), study_lock(engine, 7):
        other.start()
        assert not taken.wait(0.5)
    other.join(20)
    assert taken.is_set()
