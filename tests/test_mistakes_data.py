"""Image folders and data sets with mistakes in them: one line each, nothing is changed."""

from __future__ import annotations

import io
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.data.loading import load_images

WriteStudy = Callable[..., Path]
WITHOUT_SHAPE = {"shape=(1, 28, 28), ": ""}


def picture(value: int = 100, size: tuple[int, int] = (12, 10), kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (value % 256, 0, 20)).save(file, kind)
    return file.getvalue()


def write_pets(folder: Path) -> Path:
    for name in ("cats", "dogs"):
        (folder / name).mkdir(parents=True)
        for number in range(6):
            (folder / name / f"{number}.png").write_bytes(picture(number))
    return folder


def chunk(kind: bytes, content: bytes) -> bytes:
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG that says how large it is, whatever it holds."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


# what stands where one image of a folder should be, and words of the line
FILES: dict[str, tuple[str, bytes, list[str]]] = {
    "empty": ("x.png", b"", ["cannot decode", "x.png", "replace or remove that file"]),
    "text": ("x.png", b"my notes\n" * 9, ["cannot decode", "x.png"]),
    "html": ("x.jpg", b"<!DOCTYPE html><title>404</title>", ["cannot decode", "x.jpg"]),
    "truncated-png": ("x.png", picture()[:-30], ["cannot decode", "x.png"]),
    "truncated-jpeg": ("x.jpg", picture(kind="JPEG")[:300], ["cannot decode", "x.jpg"]),
    "truncated-webp": ("x.webp", picture(kind="WEBP")[:20], ["cannot decode", "x.webp"]),
    "truncated-tiff": ("x.tif", picture(kind="TIFF")[:40], ["cannot decode", "x.tif"]),
    "truncated-bmp": ("x.bmp", picture(kind="BMP")[:50], ["cannot decode", "x.bmp"]),
    "only-a-signature": ("x.png", b"\x89PNG\r\n\x1a\n", ["cannot decode", "x.png"]),
    "no-pixels": ("x.png", png(0, 0), ["cannot decode", "x.png"]),
    "fewer-pixels-than-said": ("x.png", png(9, 9, b"\0"), ["cannot decode", "x.png"]),
    "a-bomb": ("x.png", png(60_000, 60_000), ["cannot decode", "decompression bomb"]),
    "a-small-bomb": ("x.png", png(9_999, 9_999), ["cannot decode", "x.png"]),
    "junk-ppm": ("x.ppm", b"P6 99999999999999999999 1 255\n", ["cannot decode", "x.ppm"]),
    "a-pickle": ("x.png", b"\x80\x04cos\nsystem\n(S'true'\ntR.", ["cannot decode", "x.png"]),
    "a-script": ("x.ppm", b"#!/bin/sh\nrm -rf /tmp/x\n", ["cannot decode", "x.ppm"]),
}


@pytest.mark.parametrize("mistake", FILES)
def test_a_damaged_image_is_one_line(
    tmp_path: Path, refused: Callable[..., str], study_file: WriteStudy, mistake: str
) -> None:
    name, content, words = FILES[mistake]
    folder = write_pets(tmp_path / "pets")
    (folder / "dogs" / name).write_bytes(content)
    said = refused(NAME=study_file(), DATA=f"folder:{folder}")
    for word in words:
        assert word in said


def a_missing_folder(folder: Path) -> None:
    folder.rename(folder.with_name("moved"))


def a_file(folder: Path) -> None:
    a_missing_folder(folder)
    folder.write_bytes(picture())


def nothing(folder: Path) -> None:
    a_missing_folder(folder)
    folder.mkdir()


def other_kinds(folder: Path) -> None:
    for path in folder.rglob("*.png"):
        path.rename(path.with_suffix(".gif"))


def hidden_images(folder: Path) -> None:
    for path in folder.rglob("*.png"):
        path.rename(path.with_name(f".{path.name}"))


def images_beside_classes(folder: Path) -> None:
    (folder / "stray.png").write_bytes(picture())


def an_empty_class(folder: Path) -> None:
    (folder / "birds").mkdir()


