"""What is read back is what was written, of every kind of file, to the last bit."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest
import torch
from safetensors.torch import save_file

from models.errors import TensorFileError
from models.sealed_files import (
    atomic_file,
    check_seal,
    is_whole,
    read_seal,
    set_aside,
    trust,
    whole_state,
)
from models.seals import Seal, check_content, is_whole_content
from models.tensor_files import read_tensors, tensor_content, write_tensors
from storage.files import atomic
from storage.files.exports import atomic_folder
from storage.files.sealed_json import read_sealed, write_sealed

OF = {"kind of file": "trial", "study": "3f2a", "trial": 7, "parameters": {"lr": 0.1}}
TENSORS = {"weight": torch.arange(6.0), "steps": torch.tensor(3)}


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    path = tmp_path / "trial-7.safetensors"
    with atomic_file(path) as beside:
        write_tensors(beside, TENSORS, {"about": {"epoch": 2}}, of=OF, attempt=4)
    return path


def flip(path: Path, place: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


def test_what_was_written_is_read(sealed: Path) -> None:
    about, tensors = read_tensors(sealed, "about", of=OF)
    assert about == {"epoch": 2}
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)
    assert check_seal(sealed, of=OF) == Seal(of=OF, attempt=4)


def test_every_single_bit_is_watched(sealed: Path) -> None:
    content = sealed.read_bytes()
    assert is_whole_content(content)
    for place in range(len(content)):
        for bit in range(8):
            changed = bytearray(content)
            changed[place] ^= 1 << bit
            assert not is_whole_content(bytes(changed)), (place, bit)


@pytest.mark.parametrize("keep", [0, 7, 8, 50, -1, -20])
def test_a_file_that_was_cut_off_is_refused(sealed: Path, keep: int) -> None:
    sealed.write_bytes(sealed.read_bytes()[:keep])
    with pytest.raises(TensorFileError):
        read_tensors(sealed, "about", of=OF)


def test_zeros_in_the_place_of_content_are_refused(sealed: Path) -> None:
    sealed.write_bytes(bytes(sealed.stat().st_size))
    assert not is_whole(sealed, of=OF)


@pytest.mark.parametrize(
    ("of", "words"),
    [
        ({**OF, "trial": 8}, "another trial"),
        ({**OF, "study": "77", "parameters": {"lr": 0.2}}, "another study and parameters"),
        ({**OF, "more": 1}, "another more"),
        ({}, "another kind of file"),
    ],
    ids=["trial", "study-and-parameters", "more", "nothing"],
)
def test_a_file_of_something_else_is_refused_and_says_of_what(
    sealed: Path, of: dict[str, Any], words: str
) -> None:
    with pytest.raises(TensorFileError, match=f"it belongs to {words}$"):
        read_tensors(sealed, "about", of=of)


def test_tuples_belong_to_what_json_makes_of_them(tmp_path: Path) -> None:
    write_tensors(tmp_path / "c", TENSORS, {}, of={"shape": (1, 2)})
    assert is_whole(tmp_path / "c", of={"shape": [1, 2]})
    assert is_whole(tmp_path / "c", of={"shape": (1, 2)})


def test_a_seal_of_another_version_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = Seal(of=OF, version=99).entries()
    monkeypatch.setattr(Seal, "entries", lambda seal: entries)
    write_tensors(tmp_path / "c", TENSORS, {}, of=OF)
    with pytest.raises(TensorFileError, match="another version"):
        check_seal(tmp_path / "c", of=OF)


def test_a_file_of_an_older_version_is_read_as_it_was(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "old", metadata={"about": json.dumps({"epoch": 1})})
    about, _ = read_tensors(tmp_path / "old", "about", of=OF)
    assert about == {"epoch": 1}
    assert read_seal(tmp_path / "old") is None
    with (tmp_path / "old").open("ab") as file:
        file.write(b"0")
    with pytest.raises(TensorFileError, match="end"):
        read_tensors(tmp_path / "old", "about", of=OF)


def test_content_for_a_database_is_sealed_alike(tmp_path: Path) -> None:
    content = tensor_content(TENSORS, {"about": 1}, of=OF)
    (tmp_path / "c").write_bytes(content)
    assert read_tensors(tmp_path / "c", "about", of=OF)[0] == 1
    assert not is_whole_content(content[:-1] + b"?")


def age(path: Path) -> None:
    """Wait until a later change of ``path`` shows in its times."""
    time.sleep(0.11)
    assert path.exists()


def test_a_file_that_was_found_whole_is_read_again_only_when_it_changed(
    sealed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    age(sealed)
    read: list[Path] = []

    def note(file: IO[bytes]) -> Seal | None:
        read.append(sealed)
        return check_content(file)

    monkeypatch.setattr("models.sealed_files.check_content", note)
    for _ in range(3):
        check_seal(sealed, of=OF)
    assert len(read) == 1
    flip(sealed, -1)
    assert not is_whole(sealed, of=OF)
    assert len(read) == 2


def test_a_file_that_changes_within_one_tick_of_the_clock_is_read_again(sealed: Path) -> None:
    before = sealed.stat()
    assert is_whole(sealed, of=OF)
    flip(sealed, -1)
    os.utime(sealed, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not is_whole(sealed, of=OF)


def test_another_process_is_trusted_as_long_as_the_file_stays(
    sealed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = whole_state(sealed)
    monkeypatch.setattr("models.sealed_files._whole", {})
    monkeypatch.setattr("models.sealed_files.check_content", lambda file: pytest.fail("it is read"))
    trust(sealed, state)
    assert check_seal(sealed, of=OF) == Seal(of=OF, attempt=4)
    monkeypatch.undo()
    trust(sealed, state)
    flip(sealed, -1)
    assert not is_whole(sealed, of=OF)


def test_what_is_set_aside_is_kept_and_bounded(tmp_path: Path) -> None:
    for number in range(6):
        path = tmp_path / f"trial-{number}.safetensors"
        path.write_text(str(number))
        kept = set_aside(path)
        assert kept.read_text() == str(number)
        assert not path.exists()
    names = sorted(path.name for path in (tmp_path / "set-aside").iterdir())
    assert names == [f"trial-{number}.safetensors" for number in (3, 4, 5)]


PLAIN = {"trial": 7, "valid": {"mse": 0.1 + 0.2}, "curve": [1, None, "ü"], "nan": float("inf")}


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_sealed(tmp_path / "r.json", PLAIN)
    assert read_sealed(tmp_path / "r.json") == PLAIN
    (tmp_path / "old.json").write_text(json.dumps(PLAIN))
    assert read_sealed(tmp_path / "old.json") == PLAIN


def test_no_bit_of_a_record_changes_what_is_read(tmp_path: Path) -> None:
    """What stands between the values may change: spaces, and the name of the seal."""
    path = tmp_path / "r.json"
    write_sealed(path, PLAIN)
    content = path.read_bytes()
    refused = 0
    for place in range(len(content)):
        for bit in range(8):
            changed = bytearray(content)
            changed[place] ^= 1 << bit
            path.write_bytes(changed)
            found = read_sealed(path)
            refused += found is None
            if found is not None:
                assert {name: found.get(name) for name in PLAIN} == PLAIN, (place, bit)
    assert refused > 6 * len(content)


@pytest.mark.parametrize("content", [b"", b"[]", b"7", b"{", b"\xff", b"[" * 100_000])
def test_a_record_that_is_none_is_not_read(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "r.json").write_bytes(content)
    assert read_sealed(tmp_path / "r.json") is None
    assert read_sealed(tmp_path / "gone.json") is None


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the system is asked, in its order: to sync which place, and to give which name."""
    asked: list[str] = []

    def sync(file: int) -> None:
        asked.append(f"sync {Path(f'/proc/self/fd/{file}').readlink()}")

    def naming(inner: Callable[[Path, Path], Path]) -> Callable[[Path, Path], Path]:
        def name(path: Path, target: Path) -> Path:
            asked.append(f"name {target}")
            return inner(path, target)

        return name

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", naming(Path.replace))
    monkeypatch.setattr(Path, "rename", naming(Path.rename))
    return asked


@pytest.mark.parametrize("write", [atomic_file, atomic.atomic_file])
def test_a_file_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, done: list[str], write: Callable[[Path], Any]
) -> None:
    with write(tmp_path / "a") as beside:
        beside.write_text("content")
    assert done == [f"sync {beside}", f"name {tmp_path / 'a'}", f"sync {tmp_path}"]


def test_a_folder_is_on_the_disk_before_it_has_its_name(tmp_path: Path, done: list[str]) -> None:
    with atomic_folder(tmp_path / "1") as staging:
        (staging / "a").write_text("a")
        (staging / "b").write_text("b")
    assert sorted(done[:2]) == [f"sync {staging / 'a'}", f"sync {staging / 'b'}"]
    assert done[2:] == [f"sync {staging}", f"name {tmp_path / '1'}", f"sync {tmp_path}"]
