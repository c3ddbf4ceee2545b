"""The contract of the trial database, run over SQLite and a real Postgres."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import optuna
import pandas as pd
import pytest
import sqlalchemy
from optuna.trial import TrialState

from search.trials.epoch_report import EpochReport
from search.trials.queue import TrialQueue
from storage import best, curves, studies, trials
from storage.database import leases
from storage.database.address import absolute_url, redact_url
from storage.database.columns import local_time
from storage.database.connection import open_engine, open_storage
from storage.database.extractors import keep_extractor, read_extractor
from storage.errors import DatabaseUnreachable, StudyNotFound
from tests.preloaded import Preloaded
from tests.queues import make_study

optuna.logging.set_verbosity(optuna.logging.WARNING)


def run_some(queue: TrialQueue, count: int) -> None:
    """Trials of every kind: complete, pruned, failed, with reports, metrics and attributes."""
    for index in range(count):
        trial = queue.claim(count)
        assert trial is not None
        trial.suggest_float("lr", 1e-5, 1e-1, log=True)
        trial.suggest_int("latent", 2, 64, step=2)
        optimizer = trial.suggest_categorical("optimizer", ["adam", "sgd", None, True, 3])
        if optimizer == "sgd":
            trial.suggest_float("momentum", 0.0, 1.0)
        for step in range(3):
            value = [1.5, math.nan, math.inf][step] if index == 1 else 1.0 / (step + 1)
            queue.report(trial, EpochReport(step + 1, value, {"train_mse": 0.5, "kl": step}))
        trial.set_user_attr("device", "cpu")
        trial.set_user_attr("list", [1, {"a": None}])
        states = [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL]
        state = states[index % 3]
        final = [0.25, math.inf][index == 3] if state == TrialState.COMPLETE else None
        queue.study.tell(trial, final, state=state)
        leases.end_lease(queue.engine, queue.id_of(trial.number))


def test_frames_equal_optunas_own(storage_url: str) -> None:
    queue = make_study(storage_url)
    run_some(queue, 13)
    queue.claim(14)  # and one that is running, without parameters yet
    ours = trials("s", storage=storage_url)
    theirs = queue.study.trials_dataframe()
    assert ours["number"].tolist() == list(range(14))
    assert ours["state"].tolist() == theirs["state"].tolist()
    pd.testing.assert_series_equal(ours["value"], theirs["value"])
    for name in ("lr", "latent", "momentum"):
        pd.testing.assert_series_equal(
            ours[name], theirs[f"params_{name}"], check_names=False, check_dtype=False
        )
    for ours_name, theirs_name in (("optimizer", "params_optimizer"), ("list", "user_attrs_list")):
        for a, b in zip(ours[ours_name], theirs[theirs_name], strict=True):
            assert a == b or (pd.isna(a) and pd.isna(b))
    for name, column in (("started", "datetime_start"), ("ended", "datetime_complete")):
        difference = (ours[name] - theirs[column]).dropna().abs()
        assert len(difference) >= 13
        assert difference.max() < timedelta(milliseconds=1)


def test_the_frame_for_an_unknown_schema_is_the_same(
    storage_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_some(make_study(storage_url), 7)
    ours = trials("s", storage=storage_url)
    with open_engine(storage_url).begin() as connection:
        connection.execute(sqlalchemy.text("UPDATE version_info SET schema_version = 99"))
    monkeypatch.setattr("storage.frames.trial_frame", None)  # its queries are not to be trusted now
    theirs = trials("s", storage=storage_url)
    assert set(ours.columns) == set(theirs.columns)
    pd.testing.assert_frame_equal(
        ours[["number", "state", "value", "lr", "latent", "device"]],
        theirs[["number", "state", "value", "lr", "latent", "device"]],
        check_dtype=False,
    )


def test_curves_have_one_row_a_trial_and_epoch(storage_url: str) -> None:
    run_some(make_study(storage_url), 4)
    frame = curves("s", storage=storage_url)
    assert len(frame) == 12
    assert frame.columns.tolist() == ["number", "epoch", "value", "kl", "train_mse"]
    first = frame[frame["number"] == 0]
    assert first["epoch"].tolist() == [1, 2, 3]
    assert first["value"].tolist() == pytest.approx([1.0, 1 / 2, 1 / 3])
    odd = frame[frame["number"] == 1]["value"].tolist()
    assert odd[0] == 1.5
    assert math.isnan(odd[1])
    assert odd[2] == math.inf


def test_epochs_with_a_report_or_a_metric_each_have_a_row(storage_url: str) -> None:
    queue = make_study(storage_url)
    other = make_study(storage_url, "other")
    for number in range(2):  # so that the ids of two studies alternate
        trial, stranger = queue.claim(2), other.claim(2)
        assert trial is not None
        assert stranger is not None
        other.report(stranger, EpochReport(1, 9.0, {"strange": 9.0}))
        trial.report(0.5 + number, 3)  # step 3 is epoch 4
        queue.report(trial, EpochReport(2, 0.25, {"kl": 1.0} if number else {"mse": 2.0}))
    frame = curves("s", storage=storage_url)
    assert frame.columns.tolist() == ["number", "epoch", "value", "kl", "mse"]
    assert frame.fillna(-1).values.tolist() == [
        [0, 2, 0.25, -1, 2.0], [0, 4, 0.5, -1, -1], [1, 2, 0.25, 1.0, -1], [1, 4, 1.5, -1, -1],
    ]  # fmt: skip


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Australia/Lord_Howe", "Asia/Kathmandu", "UTC"])
def test_times_are_local_also_when_clocks_are_changed(
    monkeypatch: pytest.MonkeyPatch, zone: str
) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        first = datetime(2026, 1, 1, 0, 0, 0, 250_000)
        moments = [first + timedelta(minutes=17 * step) for step in range(31_000)]  # a year
        expected = [
            moment.replace(tzinfo=UTC).astimezone().replace(tzinfo=None) for moment in moments
        ]
        assert local_time([str(moment) for moment in moments]).tolist() == expected
        assert local_time([moments[0], None]).tolist() == [expected[0], None]
        assert local_time([]).tolist() == []
    finally:
        monkeypatch.undo()
        time.tzset()


def test_best_follows_the_direction(storage_url: str) -> None:
    for name, direction, expected in (("low", "minimize", [2, 0]), ("high", "maximize", [1, 0])):
        queue = make_study(storage_url, name, direction)
        for value in (0.5, 0.9, 0.1):
            trial = queue.claim(3)
            assert trial is not None
            queue.study.tell(trial, value)
        assert best(name, top=2, storage=storage_url)["number"].tolist() == expected


def test_frames_of_an_empty_study_have_their_columns(storage_url: str) -> None:
    make_study(storage_url)
    assert len(trials("s", storage=storage_url)) == 0
    assert "value" in trials("s", storage=storage_url)
    assert len(curves("s", storage=storage_url)) == 0
    assert len(best("s", storage=storage_url)) == 0
    assert studies(storage=storage_url)["study"].tolist() == ["s"]


def test_studies_are_counted_by_state(storage_url: str) -> None:
    run_some(make_study(storage_url), 7)
    (row,) = studies(storage=storage_url).to_dict("records")
    assert (row["complete"], row["pruned"], row["fail"], row["best"]) == (3, 2, 2, 0.25)


def test_columns_that_clash_get_a_prefix(storage_url: str) -> None:
    queue = make_study(storage_url)
    trial = queue.claim(1)
    assert trial is not None
    trial.suggest_float("value", 0, 1)
    trial.suggest_int("seed", 0, 9)
    trial.set_user_attr("seed", 77)
    queue.study.tell(trial, 0.5)
    frame = trials("s", storage=storage_url)
    assert frame["attr_seed"].tolist() == [77]
    assert 0 <= frame["seed"][0] <= 9
    assert frame["param_value"].notna().all()


def test_an_unknown_study_is_named_with_what_there_is(storage_url: str) -> None:
    make_study(storage_url, "cae")
    for read in (trials, curves, best):
        with pytest.raises(
            StudyNotFound, match=r"no study 'caee' in .*; did you mean 'cae'\? available: cae"
        ):
            read("caee", storage=storage_url)


def test_frames_read_the_default_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_study(f"sqlite:///{tmp_path / 'studies.db'}")
    monkeypatch.setenv("RUNS", str(tmp_path))
    assert len(trials("s")) == 0


def test_metrics_of_an_epoch_that_runs_again_are_replaced(storage_url: str) -> None:
    queue = make_study(storage_url)
    trial = queue.claim(1)
    assert trial is not None
    for value in (1.0, 2.0):
        queue.report(trial, EpochReport(1, value, {"loss": value, "nan": math.nan}))
    frame = curves("s", storage=storage_url)
    assert frame["loss"].tolist() == [2.0]
    assert frame["value"].tolist() == [1.0]  # a reported value stays
    assert frame["nan"].isna().all()


OPEN = """
import sys
from storage.database.connection import open_storage