def a_class_of_another_kind(folder: Path) -> None:
    (folder / "birds").mkdir()
    (folder / "birds" / "0.gif").write_bytes(picture(kind="GIF"))


def a_class_twice(folder: Path) -> None:
    (folder / "kitty").symlink_to("cats")


def a_part_twice(folder: Path) -> None:
    (folder.parent / "real").mkdir()
    for part in ("train", "test"):
        (folder / part).symlink_to(folder.parent / "real")
    for name in ("cats", "dogs"):
        (folder / name).rename(folder.parent / "real" / name)


def two_names_of_a_part(folder: Path) -> None:
    for part in ("train", "val", "Valid"):
        write_pets(folder / part)
    for name in ("cats", "dogs"):
        (folder / name).rename(folder / part / f"more-{name}")


def an_empty_part(folder: Path) -> None:
    parts(folder)
    (folder / "val").mkdir()


def no_train(folder: Path) -> None:
    parts(folder)
    (folder / "train").rename(folder / "val")


def classes_not_to_test(folder: Path) -> None:
    parts(folder)
    for number, path in enumerate(sorted((folder / "test").rglob("*.png"))):
        path.rename(folder / "test" / f"{number}.png")
    for name in ("cats", "dogs"):
        (folder / "test" / name).rmdir()


def parts(folder: Path) -> None:
    """The same images, split into train and test."""
    for name in ("cats", "dogs"):
        (folder / name).rename(folder.parent / name)
    for part in ("train", "test"):
        shutil.copytree(folder.parent / "cats", folder / part / "cats")
        shutil.copytree(folder.parent / "dogs", folder / part / "dogs")


def a_class_that_is_itself(folder: Path) -> None:
    (folder / "birds").symlink_to("birds")
    (folder / "loop").symlink_to(folder)


def an_image_that_is_gone(folder: Path) -> None:
    (folder / "cats" / "x.png").symlink_to("/nowhere/x.png")


def an_image_that_is_itself(folder: Path) -> None:
    (folder / "cats" / "x.png").symlink_to("x.png")


def a_pipe(folder: Path) -> None:
    os.mkfifo(folder / "cats" / "x.png")


def a_device(folder: Path) -> None:
    (folder / "cats" / "x.png").symlink_to("/dev/zero")


def a_folder_in_a_loop(folder: Path) -> None:
    a_missing_folder(folder)
    folder.symlink_to(folder.name)


def an_image_with_an_odd_name(folder: Path) -> None:
    (folder / "cats" / os.fsdecode(b"\xff\xfe.png")).write_bytes(b"junk")


def an_image_with_two_lines_for_a_name(folder: Path) -> None:
    (folder / "cats" / "a\nb.png").write_bytes(b"junk")


def three_images(folder: Path) -> None:
    for path in sorted(folder.rglob("*.png")):
        if path.stem not in "0":
            path.unlink()


def a_fourth_part(folder: Path) -> None:
    parts(folder)
    write_pets(folder / "extra")


def a_class_only_to_test(folder: Path) -> None:
    parts(folder)
    (folder / "test" / "dogs").rename(folder / "test" / "birds")


def floats(folder: Path) -> None:
    Image.fromarray(np.full((9, 9), 0.5, np.float32)).save(folder / "cats" / "x.tif")


def whole_numbers(folder: Path) -> None:
    Image.fromarray(np.full((9, 9), 70_000, np.int32)).save(folder / "cats" / "x.tif")


