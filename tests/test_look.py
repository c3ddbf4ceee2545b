"""`make look`, the first lines of a study on a folder, and a stored study on other images."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from models.data.loading import load_images
from search.__main__ import main
from search.errors import StudyChanged
from search.setup.folder_lines import study_lines
from search.setup.stored_study import StudyIdentity, check_identity
from tests.conftest import blank_images

Look = Callable[..., str]


def write(path: Path, value: int = 100, size: tuple[int, int] = (12, 10)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value % 256, 0, 20)).save(path)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Two classes with odd names, and all that is not read."""
    folder = tmp_path / "pets"
    for position, name in enumerate(("[bold] $5_$10", "日本")):
        for number in range(10):
            write(folder / name / f"{number}.png", position * 50 + number)
    write(folder / "a\nb" / "0.png")
    write(folder / ".ipynb_checkpoints" / "0.png")
    (folder / "日本" / "moving.gif").write_bytes(b"GIF89a")
    return folder


@pytest.fixture
def look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Look:
    """Run the command in this process and return what it prints."""

    def run(**variables: object) -> str:
        for name, value in {"RUNS": tmp_path / "runs", **variables}.items():
            monkeypatch.setenv(name, str(value))
        assert main(["look"]) == 0
        said = capfd.readouterr()
        assert said.err == ""
        return said.out

    monkeypatch.setattr("gc.freeze", lambda: None)
    return run


def test_look_says_what_a_folder_holds(tmp_path: Path, look: Look, pets: Path) -> None:
    said = look(DATA=f"folder:{pets}")
    lines = [" ".join(line.split()) for line in said.splitlines()]
    for line in (
        f"folder {pets}",
        "images 21, 12x10",
        "colours 21 RGB",
        "split 15 training, 4 validation, 2 test (test and validation images are held out)",
        "classes 3, of 1 to 10 images",
        "[bold] $5_$10 10 7 1 2",
        r"a\nb 1 1 0 0",
        "not read 1 file: .gif is not read",
        "1 .ipynb_checkpoints folder: left out",
        f"picture {tmp_path}/runs/look/folder-pets.png",
    ):
        assert line in lines, said
    with Image.open(tmp_path / "runs" / "look" / "folder-pets.png") as sheet:
        assert sheet.width > sheet.height > 200


def test_look_shows_what_a_study_makes_of_the_images(
    tmp_path: Path, look: Look, pets: Path, study_file: Callable[..., Path]
) -> None:
    said = look(DATA=f"folder:{pets}", NAME=study_file())
    assert "use       study small takes 1x28x28: resized from 12x10 to 28x28" in said
    assert "colours are lost: 21 images in colour become grey" in said
    assert "cropped from the centre: 17% of the median image is cut off" in said
    with Image.open(tmp_path / "runs" / "look" / "folder-pets.png") as sheet:
        row = sheet.height / 6  # three classes, as they are and as they are used
        first, second = (
            sheet.convert("RGB").getpixel((sheet.width * 2 // 5, int(row * place + 40)))
            for place in (0.6, 1.5)
        )
    assert len(set(second)) == 1  # type: ignore[arg-type]
    assert len(set(first)) > 1  # type: ignore[arg-type]


def test_look_names_every_broken_file_and_goes_on(look: Look, pets: Path) -> None:
    for number in (3, 5):
        (pets / "日本" / f"{number}.png").write_bytes(b"junk")
    (pets / "日本" / os.fsdecode(b"\xff.png")).write_bytes(b"junk")
    said = look(DATA=f"folder:{pets}")
    assert "images    22 (3 broken), 12x10" in said
    for name in ("日本/3.png", "日本/5.png", r"日本/\xff.png"):
        assert f"cannot decode {name}" in said
    assert "a study reads no folder with a broken file" in said


@pytest.mark.parametrize("inside", ["pets", "pets/train/cats"])
def test_look_says_that_one_class_is_none(tmp_path: Path, look: Look, inside: str) -> None:
    for number in range(10):
        write(tmp_path / "all" / inside / f"{number}.png", number)
    said = look(DATA=f"folder:{tmp_path / 'all'}")
    assert "classes   none: all images lie in one folder, and one class is no class" in said


def test_look_without_classes_shows_the_images_alone(tmp_path: Path, look: Look) -> None:
    for number in range(30):
        write(tmp_path / "flat" / f"{number}.png", number, size=(10 + number, 10))
    said = look(DATA=f"folder:{tmp_path / 'flat'}", BACKGROUND="black")
    assert "classes   none: no class folders" in said
    assert "30, 10x10 to 39x10, median 25x10 (30 sizes)" in said
    assert (tmp_path / "runs" / "look" / "folder-flat.png").is_file()


def test_look_names_test_images_that_are_trained_on(tmp_path: Path, look: Look) -> None:
    for part, values in {"train": range(12), "val": range(20, 23), "test": range(10, 14)}.items():
        for value in values:
            write(tmp_path / "set" / part / f"{part}{value}.png", value)
    assert (
        "copies    2 validation or test images are training images too, such as test/test10.png, "
        "the same file as train/train10.png: values on them say little\n"
    ) in look(DATA=f"folder:{tmp_path / 'set'}")
    for value in (10, 11):
        write(tmp_path / "set" / "test" / f"test{value}.png", value + 30)
    assert "copies" not in look(DATA=f"folder:{tmp_path / 'set'}")


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({}, "DATA is not set; say which folder: make look DATA=folder:PATH"),
        ({"DATA": "digits"}, "DATA=digits is no folder"),
        ({"DATA": "folder:/nowhere"}, "no folder /nowhere"),
        ({"DATA": "folder:.", "BACKGROUND": "pink"}, "BACKGROUND='pink' is no colour: white"),
    ],
)
def test_a_mistake_is_one_line(
    refused: Callable[..., str], variables: dict[str, str], words: str
) -> None:
    assert words in refused("look", **variables)


