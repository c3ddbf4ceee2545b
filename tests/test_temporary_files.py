"""What killed processes leave is removed, and nothing that anybody still writes; pictures are
neither doubled nor orphaned."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest

from storage.database.connection import open_storage
from storage.files import temporary
from storage.files.artifacts import attach_to_trial, trial_pictures
from storage.files.atomic import atomic_file, temporary_folder
from storage.files.exports import atomic_folder
from storage.files.temporary import LEFT_FOR, machine_digits, remove_left_behind, temporary_name
from tests.trials import MakeContext, run_one

FEW_DIGITS = True


def dead_process() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def name_of(process: int, *, machine: str | None = None, name: str = "a.png") -> str:
    return f".{name}.{machine or machine_digits()}{process:08x}{'0f' * 8}"


def test_what_a_killed_process_left_is_removed_at_once(tmp_path: Path) -> None:
    gone = dead_process()
    (tmp_path / name_of(gone)).write_text("half")
    (tmp_path / name_of(gone, name="1")).mkdir()
    (tmp_path / name_of(gone, name="1") / "weights").write_text("half")
    (tmp_path / f"{name_of(gone, name='2')}.old").mkdir()
    assert remove_left_behind(tmp_path) == 3
    assert list(tmp_path.iterdir()) == []


def test_what_a_living_process_writes_stays(tmp_path: Path) -> None:
    kept = [name_of(os.getpid()), name_of(1), temporary_name("b")]
    for name in kept:
        (tmp_path / name).write_text("half")
        os.utime(tmp_path / name, (0, 0))
    assert remove_left_behind(tmp_path) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)


def test_what_another_machine_wrote_goes_after_a_day_without_a_change(tmp_path: Path) -> None:
    old, new, changed = (
        name_of(dead_process(), machine="0" * 8, name=name) for name in ("old", "new", "changed")
    )
    for name in (old, new, changed):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("half")
    before = time.time() - LEFT_FOR - 60
    for name in (old, changed):
        os.utime(tmp_path / name, (before, before))
    os.utime(tmp_path / old / "file", (before, before))
    assert remove_left_behind(tmp_path) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([new, changed])


def test_a_machine_that_does_not_say_which_it_is_is_taken_for_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unknown(path: Path) -> str:
        raise OSError

    machine_digits.cache_clear()
    monkeypatch.setattr(Path, "read_text", unknown)
    digits = {machine_digits.__wrapped__() for _ in range(5)}
    assert len(digits) == 5


def test_files_of_a_person_stay(tmp_path: Path) -> None:
    names = [".git", ".notes.txt", ".DS_Store", ".a.png.0123", "a.png", f".{'0f' * 16}"]
    for name in names:
        (tmp_path / name).write_text("mine")
        os.utime(tmp_path / name, (0, 0))
    assert remove_left_behind(tmp_path) == 0
    assert remove_left_behind(tmp_path / "gone") == 0


KILLED = """
import os, signal, sys
from pathlib import Path
from storage.files import atomic, exports
place = Path(sys.argv[1])
kinds = {
    "file": lambda: atomic.atomic_file(place / "a.png"),
    "folder": lambda: exports.atomic_folder(place / "1"),
    "drawing": lambda: atomic.temporary_folder(place),
}
with kinds[sys.argv[2]]() as beside:
    (beside / "a" if beside.is_dir() else beside).write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("kind", ["file", "folder", "drawing"])
def test_a_process_that_is_killed_leaves_nothing_for_long(tmp_path: Path, kind: str) -> None:
    subprocess.run([sys.executable, "-c", KILLED, tmp_path, kind], check=False)
    assert len(list(tmp_path.iterdir())) == 1
    assert remove_left_behind(tmp_path) == 1


def test_what_is_written_has_a_temporary_name_until_it_is_whole(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "a") as file, atomic_folder(tmp_path / "1") as folder:
        file.write_text("a")
        with temporary_folder(tmp_path) as drawn:
            assert all(temporary.TEMPORARY.fullmatch(p.name) for p in (file, folder, drawn))
            assert remove_left_behind(tmp_path) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "a"]


def test_a_trial_that_goes_on_attaches_no_picture_twice(tmp_path: Path) -> None:
    storage = open_storage(f"sqlite:///{tmp_path / 's.db'}")
    trial = optuna.create_study(storage=storage).ask()
    picture, artifacts = tmp_path / "samples.png", tmp_path / "artifacts"
    for content in ("first", "second"):
        picture.write_text(content)
        attached = attach_to_trial(artifacts, trial, picture)
    assert trial_pictures(storage, trial._trial_id) == {"samples.png": attached}
    assert [path.read_text() for path in artifacts.iterdir()] == ["second"]


def test_an_id_that_is_a_path_is_not_written_to(tmp_path: Path) -> None:
    """A shared database may say anything."""
    storage = open_storage(f"sqlite:///{tmp_path / 's.db'}")
    trial = optuna.create_study(storage=storage).ask()
    victim, picture = tmp_path / "victim", tmp_path / "samples.png"
    victim.write_text("mine")
    picture.write_text("picture")
    about = f'{{"artifact_id": "../victim", "filename": "{picture.name}"}}'
    storage.set_trial_system_attr(trial._trial_id, "artifacts:x", about)
    attach_to_trial(tmp_path / "artifacts", trial, picture)
    assert victim.read_text() == "mine"


def test_a_kill_before_the_database_knows_leaves_no_orphan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = open_storage(f"sqlite:///{tmp_path / 's.db'}")
    trial = optuna.create_study(storage=storage).ask()
    seen: list[str] = []

    def look(*words: object, **named: object) -> None:
        seen.extend(path.name for path in (tmp_path / "artifacts").iterdir())
        raise KeyboardInterrupt

    monkeypatch.setattr(type(storage), "set_trial_system_attr", look)
    (tmp_path / "samples.png").write_text("picture")
    with pytest.raises(KeyboardInterrupt):
        attach_to_trial(tmp_path / "artifacts", trial, tmp_path / "samples.png")
    assert len(seen) == 1
    assert temporary.TEMPORARY.fullmatch(seen[0])
    assert list((tmp_path / "artifacts").iterdir()) == []


def test_a_trial_leaves_only_pictures_that_the_database_names(make_context: MakeContext) -> None:
    context = make_context()
    run_one(context)
    storage = context.queue.storage
    named = trial_pictures(storage, context.queue.id_of(0)).values()
    assert {path.name for path in context.run.paths.artifacts.iterdir()} == set(named)
    assert named
