"""Databases, tables and addresses with mistakes in them: one line each, nothing is changed."""

from __future__ import annotations

import socket
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from threading import Thread

import optuna
import pytest

from storage.database.connection import open_storage

WriteStudy = Callable[..., Path]
SECRET = "hunter2%2Fp%40ss"

URLS = {
    "nonsense": ("sqlite", ["STORAGE is not a database URL", "use sqlite:///PATH"]),
    "a-path": ("/tmp/studies.db", ["STORAGE is not a database URL", "sqlite:///PATH"]),
    "mysql": (f"mysql://me:{SECRET}@host/db", ["begins with mysql://, which is not supported"]),
    "oracle": ("oracle+cx_oracle://h", ["begins with oracle://", "use sqlite:///PATH"]),
    "redis": (f"redis://:{SECRET}@h", ["begins with redis://", "postgresql://USER"]),
    "web": ("https://host/db", ["begins with https://"]),
    "memory": ("sqlite://", ["names no file", "use sqlite:///PATH"]),
    "a-host": (f"sqlite://me:{SECRET}@h/one.db", ["names a host", "sqlite:///PATH with three"]),
    "two-slashes": ("sqlite://runs/studies.db", ["names a host", "sqlite:///PATH with three"]),
    "port-word": (f"postgresql://me:{SECRET}@h:port/db", ["STORAGE is not a database URL"]),
    "port-range": (f"postgresql://me:{SECRET}@127.0.0.1:99999/db", ["cannot open postgresql"]),
    "port-closed": (f"postgresql://me:{SECRET}@127.0.0.1:1/db", ["refused", "server running"]),
    "a-driver": (f"postgresql+asyncpg://me:{SECRET}@127.0.0.1:1/db", ["cannot open postgresql"]),
    "an-option": (f"postgresql://127.0.0.1:1/db?password={SECRET}&x=1", ["cannot open postgres"]),
    "a-key": (f"postgresql://h:1/db?sslmode=x&sslpassword={SECRET}", ["sslpassword=***"]),
    "capitals": (f"postgresql://127.0.0.1:1/db?PASSWORD={SECRET}", ["PASSWORD=***"]),
    "misspelt": (f"postgresql://127.0.0.1:1/db?pasword={SECRET}", ["pasword=***", "correct the"]),
    "a-colon": (f"postgresql://me%3A{SECRET}@127.0.0.1:1/db", ["postgresql://me:***@127.0.0.1"]),
    "a-service": (f"postgresql://127.0.0.1:1/db?service={SECRET}", ['service "***" not found']),
    "words": (f"host=127.0.0.1 user=me password={SECRET}", ["STORAGE is not a database URL"]),
    "one-slash": (f"postgresql:/me:{SECRET}@127.0.0.1/db", ["STORAGE is not a database URL"]),
    "at-signs": (f"postgresql://me:a@b@{SECRET}@127.0.0.1:1/db", ["two '@'", "is %40"]),
    "no-socket": ("postgresql:///db?host=/nowhere", ["cannot open postgresql", "server running"]),
    "proc": ("sqlite:////proc/nothing/s.db", ["cannot open sqlite:////proc", "writable"]),
    "a-device": ("sqlite:////dev/zero", ["cannot open sqlite:////dev/zero"]),
    "long": ("sqlite:////tmp/" + "x" * 5000, ["cannot open sqlite:////tmp/xxx"]),
}


@pytest.mark.parametrize("command", ["study", "dashboard", "trials"])
@pytest.mark.parametrize("mistake", URLS)
def test_a_wrong_database_is_one_line_without_the_password(
    refused: Callable[..., str], study_file: WriteStudy, mistake: str, command: str
) -> None:
    url, words = URLS[mistake]
    said = refused(command, NAME=study_file(), STORAGE=url)
    absent = command != "study" and mistake in ("proc", "a-device")
    for word in ["no trial database at"] if absent else words:
        assert word in said
    assert "hunter2" not in said
    assert "p@ss" not in said


ADDRESS_FILES: dict[str, tuple[str | None, int, list[str]]] = {
    "missing": (None, 0o600, ["cannot read STORAGE=file:", "No such file", "postgresql://USER"]),
    "for-all": (f"postgresql://me:{SECRET}@h/db", 0o644, ["may be read by others", "chmod 600"]),
    "empty": ("\n", 0o600, ["is no file of one line, the address"]),
    "variables": (f"export STORAGE=x\nA={SECRET}\n", 0o600, ["is no file of one line"]),
    "a-circle": ("file:address", 0o600, ["is no file of one line"]),
    "nonsense": (SECRET, 0o600, ["STORAGE is not a database URL"]),
    "away": (f"postgresql://me:{SECRET}@127.0.0.1:1/db\n", 0o600, ["me:***@127.0.0.1:1/db"]),
}


@pytest.mark.parametrize("mistake", ADDRESS_FILES)
def test_a_wrong_file_with_an_address_is_one_line_without_the_password(
    tmp_path: Path, refused: Callable[..., str], study_file: WriteStudy, mistake: str
) -> None:
    content, mode, words = ADDRESS_FILES[mistake]
    path = tmp_path / "address"
    if content is not None:
        path.write_text(content)
        path.chmod(mode)
    said = refused(NAME=study_file(), STORAGE=f"file:{path}")
    for word in words:
        assert word in said
    assert "hunter2" not in said


def a_folder(path: Path) -> None:
    path.mkdir()


def text(path: Path) -> None:
    path.write_text("my notes, " * 1000)


def below_a_file(path: Path) -> None:
    path.parent.write_text("notes")


def half_a_database(path: Path) -> None:
    whole = path.with_name("whole.db")
    open_storage(f"sqlite:///{whole}").engine.dispose()
    path.write_bytes(whole.read_bytes()[:5000])