open_storage(sys.argv[1])
"""


def test_many_processes_may_create_the_database_at_once(
    storage_url: str, preloaded: Preloaded
) -> None:
    pool = [preloaded.run_program(OPEN, storage_url) for _ in range(4)]
    for process in pool:
        _, error = process.communicate(timeout=120)
        assert process.returncode == 0, error
    make_study(storage_url)


def test_sqlite_is_tuned(tmp_path: Path) -> None:
    storage = open_storage(f"sqlite:///{tmp_path / 'deep' / 'er' / 's.db'}")
    with storage.engine.connect() as connection:
        found = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "busy_timeout")
        ]
    assert found == ["wal", 1, 60_000]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://me@host/db", "STORAGE begins with mysql://, which is not supported; use sqlite"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("postgresql://me@127.0.0.1:1/db?password=secret", r"db\?password=\*\*\* "),
        ("nonsense", "STORAGE is not a database URL; use sqlite:///PATH"),
        ("", "STORAGE is not a database URL"),
        ("postgresql://me:secret@127.0.0.1:1/db", r"cannot open postgresql://me:\*\*\*@127.0.0.1"),
        ("postgresql://me:secret@127.0.0.1:99999999/db", "cannot open|not a database URL"),
        ("sqlite:////proc/nothing/s.db", "cannot open sqlite"),
    ],
)
def test_a_wrong_or_unreachable_database_is_one_line_without_the_password(
    url: str, message: str
) -> None:
    with pytest.raises(DatabaseUnreachable, match=message) as caught:
        open_storage(url)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_database_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    path.write_text("my notes, " * 1000)
    with pytest.raises(DatabaseUnreachable, match=r"cannot open .*notes.db"):
        open_storage(f"sqlite:///{path}")
    assert path.read_text() == "my notes, " * 1000


def test_reading_creates_no_database(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnreachable, match="run a study first"):
        trials("s", storage=f"sqlite:///{tmp_path / 's.db'}")
    assert not list(tmp_path.iterdir())


def test_a_missing_postgres_database_is_one_line(postgres_server: str) -> None:
    url = sqlalchemy.make_url(postgres_server).set(drivername="postgresql", database="nowhere")
    with pytest.raises(DatabaseUnreachable, match='database "nowhere" does not exist'):
        open_storage(url.render_as_string(hide_password=False))


def test_shown_urls_hide_the_password() -> None:
    assert redact_url("postgresql://me:secret@host/db") == "postgresql://me:***@host/db"
    assert redact_url("sqlite:////tmp/s.db") == "sqlite:////tmp/s.db"
    shown = redact_url("postgresql://me@host/db?sslmode=require&sslpassword=secret&host=a&host=b")
    assert shown == "postgresql://me@host/db?host=a&host=b&sslmode=require&sslpassword=***"


def test_an_address_may_lie_in_a_file_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / ".genstudy"
    path.write_text("postgresql://me:secret@host/db\n")
    path.chmod(0o600)
    assert absolute_url("file:~/.genstudy") == "postgresql://me:secret@host/db"
    assert redact_url("file:~/.genstudy") == "postgresql://me:***@host/db"
    path.write_text("sqlite:///studies.db\n")
    path.chmod(0o644)  # nothing in it is secret
    assert absolute_url(f"file:{path}") == f"sqlite:///{Path('studies.db').absolute()}"


def test_an_extractor_is_kept_for_other_machines(storage_url: str) -> None:
    engine = open_storage(storage_url).engine
    assert read_extractor(engine, "ab") is None
    keep_extractor(engine, "ab", bytes(range(256)))
    keep_extractor(engine, "ab", b"whoever comes later does not change it")
    keep_extractor(engine, "cd", b"")
    other = open_engine(storage_url)
    assert read_extractor(other, "ab") == bytes(range(256))
    assert read_extractor(other, "cd") == b""
    other.dispose()
    engine.dispose()


def test_a_process_reads_optunas_migrations_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = open_storage(f"sqlite:///{tmp_path / 'first.db'}")
    monkeypatch.setattr("alembic.script.base.Script._from_path", pytest.fail)
    second = open_storage(f"sqlite:///{tmp_path / 'second.db'}")
    assert second.get_current_version() == second.get_head_version() == first.get_head_version()
    with second.engine.begin() as connection:
        connection.execute(sqlalchemy.text("UPDATE alembic_version SET version_num = 'v0.9.0.a'"))
    with pytest.raises(DatabaseUnreachable, match="storage upgrade"):
        open_storage(f"sqlite:///{tmp_path / 'second.db'}")
