"""NAME means a stored study, or the only one that was begun with a file of that name."""

from __future__ import annotations

import json
from dataclasses import asdict

import optuna
import pytest
from sqlalchemy import text

from search.cli.compare import compare
from search.cli.listing import trials
from search.cli.report import report
from search.cli.simulate import simulate
from search.cli.status import status
from search.errors import UnknownStudy
from search.setup.joining import find_joined
from search.trials.stored_names import StoredName, choose_stored, find_stored_name
from search.trials.study_record import KEY, StudyRecord
from search.trials.study_status import read_status
from storage.database.connection import open_storage
from storage.errors import StudyNotFound
from storage.frames import connected

RECORD = StudyRecord(
    command="cae", trials=4, top=1, retrain_epochs=6, sampler="random", pruner="none",
    devices="1 x cpu", images={"train": 9, "valid": 2, "test": 2}, shape=(1, 28, 28),
)  # fmt: skip
COMMANDS = {"trials": trials, "status": status, "report": report, "simulate": simulate}


def store(url: str, name: str, data: str, command: str = "cae", epochs: int = 2) -> None:
    storage = open_storage(url)
    study = optuna.create_study(study_name=name, storage=storage)
    made = {"data": data, "token": name, "shape": [1, 28, 28], "epochs": epochs, "seed": 0}
    study.set_user_attr("definition", json.dumps(made))
    record = asdict(RECORD) | {"command": command}
    storage.set_study_system_attr(study._study_id, KEY, json.dumps(record))
    trial = study.ask()
    for step in range(epochs):
        trial.report(0.5, step)
    study.tell(trial, 0.5)
    storage.engine.dispose()


@pytest.mark.parametrize(
    ("name", "data", "found"),
    [
        ("cae", None, "cae"),
        ("cae", "digits", "cae-digits"),
        ("cae", "mnist", "cae"),
        ("cae-digits", "mnist", "cae-digits"),
        ("vae", None, "vae-digits"),
        ("studies/vae.py", None, "vae-digits"),
        ("gan", None, None),
        ("gan", "mnist", "gan-mnist"),
        ("other", None, "other"),
        ("unknown", "digits", None),
    ],
)
def test_images_decide_then_the_very_name_then_the_only_one_of_that_file(
    name: str, data: str | None, found: str | None
) -> None:
    stored = [
        StoredName(name="cae", begun_as="cae", data="fashion_mnist"),
        StoredName(name="cae-digits", begun_as="cae", data="digits"),
        StoredName(name="vae-digits", begun_as="vae", data="digits"),
        StoredName(name="vae-own", begun_as="vae-own", data="digits"),
        StoredName(name="gan-digits", begun_as="gan", data="digits"),
        StoredName(name="gan-mnist", begun_as="gan", data="mnist"),
        StoredName(name="other", begun_as=None, data=None),
    ]
    assert choose_stored(stored, name, data) == found


def test_names_are_read_from_either_database(storage_url: str) -> None:
    store(storage_url, "cae-digits", "digits", command="files/cae.py")
    assert find_stored_name(storage_url, "cae") == "cae-digits"
    assert find_stored_name(storage_url, "files/gan.py") == "gan"


def test_what_a_stranger_wrote_into_a_study_costs_no_name(storage_url: str) -> None:
    store(storage_url, "cae-digits", "digits")
    for name, table in (("a", "study_system_attributes"), ("b", "study_user_attributes")):
        store(storage_url, name, "digits")
        storage = open_storage(storage_url)
        study_id = storage.get_study_id_from_name(name)
        with storage.engine.begin() as connection:
            connection.execute(
                text(f"UPDATE {table} SET value_json = '[nonsense' WHERE study_id = :id"),
                {"id": study_id},
            )
        storage.engine.dispose()
    assert find_stored_name(storage_url, "cae") == "cae-digits"


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_that_look_find_a_study_by_the_name_of_its_file(
    command: str,
    tmp_path: object,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("RUNS", str(tmp_path))
    store(f"sqlite:///{tmp_path}/studies.db", "cae-digits", "digits")
    monkeypatch.setenv("NAME", "cae")
    assert COMMANDS[command]() == 0
    assert "study cae-digits" in capsys.readouterr().out


def test_a_close_name_that_is_stored_is_offered(storage_url: str) -> None:
    store(storage_url, "cae-digits", "digits")
    store(storage_url, "cae-mnist", "mnist")
    storage = open_storage(storage_url)
    for typed in ("cae-digit", "CAE-digits", "cae"):
        meant = r"did you mean 'cae-digits'\?"
        with pytest.raises(StudyNotFound, match=meant), connected(storage_url) as connection:
            read_status(connection, find_stored_name(storage_url, typed))
        with pytest.raises(UnknownStudy, match=meant):
            find_joined(storage, typed, "the database")
    with pytest.raises(UnknownStudy, match=r"there: cae-digits, cae-mnist\); make study"):
        find_joined(storage, "gan", "the database")


def test_studies_that_are_compared_are_found_so_too(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RUNS", str(tmp_path))
    for name in ("cae", "vae"):
        store(f"sqlite:///{tmp_path}/studies.db", f"{name}-digits", "digits", command=name)
    monkeypatch.setenv("NAMES", "cae,vae")
    assert compare() == 0
    assert "cae-digits" in capsys.readouterr().out