def scribbled_on(path: Path) -> None:
    open_storage(f"sqlite:///{path}").engine.dispose()
    content = path.read_bytes()
    path.write_bytes(content[:100] + b"\xff" * 3000 + content[3100:])


def another_programs(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE bookmarks (url TEXT)")


def of_a_later_optuna(path: Path) -> None:
    open_storage(f"sqlite:///{path}").engine.dispose()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v99.0.0'")


# what lies where the database should be, and words of the line
DATABASES: dict[Callable[[Path], None], list[str]] = {
    a_folder: ["cannot open sqlite", "it is not a file"],
    text: ["cannot open sqlite", "not a database"],
    below_a_file: ["cannot open sqlite", "Not a directory"],
    half_a_database: ["cannot open sqlite", "malformed"],
    scribbled_on: ["cannot open sqlite", "malformed"],
    another_programs: ["another program's database", "'bookmarks'", "name a new file"],
    of_a_later_optuna: ["cannot use sqlite", "updating optuna"],
}


@pytest.mark.parametrize("command", ["study", "dashboard"])
@pytest.mark.parametrize("make", DATABASES, ids=lambda make: make.__name__)
def test_a_file_that_is_no_trial_database_is_left_alone(
    tmp_path: Path,
    refused: Callable[..., str],
    study_file: WriteStudy,
    make: Callable[[Path], None],
    command: str,
) -> None:
    path = tmp_path / "kept" / "s.db"
    if make is not below_a_file:
        path.parent.mkdir()
    make(path)
    made = ["cache", "runs", "s.db-wal", "s.db-shm"] if make is of_a_later_optuna else []
    said = refused(command, NAME=study_file(), STORAGE=f"sqlite:///{path}", may_make=made)
    absent = command == "dashboard" and not path.is_file()
    for word in ["no trial database at"] if absent else DATABASES[make]:
        assert word in said


@pytest.mark.parametrize("command", ["study", "studies", "trials", "dashboard"])
def test_a_server_that_speaks_something_else_is_one_line(
    refused: Callable[..., str], study_file: WriteStudy, command: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with server.accept()[0] as caller:
                caller.recv(100)
                caller.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        Thread(target=answer, daemon=True).start()
        port = server.getsockname()[1]
        url = f"postgresql://me:{SECRET}@127.0.0.1:{port}/db?sslmode=prefer"
        said = refused(command, NAME=study_file(), STORAGE=url)
    assert f"cannot open postgresql://me:***@127.0.0.1:{port}/db" in said


@pytest.fixture
def stored(tmp_path: Path) -> Iterator[optuna.Study]:
    """A study called small in the database under RUNS, as genstudy and Optuna see it."""
    opened = open_storage(f"sqlite:///{tmp_path / 'runs' / 'studies.db'}")
    yield optuna.create_study(study_name="small", storage=opened)
    opened.engine.dispose()


@pytest.mark.parametrize("written", ["", "{", "[]", "{}", '{"shape": 3}', "null", "\x00", 5, None])
def test_a_stored_definition_that_nobody_can_read_is_one_line(
    refused: Callable[..., str], study_file: WriteStudy, stored: optuna.Study, written: object
) -> None:
    stored.set_user_attr("definition", written)
    stored.ask()
    said = refused(NAME=study_file(), may_make=["cache", "studies.db.study-0.lock"])
    assert "study 'small'" in said
    assert "another RUNS" in said


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"NAME": "smal"}, ["no study 'smal'", "small"]),
        ({"NAME": "x" * 9000}, ["no study 'xxx"]),
        ({"CSV": "/proc/x.csv"}, ["/proc", ".csv"]),
        ({"CSV": "/nowhere/x.csv"}, ["cannot write /nowhere/x.csv", "an existing folder"]),
        ({"CSV": "/tmp"}, ["cannot write /tmp: name a file"]),
        ({"CSV": "/tmp/" + "x" * 300}, ["File name too long"]),
        ({"PARQUET": "/nowhere/x.parquet"}, ["cannot write /nowhere/x.parquet"]),
        ({"CSV": "RUNS/studies.db"}, ["studies.db", "the trial database", "another file"]),
        ({"CSV": "RUNS/t", "PARQUET": "RUNS/t"}, ["CSV and PARQUET", "two files"]),
    ],
)
def test_a_table_that_cannot_be_shown_or_written_is_one_line(
    tmp_path: Path,
    refused: Callable[..., str],
    stored: optuna.Study,
    variables: dict[str, str],
    words: list[str],
) -> None:
    places = {k: v.replace("RUNS", str(tmp_path / "runs")) for k, v in variables.items()}
    said = refused("trials", **{"NAME": "small", **places})
    for word in words:
        assert word in said


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"PORT": "0"}, ["PORT='0' is not a whole number from 1 to 65535"]),
        ({"PORT": "http"}, ["PORT='http' is not"]),
        ({"HOST": "256.256.256.256"}, ["cannot serve on 256.256.256.256:8080", "set PORT"]),
        ({"HOST": "a..b"}, ["cannot serve on a..b:8080", "an address of this machine"]),
        ({"HOST": "198.51.100.7"}, ["cannot serve on 198.51.100.7", "HOST"]),
        ({"HOST": "::zz"}, ["cannot serve on ::zz", "HOST"]),
        ({"HOST": "x" * 5000}, ["cannot serve on xxx", "HOST"]),
    ],
)
def test_a_dashboard_that_cannot_be_served_is_one_line(
    refused: Callable[..., str],
    stored: optuna.Study,
    variables: dict[str, str],
    words: list[str],
) -> None:
    said = refused("dashboard", **variables)
    for word in words:
        assert word in said
