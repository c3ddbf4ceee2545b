"""Somebody else's finished study, on a disk that can only be read: everything that reads works.

Root may write everywhere, so that the processes of these tests first give that right away.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import optuna
import pytest

from search.worker.checkpoints import Checkpoints
from storage import best, curves, studies, trials
from storage.database import sqlite_file
from storage.database.connection import open_storage
from storage.errors import DatabaseUnreachable
from storage.paths import RunPaths
from tests.conftest import contents
from tests.preloaded import Preloaded
from tests.user import User

# CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH are capabilities 1 and 2, in each of three sets.
WITHOUT_ROOTS_RIGHTS = """
import ctypes

libc = ctypes.CDLL(None, use_errno=True)
header = (ctypes.c_uint32 * 2)(0x20080522, 0)
sets = (ctypes.c_uint32 * 6)()
assert libc.capget(header, sets) == 0
for place in range(3):
    sets[place] &= ~0b110
assert libc.capset(header, sets) == 0, ctypes.get_errno()
"""

READ = (
    WITHOUT_ROOTS_RIGHTS
    + """
import sys
from storage import best, curves, studies, trials

url = sys.argv[1]
print(len(trials("small", storage=url)), len(curves("small", storage=url)),
      len(best("small", storage=url)), len(studies(storage=url)))
"""
)


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Path]:
    """A finished study of two trials; nothing below may be written after ``close`` is called."""
    paths = RunPaths(tmp_path / "somebody" / "runs")
    storage = open_storage(paths.database_url)
    study = optuna.create_study(study_name="small", storage=storage)
    for value in (0.5, 0.25):
        trial = study.ask()
        trial.suggest_float("lr", 0, 1)
        trial.report(value, 0)
        study.tell(trial, value)
    storage.engine.dispose()
    yield paths.root
    permit(paths.root, True)


def permit(root: Path, writing: bool) -> None:
    """Allow or forbid to write ``root`` and what is in it."""
    for path in [root, *root.rglob("*")]:
        mode = path.stat().st_mode & 0o777
        path.chmod(mode | 0o200 if writing else mode & ~0o222)


def read_all(preloaded: Preloaded, runs: Path) -> str:
    process = preloaded.run_program(READ, RunPaths(runs).database_url)
    out, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    return out


def test_frames_of_a_finished_study(preloaded: Preloaded, runs: Path) -> None:
    permit(runs, False)
    before = contents(runs)
    assert read_all(preloaded, runs) == "2 2 1 1\n"
    assert contents(runs) == before


@pytest.mark.parametrize("left", [("-wal", "-shm"), ("-wal",)])
def test_what_a_writer_has_left_in_its_log_is_read(
    preloaded: Preloaded, runs: Path, left: tuple[str, ...]
) -> None:
    """A machine that went down leaves a log. Without its shared memory, a copy is read."""
    path = runs / "studies.db"
    with closing(sqlite3.connect(path)) as writer:
        writer.execute("PRAGMA journal_mode=WAL")
        writer.execute("UPDATE studies SET study_name = 'old'")
        writer.commit()
        writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        writer.execute("UPDATE studies SET study_name = 'small'")
        writer.commit()
        copied = runs.with_name("copied")
        copied.mkdir()
        for end in ("", *left):
            shutil.copy(f"{path}{end}", f"{copied / path.name}{end}")
    permit(copied, False)
    before = contents(copied)
    assert read_all(preloaded, copied) == "2 2 1 1\n"
    assert contents(copied) == before
    permit(copied, True)


def test_commands_that_read(user: User, runs: Path, tmp_path: Path) -> None:
    user.before = WITHOUT_ROOTS_RIGHTS + f"\nimport os\nos.chdir({str(tmp_path)!r})\n"
    permit(runs, False)
    before = contents(runs)
    code, out, error = user.run("trials", NAME="small", RUNS=runs)
    assert (code, error) == (0, ""), error
    assert "small: 2 complete" in out
    code, out, error = user.run("studies", RUNS=runs)
    assert (code, error) == (0, ""), error
    code, out, error = user.run("report", NAME="small", RUNS=runs)
    assert (code, error) == (0, ""), error
    assert "can only be read: the report is written elsewhere" in out
    assert (tmp_path / "runs" / "reports" / "small" / "index.html").exists()
    code, out, error = user.run("study", NAME="cae", DATA="digits", RUNS=runs)
    assert code == 2
    assert error.startswith("error: cannot write under RUNS=")
    assert contents(runs) == before


def test_a_database_that_can_only_be_read_keeps_no_study(
    user: User, runs: Path, tmp_path: Path
) -> None:
    user.before = WITHOUT_ROOTS_RIGHTS
    permit(runs, False)
    url = RunPaths(runs).database_url
    code, _, error = user.run("study", NAME="cae", DATA="digits", STORAGE=url)
    assert code == 2
    assert error.startswith("error: cannot open sqlite:///")
    assert error.count("\n") == 1


def test_a_file_is_read_as_it_stands_where_nobody_writes(runs: Path) -> None:
    path = runs / "studies.db"
    with closing(sqlite_file.connect_to_read(path)) as connection:
        assert connection.execute("SELECT count(*) FROM trials").fetchone() == (2,)
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            connection.execute("DELETE FROM trials")
    assert not Path(f"{path}-shm").exists()


def test_looking_creates_no_tables_in_a_database_of_optunas_own(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'o.db'}"
    study = optuna.create_study(study_name="one", storage=url)
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    opened = open_storage(url, create=False)
    assert len(optuna.load_study(study_name="one", storage=opened).trials) == 1
    opened.engine.dispose()
    assert len(trials("one", storage=url)) == len(best("one", storage=url)) == 1
    assert len(curves("one", storage=url)) == 0
    assert len(studies(storage=url)) == 1
    with closing(sqlite3.connect(tmp_path / "o.db")) as connection:
        found = connection.execute("SELECT name FROM sqlite_master WHERE name LIKE 'genstudy%'")
        assert found.fetchall() == []
    with pytest.raises(DatabaseUnreachable, match="run a study first"):
        open_storage(f"sqlite:///{tmp_path / 'missing.db'}", create=False)
    assert [path.name for path in tmp_path.iterdir()] == ["o.db"]


def test_a_checkpoint_that_cannot_be_removed_harms_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk may become read-only in the moment in which a trial has ended."""
    kept = Checkpoints(path=tmp_path / "trial-0.safetensors", of={}, tell=print)

    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "unlink", refuse)
    kept.remove()
