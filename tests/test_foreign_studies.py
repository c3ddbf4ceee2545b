"""Studies that others have filled: Optuna's own scripts, several objectives, trials added by hand,
parameters called like columns, hosts in other time zones."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import optuna
import pandas as pd
import pytest
import sqlalchemy
from optuna.distributions import IntDistribution
from optuna.trial import create_trial

from search.events import NotRetrained
from search.trials.retraining_record import FailedRetraining, read_record
from search.worker.retraining import retrain
from storage import best, curves, studies, trials
from storage.database.connection import open_engine, open_storage
from storage.errors import DatabaseUnreachable, SeveralObjectives
from tests.trials import MakeContext, run_one

optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.fixture
def foreign_url(storage_url: str) -> str:
    """A database that Optuna's own scripts have filled, with one objective and with two."""
    url = storage_url.replace("postgresql://", "postgresql+psycopg://")
    opened = optuna.storages.RDBStorage(url)

    def objective(trial: optuna.Trial) -> float:
        for step in range(2):
            trial.report(1.0 / (step + 1), step)
        return trial.suggest_float("x", 0, 1)

    optuna.create_study(study_name="one", storage=opened).optimize(objective, n_trials=3)
    two = optuna.create_study(
        study_name="two words/é", storage=opened, directions=["minimize", "maximize"]
    )
    two.optimize(lambda trial: (trial.suggest_float("x", 0, 1), 1.0), n_trials=2)
    two.tell(two.ask(), state=optuna.trial.TrialState.FAIL)
    opened.engine.dispose()
    return storage_url


def test_frames_of_optunas_own_studies(foreign_url: str) -> None:
    frame = curves("one", storage=foreign_url)
    assert frame.columns.tolist() == ["number", "epoch", "value"]
    assert frame["value"].tolist() == [1.0, 0.5] * 3
    assert len(best("one", top=2, storage=foreign_url)) == 2
    counted = {row["study"]: row for row in studies(storage=foreign_url).to_dict("records")}
    assert counted["one"]["complete"] == 3
    assert math.isnan(counted["two words/é"]["best"])
    tables = sqlalchemy.inspect(open_engine(foreign_url)).get_table_names()
    assert not [name for name in tables if name.startswith("genstudy")]  # looking creates none


