"""Folders and names of any characters that a file system allows."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest

from models.results import Picture, file_stem
from search.variables import read_variables
from storage import curves, studies, trials
from storage.database.address import absolute_url, parse_url, redact_url
from storage.database.connection import check_database, open_storage
from storage.database.study_lock import study_lock
from storage.errors import DatabaseUnreachable
from storage.paths import RunPaths, sqlite_url

ODD = (
    '-a b $HOME $(x) 50% %41 #1 :;@&=+ it\'s "q" `b` what? {SCHEMA_VERSION} [bold] *~!<>|\\',
    "größe 猫 🐈 two\nlines\ttab",
)


@pytest.mark.parametrize("name", ODD)
def test_a_database_may_lie_in_any_folder(tmp_path: Path, name: str) -> None:
    variables = read_variables({"RUNS": str(tmp_path / name / "runs")})
    paths, url = variables.paths, variables.storage_url
    assert paths.root == tmp_path / name / "runs"
    assert parse_url(url).database == str(paths.database)
    assert absolute_url(url) == redact_url(url) == url
    paths.root.mkdir(parents=True)
    check_database(url)
    storage = open_storage(url)
    study = optuna.create_study(study_name=name, storage=storage)
    with study_lock(storage.engine, study._study_id):
        study.tell(study.ask(), 0.5)
    storage.engine.dispose()
    assert paths.database.is_file()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert len(trials(name, storage=url)) == 1
    assert len(curves(name, storage=url)) == 0
    assert studies(storage=url)["study"].tolist() == [name]


def test_of_an_address_only_two_characters_are_written_otherwise() -> None:
    assert sqlite_url(Path("/a b/#1@x:y")) == "sqlite:////a b/#1@x:y"
    assert sqlite_url("100%?") == "sqlite:///100%25%3F"
    assert RunPaths(Path("runs")).database_url == "sqlite:///runs/studies.db"


@pytest.mark.parametrize("url", ["sqlite:////what?.db", "sqlite:////a?b=c.db", "sqlite:///a?"])
def test_a_question_mark_in_an_address_is_told_apart(url: str) -> None:
    with pytest.raises(DatabaseUnreachable, match="write it as %3F"):
        parse_url(url)
    known = parse_url("sqlite:///runs/s.db?timeout=30&check_same_thread=false")
    assert (known.database, known.query) == ("runs/s.db", {})


def test_a_picture_of_any_name_stays_in_its_folder() -> None:
    assert Picture(name="../val/loss", caption="", draw=lambda *_: None).file == ".._val_loss.png"
    assert file_stem("größe (mm)") == "größe_mm_"