# what happens to a folder of 12 images, and words of the line
FOLDERS: dict[Callable[[Path], None], list[str]] = {
    a_missing_folder: ["no folder", "pets", "DATA=folder:PATH"],
    a_file: ["no folder", "pets", "takes a folder of images"],
    nothing: ["no images in", "expected files ending in .bmp"],
    other_kinds: ["no images in", "12 files: .gif is not read", ".png"],
    hidden_images: ["no images in", "12 hidden files: left out"],
    images_beside_classes: ["directly (stray.png) and in folders", "put every image"],
    an_empty_class: ["birds is a class folder", "has no images", "take it away"],
    a_class_of_another_kind: ["birds is a class folder", "has no images (1 file: .gif is not read"],
    a_class_twice: ["kitty is a link to the same folder as", "cats; put other images there"],
    a_class_that_is_itself: ["birds is a link to birds, which is not there"],
    an_image_that_is_gone: ["x.png is a link to /nowhere/x.png", "replace or remove it"],
    an_image_that_is_itself: ["x.png is a link to x.png", "replace or remove it"],
    a_pipe: ["x.png is not a file", "replace or remove it"],
    a_device: ["link to /dev/zero", "is not a file"],
    a_folder_in_a_loop: ["no folder", "pets"],
    an_image_with_an_odd_name: ["cannot decode", "replace or remove"],
    an_image_with_two_lines_for_a_name: ["cannot decode", "b.png"],
    three_images: ["too few to split", "at least 10"],
    a_fourth_part: ["outside of train and test, such as extra/", "move them into train"],
    a_part_twice: ["is a link to the same folder as", "put other images there"],
    two_names_of_a_part: ["has two valid parts, Valid and val; keep one"],
    an_empty_part: ["val is a part, but has no images"],
    no_train: ["has test and val, but no train"],
    a_class_only_to_test: ["has the class 'birds'", "classes there: cats, dogs"],
    classes_not_to_test: ["0.png lies in no class folder", "classes there: cats, dogs"],
    floats: ["x.tif has pixels of 32 bits", "8 or 16 bits"],
    whole_numbers: ["x.tif has pixels of 32 bits", "8 or 16 bits"],
}


@pytest.mark.parametrize("mistake", FOLDERS, ids=lambda mistake: mistake.__name__)
def test_a_wrong_folder_is_one_line(
    tmp_path: Path,
    refused: Callable[..., str],
    study_file: WriteStudy,
    mistake: Callable[[Path], None],
) -> None:
    folder = write_pets(tmp_path / "pets")
    mistake(folder)
    said = refused(NAME=study_file(), DATA=f"folder:{folder}")
    for word in FOLDERS[mistake]:
        assert word in said


def test_images_of_other_sizes_need_a_shape(
    tmp_path: Path, refused: Callable[..., str], study_file: WriteStudy
) -> None:
    folder = write_pets(tmp_path / "pets")
    (folder / "dogs" / "9.png").write_bytes(picture(size=(20, 10)))
    said = refused(NAME=study_file(replace=WITHOUT_SHAPE), DATA=f"folder:{folder}")
    for word in ("9.png is 20x10", "is 12x10", "set shape=(C, H, W) in the study"):
        assert word in said


def table(*lines: str) -> bytes:
    return "\n".join(lines).encode()


FILES_OF_PETS = [f"{name}/{number}.png" for name in ("cats", "dogs") for number in range(6)]
ROWS = [f"{file},1,0.5" for file in FILES_OF_PETS]

