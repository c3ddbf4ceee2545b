"""A database that goes back to an older state, or that is deleted, under a running study.

What a run says at its end is what the database says then, and nothing is lost without a word.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from optuna.trial import TrialState, create_trial
from sqlalchemy import text

from search.errors import explain_error, is_missing_record
from search.trials.epoch_report import EpochReport
from search.trials.owner import owner_name
from search.trials.queue import TrialQueue, open_queue
from search.worker.interruptions import is_interruption
from search.worker.pictures import without_picture
from search.worker.retraining import retrain
from storage import curves, trials
from storage.database.connection import open_engine, open_storage
from storage.database.notes import read_note
from storage.database.retry import READ_ONLY, DatabaseRetry, DatabaseWentBack, is_away
from storage.database.sqlite_file import DatabaseReplaced
from storage.database.trial_states import TrialStates
from tests.trials import MakeContext, run_one, said_by
from tests.user import User, WriteStudy, is_error_line, progress, slow, wait_until, watched

FEW_DIGITS = True

ENDED = ("COMPLETE", "PRUNED", "COMPLETE")


@pytest.fixture
def study(storage_url: str) -> optuna.Study:
    """A stored study of three trials that have ended."""
    made = optuna.create_study(study_name="s", storage=open_storage(storage_url))
    for state in ENDED:
        made.add_trial(create_trial(state=TrialState[state], value=0.5))
    return made


def change(url: str, statement: str) -> None:
    engine = open_engine(url)
    with engine.begin() as connection:
        connection.execute(text(statement))
    engine.dispose()


LATE = "2030-01-01 00:00:00"


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM trials WHERE number = 2",
        "UPDATE trials SET state = 'RUNNING' WHERE number = 0",
        "UPDATE trials SET state = 'RUNNING', datetime_complete = NULL WHERE number = 2",
        f"UPDATE trials SET datetime_complete = '{LATE}' WHERE number = 2",  # its id, given again
        "DELETE FROM trials",
    ],
)
def test_ended_trials_that_are_gone_are_said_once_and_all_is_read_anew(
    study: optuna.Study, storage_url: str, statement: str
) -> None:
    engine = open_engine(storage_url)
    states = TrialStates(engine, study._study_id)
    assert states.count() == {"COMPLETE": 2, "PRUNED": 1}
    if storage_url.startswith("postgresql") and statement.startswith("DELETE"):
        change(storage_url, "DELETE FROM trial_values")  # they refer to trials
    change(storage_url, statement)
    with pytest.raises(DatabaseWentBack, match="put back to an older state"):
        states.check()
    fresh = TrialStates(engine, study._study_id).count()
    assert states.count() == fresh
    states.check()
    engine.dispose()


def test_trials_that_end_are_no_step_back(study: optuna.Study, storage_url: str) -> None:
    engine = open_engine(storage_url)
    states = TrialStates(engine, study._study_id)
    first, second = study.ask(), study.ask()
    states.check()
    study.tell(second, 0.25)
    states.check()
    study.tell(first, 0.5)
    states.check()
    assert states.count() == {"COMPLETE": 4, "PRUNED": 1}
    engine.dispose()


def test_a_queue_reads_what_is_there_now(study: optuna.Study, storage_url: str) -> None:
    queue = TrialQueue(study, open_storage(storage_url), owner=owner_name(1))
    assert len(queue.study.get_trials()) == 3
    change(storage_url, "UPDATE trials SET state = 'FAIL' WHERE number = 0")
    assert queue.study.get_trials()[0].state == TrialState.COMPLETE  # Optuna reads it once
    queue.read_again()
    assert queue.study.get_trials()[0].state == TrialState.FAIL


def test_a_study_goes_on_after_the_database_went_back(user: User, study_file: WriteStudy) -> None:
    name = study_file(replace=slow(0.05))
    tables = ("trials", "trial_values", "trial_params", "trial_user_attributes")
    with watched(user.start(NAME=name, TRIALS=6, WORKERS=1, TOP=0)) as process:
        wait_until(lambda: progress(user.url)() >= 6)  # two trials have ended
        with sqlite3.connect(user.runs / "studies.db", timeout=60) as other:
            later = "SELECT trial_id FROM trials WHERE number > 0"
            for table in reversed(tables):
                other.execute(f"DELETE FROM {table} WHERE trial_id IN ({later})")
        other.close()
        out, error = process.communicate(timeout=100)
    assert (process.returncode, error) == (0, ""), error + out
    assert "trials that had ended are not in the trial database any more" in out
    assert "study small: 6 trials, 6 complete" in out
    assert trials("small", storage=user.url)["state"].tolist() == ["COMPLETE"] * 6


def test_a_database_that_is_deleted_is_said_and_none_is_made_in_its_place(
    user: User, study_file: WriteStudy
) -> None:
    name = study_file(replace=slow(0.05))
    with watched(user.start(NAME=name, TRIALS=6, WORKERS=1, TOP=0)) as process:
        wait_until(lambda: progress(user.url)() >= 1)
        for file in user.runs.glob("studies.db*"):
            file.unlink()
        _, error = process.communicate(timeout=60)
    assert process.returncode == 2
    assert is_error_line(error)
    assert "is not there any more: it was deleted or moved while the study ran" in error
    assert not (user.runs / "studies.db").exists()


def move_away(path: Path) -> None:
    path.rename(path.with_name("moved"))


def put_another_there(path: Path) -> None:
    move_away(path)
    open_storage(f"sqlite:///{path}").engine.dispose()


@pytest.mark.parametrize(
    ("fault", "said"), [(move_away, "deleted or moved"), (put_another_there, "another file")]
)
def test_every_use_of_a_file_looks_whether_it_is_the_same(
    tmp_path: Path, fault: Callable[[Path], None], said: str
) -> None:
    path = tmp_path / "studies.db"
    storage = open_storage(f"sqlite:///{path}")
    study = optuna.create_study(study_name="s", storage=storage)
    queue = TrialQueue(study, storage, owner=owner_name(1))
    queue.count()
    fault(path)
    with pytest.raises(DatabaseReplaced, match=said):
        queue.count()
    with pytest.raises(DatabaseReplaced):  # also where all connections were in use
        storage.engine.raw_connection()
    assert path.exists() == (fault is put_another_there)


@pytest.mark.parametrize("how", ["by us", "waiting", "by Optuna alone"])
def test_a_trial_with_the_id_of_a_deleted_one_shows_nothing_of_it(tmp_path: Path, how: str) -> None:
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    storage = open_storage(url)
    optuna.create_study(study_name="s", storage=storage)
    old = open_queue("s", url, owner=owner_name(1))
    trial = old.claim(1)
    assert trial is not None
    old.report(trial, EpochReport(1, 0.5, {"train_mse": 0.25}))
    old.write_note(trial._trial_id, "old")
    optuna.delete_study(study_name="s", storage=storage)
    study = optuna.create_study(
        study_name="s", storage=url if how == "by Optuna alone" else storage
    )
    if how == "by us":
        new = open_queue("s", url, owner=owner_name(2)).claim(1)
        assert new is not None
        assert new._trial_id == trial._trial_id
    elif how == "waiting":
        study.enqueue_trial({})
    else:
        study.tell(study.ask(), 1.0)
    assert curves("s", storage=url).empty
    assert read_note(storage, study._study_id, trial._trial_id) == ""
    with storage.engine.connect() as connection:
        owners = connection.execute(text("SELECT owner FROM genstudy_leases")).scalars().all()
    assert old.owner not in owners


def test_a_file_of_which_pages_are_damaged_is_no_outage(tmp_path: Path) -> None:
    path = tmp_path / "studies.db"
    storage = open_storage(f"sqlite:///{path}")
    optuna.create_study(study_name="s", storage=storage)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    storage.engine.dispose()
    content = bytearray(path.read_bytes())
    content[4096:] = b"\x7f" * (len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(sqlalchemy.exc.DatabaseError, match="malformed") as found:
        storage.engine.connect()
    assert not is_away(found.value)
    line = str(explain_error(found.value))
    assert line.startswith("the trial database failed (database disk image is malformed): the file")
    assert "sqlite3 FILE .recover | sqlite3 NEW" in line


def test_a_disk_that_takes_no_lock_is_waited_for() -> None:
    read_only = OSError(30, "Read-only file system", "/runs/studies.db.study-1.lock")
    said: list[str] = []
    calls: list[Any] = [read_only, sqlalchemy.exc.OperationalError(
        "UPDATE", {}, sqlite3.OperationalError("attempt to write a readonly database")
    ), None]  # fmt: skip

    def write() -> str:
        if (error := calls.pop(0)) is not None:
            raise error
        return "written"

    assert DatabaseRetry(tell=said.append).wait_for(write) == "written"
    assert said[0].startswith("the trial database can only be read ([Errno 30] Read-only file sys")
    assert READ_ONLY.search("attempt to write a readonly database")
    assert not is_away(OSError(30, "Read-only file system", "/runs/exports/small/1"))


def test_a_study_that_is_deleted_is_one_line() -> None:
    line = explain_error(KeyError("Record does not exist."))
    assert str(line).startswith(
        "the study, or a trial of it, is not in the trial database any more"
    )
    assert explain_error(KeyError("lr")) is None


LOSSES = {
    "reports": (
        "DELETE FROM trial_intermediate_values WHERE step < 2",
        "DELETE FROM genstudy_metrics WHERE epoch <= 2",
    ),
    "parameters": ("DELETE FROM trial_params",),
    "attributes": ("DELETE FROM trial_user_attributes WHERE key = 'seed'",),
}


@pytest.mark.parametrize("what", LOSSES)
def test_a_trial_that_runs_on_while_its_past_is_lost_is_made_again(
    make_context: MakeContext, what: str
) -> None:
    """The older state knows the trial and who runs it, and not all that it has told since."""
    losses = [*LOSSES[what]]

    def lose() -> bool:
        reported = curves("small", storage=context.run.storage)
        while losses and len(reported) >= 2:
            change(context.run.storage, losses.pop())
        return False

    undisturbed = run_one(make_context(runs="undisturbed"))
    context = make_context(interrupted=lose)
    assert run_one(context)["state"] == "WAITING"
    (line,) = said_by(context)
    assert "trial 0 is made again: the trial database has lost" in line
    again = run_one(context)
    for name in ("number", "state", "value", "channels", "latent", "lr", "epochs", "seed"):
        assert again[name] == undisturbed[name]
    assert curves("small", storage=context.run.storage)["epoch"].tolist() == [1, 2, 3]


def test_a_trial_that_is_gone_is_no_retraining_that_failed(make_context: MakeContext) -> None:
    """Its number is given again: the new trial of that number has not failed."""
    context = make_context()
    with pytest.raises(KeyError) as missing:
        retrain(context, 0)
    assert is_interruption(missing.value)
    assert not context.retraining_paths(0).record.exists()


def test_a_trial_that_is_gone_is_no_error_in_drawing(make_context: MakeContext) -> None:
    context = make_context()
    with pytest.raises(KeyError), without_picture(context):
        context.queue.storage.get_trial(10**6)
    assert said_by(context) == []


def test_a_report_of_a_trial_that_is_gone_is_a_missing_record(
    postgres_url: str, tmp_path: Path
) -> None:
    """A server refuses the row before anybody looks for the trial."""
    study = optuna.create_study(study_name="s", storage=open_storage(postgres_url))
    queue = TrialQueue(study, open_storage(postgres_url), owner=owner_name(1))
    trial = queue.claim(1)
    assert trial is not None
    change(postgres_url, "DELETE FROM trials")
    with pytest.raises(sqlalchemy.exc.IntegrityError) as refused:
        queue.report(trial, EpochReport(1, 0.5, {"mse": 0.5}))
    assert is_missing_record(refused.value)
    assert is_interruption(refused.value)