def test_a_study_begins_with_what_it_does_to_the_images(pets: Path, tmp_path: Path) -> None:
    for path in (pets / "日本").glob("*.png"):
        Image.new("RGBA", (12, 10), (0, 0, 0, 0)).save(path)
    splits = load_images(f"folder:{pets}", root=tmp_path, cache=tmp_path / "cache", shape=(1, 5, 6))
    assert study_lines(splits) == [
        f"folder:{pets}: 21 images of 12x10, 11 RGB, 10 RGB with alpha; 3 classes of 1 to 10 "
        "images; 15 to train, 4 to validate, 2 to test",
        "  used as 1x5x6: transparency in 10 images: shown on #ffffff",
        "  not read: 1 file: .gif is not read, 1 .ipynb_checkpoints folder: left out",
    ]
    assert study_lines(blank_images((1, 28, 28))) == []  # a set with a name


STORED = StudyIdentity(
    model="models.cae:CAE", metric="mse", direction="minimize", data="folder:/home/ann/pics",
    pixels="aaaa", shape=(1, 28, 28), space={}, epochs=1, file_epochs=1, seed=0, file_seed=0,
    configurations="c", token="t", labelled="llll", background="",
)  # fmt: skip
ELSEWHERE = replace(STORED, data="folder:/data/pics")
OLD: dict[str, Any] = {"labelled": None, "background": None}


@pytest.mark.parametrize(
    ("stored", "now"),
    [
        (STORED, ELSEWHERE),
        (replace(STORED, **OLD), STORED),
        (replace(STORED, **OLD), replace(ELSEWHERE, background="#ffffff")),
    ],
)
def test_the_same_images_elsewhere_go_on(stored: StudyIdentity, now: StudyIdentity) -> None:
    check_identity("small", stored, now)


@pytest.mark.parametrize(
    ("stored", "now", "words"),
    [
        (
            STORED,
            replace(ELSEWHERE, pixels="bbbb"),
            "data folder:/home/ann/pics, now folder:/data/pics; pixels of the images aaaa, now "
            "bbbb: its trials",
        ),
        (STORED, replace(STORED, labelled="mmmm"), "classes or attributes of the images llll"),
        (
            replace(STORED, background="#ffffff"),
            replace(STORED, background="#000000", pixels="bbbb"),
            "made with BACKGROUND #ffffff, now #000000: its trials",
        ),
        (
            replace(STORED, **OLD),
            replace(STORED, background="#ffffff", pixels="bbbb"),
            "(it shows hidden colours, as BACKGROUND=none does)",
        ),
    ],
)
def test_other_images_are_refused_with_what_differs(
    stored: StudyIdentity, now: StudyIdentity, words: str
) -> None:
    with pytest.raises(StudyChanged) as refused:
        check_identity("small", stored, now)
    assert words in str(refused.value)