# attributes.csv, and words of the line
TABLES: dict[str, tuple[bytes, list[str]]] = {
    "empty": (b"", ["cannot read", "its first line is file,NAME,NAME"]),
    "blank-lines": (b"\n\n\n", ["cannot read", "its first line is file,NAME,NAME"]),
    "binary": (bytes(range(256)), ["cannot read", "attributes.csv"]),
    "utf-16": ("file,a\n".encode("utf-16"), ["cannot read", "utf-8"]),
    "no-columns": (table("file", *FILES_OF_PETS), ["begins with 'file'", "NAME"]),
    "an-unnamed-column": (table("file,,b", *ROWS), ["begins with 'file,,b'", "a name of its own"]),
    "one-name-twice": (table("file,a,a", *ROWS), ["begins with 'file,a,a'", "a name of its own"]),
    "no-header": (table(*ROWS), ["lacks 1 of 12 images, such as 'cats/0.png'"]),
    "semicolons": (table("file;a;b", "cats/0.png;1;2"), ["file;a;b", "file,NAME,NAME"]),
    "a-gap": (table("file,a,b", *ROWS[:3], *ROWS[4:]), ["lacks 1 of 12", "'cats/3.png'"]),
    "many-gaps": (table("file,a,b", *ROWS[:2]), ["lacks 10 of 12 images", "add their rows"]),
    "a-row-twice": (table("file,a,b", *ROWS, ROWS[3]), ["two rows for 'cats/3.png'", "keep one"]),
    "words": (table("file,a,b", *ROWS[1:], "cats/0.png,yes,no"), ["cannot read", "'yes'"]),
    "an-empty-cell": (table("file,a,b", *ROWS[1:], "cats/0.png,,1"), ["cannot read", "number"]),
    "nan": (
        table("file,a,b", *ROWS[1:], "cats/0.png,nan,1"),
        ["not finite or beyond 1e+18, for 'cats/0.png'"],
    ),
    "huge": (table("file,a,b", *ROWS[1:], "cats/0.png,-1e39,1"), ["not finite or beyond 1e+18"]),
    "infinite": (table("file,a,b", *ROWS[1:], "cats/0.png,1,1e999"), ["not finite", "a number"]),
    "a-short-row": (table("file,a,b", *ROWS[1:], "cats/0.png,1"), ["1 numbers for 2 names"]),
    "a-long-row": (table("file,a", *ROWS), ["not as long as its header", "2 numbers for 1 names"]),
    "windows-paths": (
        table("file,a,b", *(row.replace("/", "\\") for row in ROWS)),
        ["lacks 12 of 12", "'cats/0.png'"],
    ),
    "a-huge-cell": (b"file,a\n" + b"9" * 200_000, ["cannot read", "field limit"]),
}


@pytest.mark.parametrize("mistake", TABLES)
def test_a_wrong_table_of_attributes_is_one_line(
    tmp_path: Path, refused: Callable[..., str], study_file: WriteStudy, mistake: str
) -> None:
    content, words = TABLES[mistake]
    folder = write_pets(tmp_path / "pets")
    (folder / "attributes.csv").write_bytes(content)
    said = refused(NAME=study_file(), DATA=f"folder:{folder}")
    for word in [*words, "attributes.csv"]:
        assert word in said


def link_to_nothing(path: Path) -> None:
    path.symlink_to("gone")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, link_to_nothing])
def test_a_table_that_is_no_file_is_one_line(
    tmp_path: Path,
    refused: Callable[..., str],
    study_file: WriteStudy,
    make: Callable[[Path], None],
) -> None:
    folder = write_pets(tmp_path / "pets")
    make(folder / "attributes.csv")
    said = refused(NAME=study_file(), DATA=f"folder:{folder}")
    assert "attributes.csv is not a file; replace or remove it" in said


def idx(*sizes: int, magic: int | None = None, values: int | None = None) -> bytes:
    """A file of MNIST's format: ``sizes`` in the header, ``values`` bytes behind it."""
    magic = 0x800 + len(sizes) if magic is None else magic
    count = int(np.prod(sizes)) if values is None else values
    return struct.pack(f">I{len(sizes)}I", magic, *sizes) + bytes(i % 10 for i in range(count))


TRAIN, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"

