"""`make worker`: another machine joins a stored study, and brings nothing but work."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import optuna
import pytest

from search.errors import StudyChanged, UnknownStudy
from search.interrupts import TRY_AGAIN
from search.setup.joining import (
    JoinedStudy,
    find_joined,
    joined_variables,
    load_joined,
)
from search.setup.loading import load_study
from search.setup.stored_study import StudyIdentity, write_identity
from search.trials.study_code import StudyCode, accept_code, check_joined_code
from search.trials.study_record import StudyRecord, read_record, write_record
from search.variables import Variables, given_names
from storage import curves, trials
from storage.database.connection import open_storage
from storage.database.optuna_storage import TrialStorage
from tests.user import User, WriteStudy, progress, slow, wait_until, watched

FEW_DIGITS = True

RECORD = StudyRecord(
    command="cae",
    trials=40,
    top=3,
    retrain_epochs=60,
    sampler="tpe",
    pruner="median(n_warmup_steps=3)",
    devices="1 x cpu",
    images={"train": 9, "valid": 2, "test": 2},
    shape=(1, 28, 28),
    trial_minutes=7.5,
    revision="abc",
)
IDENTITY = StudyIdentity(
    model="models.cae:CAE",
    metric="mse",
    direction="minimize",
    data="digits",
    pixels="p",
    shape=(1, 28, 28),
    space={},
    epochs=5,
    file_epochs=15,
    seed=3,
    file_seed=0,
    configurations="c",
    token="t",
    background="",
)


@pytest.fixture
def storage(tmp_path: Path) -> TrialStorage:
    return open_storage(f"sqlite:///{tmp_path / 'studies.db'}")


def store(storage: TrialStorage, name: str, record: StudyRecord = RECORD) -> optuna.Study:
    study = optuna.create_study(study_name=name, storage=storage)
    write_identity(study, IDENTITY)
    write_record(study, record)
    return study


@pytest.mark.parametrize(
    ("stored", "name", "found"),
    [
        (["cae"], "cae", "cae"),
        (["cae", "cae-digits"], "cae", "cae"),
        (["cae-digits"], "cae", "cae-digits"),
        (["cae-digits"], "cae-digits", "cae-digits"),
        (["cae-digits", "cae-mnist"], "cae", None),
        (["other"], "cae", None),
        ([], "cae", None),
    ],
)
def test_a_name_means_a_stored_study_or_that_of_its_file(
    storage: TrialStorage, stored: list[str], name: str, found: str | None
) -> None:
    for each in stored:
        store(storage, each)
    if found is not None:
        assert find_joined(storage, name, "here").name == found
        return
    with pytest.raises(UnknownStudy, match=r"no study 'cae' in here \(there: .*make study") as why:
        find_joined(storage, name, "here")
    assert all(each in str(why.value) for each in stored)


@pytest.mark.parametrize(
    ("name", "data", "found"),
    [
        ("cae", "digits", "cae-digits"),
        ("cae", "mnist", "cae"),
        ("cae", None, "cae"),
        ("cae", "folder:/mnt/moved", "cae"),
        ("cae-digits", "digits", "cae-digits"),
    ],
)
def test_of_several_studies_of_a_file_data_says_which(
    storage: TrialStorage, name: str, data: str | None, found: str
) -> None:
    write_identity(store(storage, "cae"), replace(IDENTITY, data="mnist"))
    store(storage, "cae-digits")
    assert find_joined(storage, name, "here", data).name == found


def test_a_study_of_another_tool_or_version_is_not_joined(storage: TrialStorage) -> None:
    optuna.create_study(study_name="cae", storage=storage)
    with pytest.raises(StudyChanged, match="make study NAME=cae once adds it"):
        find_joined(storage, "cae", "here")


def joined(storage: TrialStorage, **record: object) -> JoinedStudy:
    store(storage, "cae", replace(RECORD, **record))  # type: ignore[arg-type]
    return find_joined(storage, "cae", "here")


def test_what_was_given_to_the_study_is_as_if_it_was_typed_here(storage: TrialStorage) -> None:
    study, found = load_study("cae"), joined(storage, sampler="qmc")
    given = joined_variables(Variables(workers=2), found, study)
    assert (given.trials, given.top, given.trial_minutes, given.workers) == (40, 3, 7.5, 2)
    assert (given.data, given.background) == ("digits", "#ffffff")
    assert given.sampler == "qmc"
    assert given.pruner is None or study.spec.pruner != RECORD.pruner
    moved = joined_variables(Variables(data="folder:/mnt/pets"), found, study)
    assert moved.data == "folder:/mnt/pets"


def test_a_row_of_the_database_starts_no_file(storage: TrialStorage, tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text(f"open({str(tmp_path / 'made')!r}, 'w')")
    found = joined(storage, command=str(bad))
    with pytest.raises(UnknownStudy, match=r"begun with a file of its own, bad\.py; name that"):
        load_joined("cae", found)
    assert not (tmp_path / "made").exists()
    assert load_joined("cae", replace(found, record=RECORD)).name == "cae"


def test_a_record_of_an_older_version_is_read(storage: TrialStorage) -> None:
    study = store(storage, "cae")
    plain = asdict(RECORD)
    del plain["trial_minutes"], plain["revision"]
    storage.set_study_system_attr(study._study_id, "genstudy:run", json.dumps(plain))
    assert read_record(study) == replace(RECORD, trial_minutes=None, revision="")
    plain["trial_minutes"] = "a while"
    storage.set_study_system_attr(study._study_id, "genstudy:run", json.dumps(plain))
    assert read_record(study) is None


def test_other_code_is_refused_even_before_the_first_trial(storage: TrialStorage) -> None:
    study = store(storage, "cae")
    ours = StudyCode(version="one", files={"a.py": "1", "b.py": "1"})
    check_joined_code(study, ours, "")  # an older version has kept none
    accept_code(study, ours, is_accepted=False)
    check_joined_code(study, ours, "abc")
    other = StudyCode(version="two", files={"a.py": "2", "b.py": "1"})
    with pytest.raises(StudyChanged, match=r"\(a.py differs\).*Bring the code of the study here, "):
        check_joined_code(study, other, "abc")


def test_what_is_given_is_told_from_defaults() -> None:
    assert given_names({}) == []
    assert given_names({"TRIALS": "5", "TOP": " ", "NAME": "cae"}) == ["NAME", "TRIALS"]
    shell = {"GENSTUDY_GIVEN": "NAME", "NAME": "cae", "TOP": "1", "SEED": "4"}
    assert given_names(shell) == ["NAME", "SEED"]


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"NAME": ""}, "NAME is not set; say which study: make worker NAME=cae"),
        ({"TRIALS": 5}, "a worker takes no TRIALS: the stored study says it, and make study"),
        ({"SEEDS": 5}, "a worker takes no SEEDS"),
        ({"CODE": "changed"}, "a worker takes no CODE"),
        ({"STOP": "auto"}, "a worker takes no STOP"),
        ({"TRY": "lr=0.01"}, "a worker takes no TRY"),
        ({}, "no trial database at"),
    ],
)
def test_a_workers_mistake_is_one_line(
    refused: Callable[..., str], variables: dict[str, object], said: str
) -> None:
    assert said in refused("worker", **{"NAME": "cae", **variables})


def test_workers_join_leave_and_end_a_study(
    user: User, study_file: WriteStudy, tmp_path: Path
) -> None:
    """One is told to leave, another goes on with its trial, and all is as without them."""
    name = study_file(replace={"epochs=2, retrain": "epochs=9, retrain", **slow(0.05)})
    files = tmp_path / "shared"
    begun = user.start(NAME=name, WORKERS=1, TRIALS=2, TOP=0, FILES=files)
    with watched(begun):
        wait_until(lambda: progress(user.url)() >= 1)
        begun.send_signal(signal.SIGTERM)
        begun.communicate(timeout=30)
    other = user.with_other_runs("elsewhere")
    other.environment["SEEDS"] = ""
    place = {"NAME": name, "STORAGE": user.url, "WORKERS": 1}
    code, _, error = other.run("worker", **place)
    assert code == 2
    assert f"study 'small' keeps its files in FILES={files}: give FILES, too" in error
    place["FILES"] = files
    before = progress(user.url)()
    first = other.start("worker", **place)
    with watched(first):
        wait_until(lambda: progress(user.url)() > before)
        first.send_signal(signal.SIGUSR2)
        out, error = first.communicate(timeout=30)
    assert (first.returncode, error) == (TRY_AGAIN, "")
    assert "joins study small: 2 of 2 trials left" in out
    assert "what ran here waits at its last checkpoint for another worker" in out
    assert "RUNNING" not in set(trials("small", storage=user.url)["state"])
    assert "goes on at epoch" in out  # with a checkpoint that lay under another RUNS
    code, out, error = other.run("worker", **place)
    assert (code, error) == (0, "")
    assert "goes on at epoch" in out
    assert "nothing is left for a worker" in out
    frame = trials("small", storage=user.url)
    assert frame["state"].tolist() == ["COMPLETE"] * 2
    assert curves("small", storage=user.url).groupby("number").size().tolist() == [9] * 2
    assert not (other.runs / "studies.db").exists()

    name.write_text(name.read_text().replace('"latent", 2, 8', '"latent", 2, 9'))
    code, _, error = other.run("worker", **place)
    assert code == 2
    assert "study 'small' was made with latent 2 to 8, now 2 to 9" in error