def test_frames_of_several_objectives(foreign_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = trials("two words/é", storage=foreign_url)
    columns = ["number", "state", "value_0", "value_1", "duration", "started", "ended", "x"]
    assert frame.columns.tolist() == columns
    assert frame["value_0"][:2].tolist() == frame["x"][:2].tolist()
    assert frame["value_1"].tolist()[:2] == [1.0, 1.0]
    assert frame["value_1"].isna().tolist() == [False, False, True]
    with pytest.raises(SeveralObjectives, match=r"'two words/é' has 2 objectives"):
        best("two words/é", storage=foreign_url)
    monkeypatch.setattr("storage.frames.known_schema", lambda connection: False)
    by_optuna = trials("two words/é", storage=foreign_url)
    pd.testing.assert_frame_equal(frame[columns[:4]], by_optuna[columns[:4]], check_dtype=False)


def test_commands_that_compare_values_of_several_objectives_are_one_line(
    refused: Callable[..., str], tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'o.db'}"
    opened = optuna.storages.RDBStorage(url)
    study = optuna.create_study(
        study_name="two", storage=opened, directions=["minimize", "maximize"]
    )
    study.optimize(lambda trial: (trial.suggest_float("x", 0, 1), 1.0), n_trials=2)
    opened.engine.dispose()
    said = refused("compare", NAMES="two,other", STORAGE=url)
    assert "NAMES has 'two', a study with several goals" in said
    assert "no trial of two has a full curve" in refused("simulate", NAME="two", STORAGE=url)


def test_a_database_of_another_program_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "library.db"
    with open_storage(f"sqlite:///{path}").engine.begin() as connection:
        connection.execute(sqlalchemy.text("DROP TABLE studies"))
        connection.execute(sqlalchemy.text("CREATE TABLE studies (title TEXT)"))
    with pytest.raises(DatabaseUnreachable, match="it holds no trials of Optuna") as caught:
        trials("s", storage=f"sqlite:///{path}")
    assert "\n" not in str(caught.value)


def test_a_trial_that_lacks_parameters_is_passed_over(make_context: MakeContext) -> None:
    context = make_context(epochs=1)
    run_one(context)
    context.queue.study.add_trial(
        create_trial(params={"channels": 2}, distributions={"channels": IntDistribution(1, 3)},
                     value=1e-6)
    )  # fmt: skip
    retrain(context, 1)
    record = read_record(context.retraining_paths(1).record, token="t", trial=1)
    assert isinstance(record, FailedRetraining)
    assert "latent" in record.failed
    said = [event for event in context.heard if isinstance(event, NotRetrained)]  # type: ignore[attr-defined]
    assert [event.number for event in said] == [1]
    frame = trials("small", storage=context.run.storage)
    assert frame["latent"].isna().tolist() == [False, True]
    assert best("small", storage=context.run.storage)["number"].tolist() == [1]


def test_a_trial_that_somebody_has_enqueued_is_run(make_context: MakeContext) -> None:
    context = make_context(epochs=1)
    context.queue.study.enqueue_trial({"channels": 2, "latent": 5})
    row = run_one(context)
    assert (row["channels"], row["latent"], row["outcome"]) == (2, 5, "complete")


NAMES = ("number", "value", "state", "duration", "started", "seed", "epochs", "host", "outcome")


def test_parameters_called_like_columns_stay_apart(storage_url: str) -> None:
    storage = open_storage(storage_url)
    study = optuna.create_study(study_name="s", storage=storage)
    trial = study.ask()
    for place, name in enumerate((*NAMES, "param_value")):
        trial.suggest_int(name, place, place)
    for name in ("seed", "host", "attr_seed", "value"):
        trial.set_user_attr(name, f"its {name}")
    study.tell(trial, 0.5)
    frame = trials("s", storage=storage_url)
    assert frame.columns.is_unique
    (row,) = frame.to_dict("records")
    assert (row["number"], row["state"], row["value"]) == (0, "COMPLETE", 0.5)
    assert [row[f"param_{name}"] for name in ("number", "state", "duration", "started")] == [
        0, 2, 3, 4,
    ]  # fmt: skip
    assert (row["param_param_value"], row["param_value"]) == (1, 9)
    assert (row["seed"], row["epochs"], row["host"], row["outcome"]) == (5, 6, 7, 8)
    assert (row["attr_host"], row["attr_value"]) == ("its host", "its value")
    assert (row["attr_attr_seed"], row["attr_seed"]) == ("its seed", "its attr_seed")
    assert len(frame.attrs["parameters"]) == len(NAMES) + 1
    assert set(frame.attrs["parameters"]) < set(frame.columns)
    assert best("s", storage=storage_url).attrs["parameters"] == frame.attrs["parameters"]
    storage.engine.dispose()


# A night in which clocks go back, one in which they go forward; hours in UTC, and their names.
NIGHTS = {
    "Europe/Berlin": ("2025-10-26 00:30:00", "2025-10-26 01:30:00", "02:30:00", "02:30:00"),
    "America/New_York": ("2025-03-09 06:30:00", "2025-03-09 07:30:00", "01:30:00", "03:30:00"),
    "UTC": ("2025-10-26 00:30:00", "2025-10-26 01:30:00", "00:30:00", "01:30:00"),
}


@pytest.mark.parametrize(
    ("zone", "known"),
    # of an hour that a clock repeats, Optuna's own objects do not say which one is meant
    [*((zone, True) for zone in NIGHTS), ("America/New_York", False)],
)
def test_an_hour_is_an_hour_in_every_zone(
    storage_url: str, monkeypatch: pytest.MonkeyPatch, zone: str, known: bool
) -> None:
    """The host that trained stands in one zone, the reader in another: the database has UTC."""
    began, ended, local_began, local_ended = NIGHTS[zone]
    storage = open_storage(storage_url)
    study = optuna.create_study(study_name="s", storage=storage)
    study.tell(study.ask(), 0.5)
    with storage.engine.begin() as connection:
        connection.execute(
            sqlalchemy.text(
                f"UPDATE trials SET datetime_start = '{began}', datetime_complete = '{ended}'"
            )
        )
    storage.engine.dispose()
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        if not known:
            monkeypatch.setattr("storage.frames.known_schema", lambda connection: False)
        (row,) = trials("s", storage=storage_url).to_dict("records")
        assert row["duration"] == timedelta(hours=1)
        assert str(row["started"]).endswith(local_began)
        assert str(row["ended"]).endswith(local_ended)
    finally:
        monkeypatch.undo()
        os.environ.pop("TZ", None)
        time.tzset()