# files of a set that are replaced, or removed where None, and words of the line
SETS: dict[str, tuple[dict[str, bytes | None], list[str]]] = {
    "truncated": ({TRAIN: idx(20, 28, 28)[:-100]}, ["incomplete or damaged", "delete"]),
    "only-a-header": ({TRAIN: idx(20, 28, 28, values=0)}, ["incomplete or damaged"]),
    "half-a-header": ({TRAIN: idx(20, 28, 28)[:6]}, ["incomplete or damaged"]),
    "empty": ({TRAIN: b""}, ["incomplete or damaged", "DATA_ROOT to a whole copy"]),
    "wrong-magic": ({TRAIN: idx(20, 28, 28, magic=0x12345678)}, ["incomplete or damaged"]),
    "html": ({TRAIN: b"<html><body>404 Not Found</body></html>"}, ["incomplete or damaged"]),
    "still-packed": ({TRAIN: zlib.compress(idx(20, 28, 28))}, ["incomplete or damaged"]),
    "labels-for-images": ({TRAIN: idx(20)}, ["incomplete or damaged"]),
    "images-for-labels": ({LABELS: idx(20, 28, 28)}, ["incomplete or damaged"]),
    "fewer-labels": ({LABELS: idx(19)}, ["20 images, but 19 labels"]),
    "more-labels": ({LABELS: idx(21)}, ["20 images, but 21 labels"]),
    "unknown-label": ({LABELS: idx(20)[:-1] + b"\x63"}, ["label 99, but 10 classes"]),
    "other-size": ({TRAIN: idx(20, 32, 32)}, ["(20, 32, 32) are not (N, 28, 28)"]),
    "no-images": ({TRAIN: idx(0, 28, 28), LABELS: idx(0)}, ["incomplete or damaged"]),
    "a-file-missing": ({LABELS: None}, ["incomplete or damaged", "delete"]),
}


@pytest.mark.parametrize("mistake", SETS)
def test_a_damaged_set_is_one_line(
    tmp_path: Path, refused: Callable[..., str], study_file: WriteStudy, mistake: str
) -> None:
    replaced, words = SETS[mistake]
    raw = tmp_path / "data" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    whole = {TRAIN: idx(20, 28, 28), LABELS: idx(20)}
    whole |= {name.replace("train", "t10k"): content for name, content in whole.items()}
    for name, content in {**whole, **replaced}.items():
        if content is not None:
            (raw / name).write_bytes(content)
    said = refused(NAME=study_file(), DATA="fashion_mnist", DATA_ROOT=tmp_path / "data")
    for word in words:
        assert word in said


def test_data_root_is_a_folder(
    tmp_path: Path, refused: Callable[..., str], study_file: WriteStudy
) -> None:
    (tmp_path / "data").write_text("a file")
    name = study_file(replace={'data="digits"': 'data="mnist"'})
    said = refused(NAME=name, DATA_ROOT=tmp_path / "data")
    assert "data is not a folder; name the one with the sets" in said


def test_images_beyond_memory_are_one_line(
    tmp_path: Path, refused: Callable[..., str], study_file: WriteStudy
) -> None:
    name = study_file(replace={"(1, 28, 28)": "(3, 4096, 4096)"})
    said = refused(NAME=name)
    assert "images of 3x4096x4096 need" in said
    assert "set a smaller shape" in said


def test_pixels_of_16_bits_keep_their_brightness(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for number in range(12):
        grey = np.full((9, 9), number * 5000, np.uint16)
        Image.fromarray(grey).save(tmp_path / "deep" / f"{number}.png")
    splits = load_images(f"folder:{tmp_path / 'deep'}", root=tmp_path, cache=tmp_path / "cache")
    found = [
        int(image[0, 0, 0])
        for part in (splits.train, splits.valid, splits.test)
        for image in part.pixels
    ]
    assert sorted(found) == [number * 5000 // 256 for number in range(12)]


def test_odd_but_right_folders_are_read_without_a_word(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Colours, palettes, kinds and sizes mixed, names that are no UTF-8, a byte order mark."""
    folder = tmp_path / os.fsdecode(b"pets-\xff")
    folder.mkdir()
    modes = ["RGB", "L", "P", "RGBA", "CMYK", "1", "LA", "RGB", "RGB", "L", "RGB", "RGB"]
    for number, mode in enumerate(modes):
        kind = "jpg" if mode == "CMYK" else "png"
        image = Image.new(mode, (10 + number, 9))
        image.save(folder / os.fsdecode(b"\xfe%d.%s" % (number, kind.encode())))
    (folder / "linked.png").symlink_to(os.fsdecode(b"\xfe0.png"))
    (folder / "notes.txt").write_text("no image")
    name = f"folder:{folder}"
    splits = load_images(name, root=tmp_path, cache=tmp_path / "cache", shape=(3, 8, 8))
    assert sum(len(part) for part in (splits.train, splits.valid, splits.test)) == 13
    assert capfd.readouterr().err == ""
