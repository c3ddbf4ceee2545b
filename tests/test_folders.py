"""A folder of one's own images: what its folders mean, how each kind of file is read, who is in
which part."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models.data.decoding import HIDDEN, Decoder, read_header
from models.data.description import FolderDescription, describe_use
from models.data.folder_tree import printable
from models.data.folders import FolderSource
from models.data.images import ImageSplits, cut_rows
from models.data.layout import read_layout
from models.data.loading import load_images
from models.errors import DataError

PARTS = ("train", "valid", "test")


def write(path: Path, value: int = 100, size: tuple[int, int] = (8, 6)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value % 256, value * 7 % 256, 20)).save(path)


def write_all(folder: Path, *names: str, each: int = 6) -> Path:
    """Images ``folder/NAME/0.png`` and so on, each of another colour."""
    for position, name in enumerate(names):
        for number in range(each):
            write(folder / name / f"{number}.png", position * 40 + number)
    return folder


def load(folder: Path, **options: object) -> ImageSplits:
    place = folder.parent
    return load_images(f"folder:{folder}", root=place, cache=place / "cache", **options)  # type: ignore[arg-type]


def arrangement(folder: Path) -> tuple[tuple[str, ...], tuple[str, ...], int]:
    """The classes and parts of a folder, and how many images it holds."""
    layout = read_layout(folder)
    return layout.classes, layout.parts, len(layout.files)


CATS_DOGS = ("cats", "dogs")


# ---- what folders mean ----


@pytest.mark.parametrize(
    ("names", "classes", "parts"),
    [
        (("",), (), ()),
        (("cats", "dogs"), CATS_DOGS, ()),
        (("cats/persian", "cats/tabby", "dogs/pug"), CATS_DOGS, ()),
        (("pets",), (), ()),  # one class is no class
        (("img_align_celeba/img_align_celeba",), (), ()),
        (("pets/cats", "pets/dogs"), CATS_DOGS, ()),
        (("Train", "TEST"), (), ("train", "test")),
        (("train/cats", "train/dogs", "Val/cats"), CATS_DOGS, ("train", "valid")),
        (("training/a", "training/b", "validation/b", "Testing/a"), ("a", "b"), PARTS),
        (("train/images", "test/images"), (), ("train", "test")),
        (("train/train/a", "train/train/b", "test/test/b"), ("a", "b"), ("train", "test")),
        (("pets/train", "pets/valid", "pets/test"), (), PARTS),
        (("train/cats", "train/dogs"), CATS_DOGS, ("train",)),
        (("bus", "car", "train"), ("bus", "car", "train"), ()),  # the vehicle
        (("test",), (), ()),
    ],
)
def test_folders_are_parts_classes_or_a_wrapping(
    tmp_path: Path, names: tuple[str, ...], classes: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    folder = write_all(tmp_path / "set", *names)
    assert arrangement(folder) == (classes, parts, 6 * len(names))
    splits = load(folder)
    assert splits.classes == classes
    assert sum(len(getattr(splits, part)) for part in PARTS) == 6 * len(names)


def test_own_validation_and_test_images_stay_what_they_are(tmp_path: Path) -> None:
    folder = write_all(tmp_path / "set", "train", "Valid", "test")
    splits = load(folder)
    for part, first in (("train", 0), ("valid", 40), ("test", 80)):
        values = getattr(splits, part).pixels[:, 0, 0, 0].tolist()
        assert values == list(range(first, first + 6))


def test_hidden_folders_are_left_out_and_named(tmp_path: Path) -> None:
    folder = write_all(tmp_path / "pets", "cats", "dogs")
    for name in (".ipynb_checkpoints", "cats/.ipynb_checkpoints", "@eaDir", "__MACOSX/cats"):
        write_all(folder, name)
    write(folder / "cats" / "._0.png")
    (folder / "Thumbs.db").write_bytes(b"")
    assert arrangement(folder) == (CATS_DOGS, (), 12)
    assert [str(each) for each in read_layout(folder).skipped] == [
        "2 .ipynb_checkpoints folders: left out",
        "1 @eaDir folder: left out",
        "1 __MACOSX folder: left out",
        "1 hidden file: left out",
        "1 other file: no images",
    ]


def test_links_to_folders_are_followed_and_each_folder_is_read_once(tmp_path: Path) -> None:
    real = write_all(tmp_path / "real", "cats", "dogs")
    folder = tmp_path / "pets"
    folder.mkdir()
    for name in CATS_DOGS:
        (folder / name).symlink_to(real / name)
    (real / "cats" / "again").symlink_to(folder)
    (real / "dogs" / "up").symlink_to(tmp_path)
    assert arrangement(folder) == (CATS_DOGS, (), 12)
    skipped = [str(each) for each in read_layout(folder).skipped]
    assert "cats/again: a link to the same folder as" in skipped[0]
    assert skipped[1] == "dogs/up: a link to a folder around this one"


def test_a_folder_of_notes_beside_the_images_is_no_class(tmp_path: Path) -> None:
    folder = write_all(tmp_path / "celeba", "images")
    (folder / "annotations").mkdir()
    (folder / "annotations" / "boxes.txt").write_text("0 0 8 8")
    assert arrangement(folder) == ((), (), 6)
    write_all(folder, "more")
    assert arrangement(folder) == (("images", "more"), (), 12)


def test_a_table_lies_beside_the_folder_of_images_or_in_it(tmp_path: Path) -> None:
    for place, prefix in ((".", "images/"), ("images", "")):
        folder = write_all(tmp_path / f"set{len(prefix)}", "images", each=12)
        rows = [f"{prefix}{number}.png,{number}" for number in range(12)]
        (folder / place / "attributes.csv").write_text("\n".join(["file,number", *rows]))
        splits = load(folder)
        assert splits.train.attributes is not None
        assert torch.equal(
            splits.train.attributes[:, 0], splits.train.pixels[:, 0, 0, 0].to(torch.float32)
        )


def test_an_unreadable_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_all(tmp_path / "pets", "cats", "dogs")
    scandir = os.scandir

    def deny(place: Path) -> object:
        if Path(place).name == "dogs":
            raise PermissionError(13, "Permission denied", str(place))
        return scandir(place)

    monkeypatch.setattr("os.scandir", deny)  # root may read everything
    with pytest.raises(DataError, match=r"cannot read the folder .*dogs .*change its permissions"):
        read_layout(folder)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("$5_$10 [/x] %", "$5_$10 [/x] %"),
        ("日本 שלום", "日本 שלום"),
        ("👩\u200d🦰", "👩\u200d🦰"),
        ("a\nb\t", r"a\nb\t"),
        (os.fsdecode(b"caf\xe9"), r"caf\xe9"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
    ],
)
def test_every_name_of_a_class_can_be_shown(tmp_path: Path, name: str, shown: str) -> None:
    assert printable(name) == shown
    if "/" not in name:
        assert shown in read_layout(write_all(tmp_path / "set", name, "x")).classes


def test_names_that_would_read_alike_are_refused(tmp_path: Path) -> None:
    folder = write_all(tmp_path / "set", "a\nb", r"a\nb")
    with pytest.raises(DataError, match="look equal"):
        read_layout(folder)


# ---- how files are read ----


def half_clear(mode: str) -> Image.Image:
    """Red on the left; on the right green that is hidden under full transparency."""
    image = Image.new("RGBA", (4, 2), (200, 0, 0, 255))
    image.paste((0, 250, 0, 0), (2, 0, 4, 2))
    if mode == "P":
        flat = Image.new("P", (4, 2), 0)
        flat.putpalette([200, 0, 0, 0, 250, 0])
        flat.paste(1, (2, 0, 4, 2))
        flat.info["transparency"] = 1
        return flat
    return image.convert(mode)


@pytest.mark.parametrize("mode", ["RGBA", "P", "LA"])
@pytest.mark.parametrize(
    ("background", "behind"),
    [("#ffffff", (255, 255, 255)), ("#000000", (0, 0, 0)), ("#ff8000", (255, 128, 0))],
)
def test_what_is_transparent_shows_the_background(
    tmp_path: Path, mode: str, background: str, behind: tuple[int, int, int]
) -> None:
    path = tmp_path / "x.png"
    half_clear(mode).save(path)
    found = Decoder(background=background).decode(path, 3)
    assert found.transparent
    assert tuple(found.pixels[:, 0, 3]) == behind
    left = (60, 60, 60) if mode == "LA" else (200, 0, 0)
    assert tuple(found.pixels[:, 0, 0]) == left
    grey = Image.new("RGB", (1, 1), behind).convert("L").getpixel((0, 0))
    assert int(Decoder(background=background).decode(path, 1).pixels[0, 0, 3]) == grey


def test_a_color_or_grey_value_can_be_transparent(tmp_path: Path) -> None:
    Image.new("RGB", (2, 2), (1, 2, 3)).save(tmp_path / "a.png", transparency=(1, 2, 3))
    Image.new("L", (2, 2), 9).save(tmp_path / "b.png", transparency=9)
    for name in ("a.png", "b.png"):
        found = Decoder().decode(tmp_path / name, 1)
        assert found.transparent
        assert found.pixels.min() == 255


def test_half_transparent_pixels_are_mixed(tmp_path: Path) -> None:
    Image.new("RGBA", (2, 2), (255, 0, 0, 128)).save(tmp_path / "x.png")
    found = Decoder().decode(tmp_path / "x.png")
    assert tuple(found.pixels[:, 0, 0]) == (255, 127, 127)


def test_images_without_transparency_are_the_same_on_every_background(tmp_path: Path) -> None:
    folder = write_all(tmp_path / "pets", "cats", "dogs")
    for path in folder.rglob("*.png"):
        Image.open(path).convert("RGBA").save(path)
    first, second = (load(folder, background=color) for color in ("#ffffff", "#000000"))
    assert (first.fingerprint, first.background) == (second.fingerprint, second.background)
    assert first.background == ""
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_each_background_has_its_own_cached_images(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for number in range(12):
        half_clear("RGBA").rotate(number * 90).save(tmp_path / "set" / f"{number}.png")
    found = {}
    for color in ("#ffffff", "#000000", HIDDEN, "#ffffff"):
        splits = load(tmp_path / "set", background=color)
        assert splits.background == color
        found[color] = splits.fingerprint
    assert len(set(found.values())) == 3
    assert len(list((tmp_path / "cache").iterdir())) == 3
    green = load(tmp_path / "set", background=HIDDEN).train.pixels[:, 1].max()
    assert int(green) == 250  # what an older version trained on


def write_deep(path: Path, values: np.ndarray) -> None:  # type: ignore[type-arg]
    """A file of 16 bits: PNG, TIFF, or Netpbm, whose numbers begin with the larger byte."""
    if path.suffix != ".pgm":
        Image.fromarray(values.astype(np.uint16)).save(path)
        return
    high, wide = values.shape
    path.write_bytes(b"P5\n%d %d\n65535\n" % (wide, high) + values.astype(">u2").tobytes())


@pytest.mark.parametrize("kind", ["png", "tif", "pgm"])
@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_of_deep_images_the_upper_bits_count(tmp_path: Path, kind: str, bits: int) -> None:
    """One depth for all: a dark image among bright ones stays dark."""
    folder = tmp_path / "scans"
    folder.mkdir()
    ramp = np.linspace(0, 2**bits - 1, 64).astype(int).reshape(8, 8)
    for number in range(12):
        write_deep(folder / f"{number:02}.{kind}", ramp if number else ramp // 4)
    splits = load(folder)
    assert splits.folder is not None
    assert splits.folder.depth == bits
    everything = torch.cat([getattr(splits, part).pixels for part in PARTS])
    brightest = everything.amax((1, 2, 3))
    assert sorted(brightest.tolist()) == [63, *[255] * 11]
    assert torch.equal(everything[brightest.argmax(), 0], torch.tensor(ramp >> (bits - 8)))


def test_a_netpbm_file_that_names_its_white_is_believed(tmp_path: Path) -> None:
    folder = tmp_path / "scans"
    folder.mkdir()
    dark = np.full((4, 4), 500, ">u2").tobytes()
    for number in range(12):
        (folder / f"{number}.pgm").write_bytes(b"P5\n4 4\n4095\n" + dark)
    assert int(load(folder).train.pixels.max()) == 500 * 255 // 4095


def test_numbers_whose_white_is_unknown_are_named_as_what_they_are(tmp_path: Path) -> None:
    kinds = {np.float32: r"32 bits \(fractions\)", np.int32: r"32 bits \(signed numbers\)"}
    for number_type, words in kinds.items():
        path = tmp_path / "x.tif"
        Image.fromarray(np.full((4, 4), 7, number_type)).save(path)
        with pytest.raises(DataError, match=words):
            Decoder().decode(path)


def test_cmyk_and_turned_photos_look_as_they_are_meant(tmp_path: Path) -> None:
    Image.new("CMYK", (4, 4), (0, 255, 255, 0)).save(tmp_path / "ink.jpg")  # red
    red, green, blue = Decoder().decode(tmp_path / "ink.jpg").pixels[:, 0, 0]
    assert red > 200 > 60 > max(green, blue)
    photo = Image.new("L", (8, 4), 0)
    photo.paste(255, (0, 0, 4, 4))  # white on the left
    tags = Image.Exif()
    tags[0x0112] = 6  # to be turned to the right
    photo.save(tmp_path / "photo.jpg", exif=tags)
    found = Decoder().decode(tmp_path / "photo.jpg")
    assert found.pixels.shape == (1, 8, 4)
    assert found.pixels[0, 0, 0] > 200 > 50 > found.pixels[0, 7, 0]  # white on top
    header = read_header(tmp_path / "photo.jpg")
    assert header.rotated
    assert header.size == (4, 8)


# ---- who is in which part ----


@pytest.mark.parametrize("singles", [1, 8, 30])
def test_every_class_keeps_a_training_image(tmp_path: Path, singles: int) -> None:
    folder = write_all(tmp_path / "people", "crowd", each=40)
    for number in range(singles):
        write(folder / f"person{number}" / "0.png", 100 + number)
    splits = load(folder)
    assert splits.train.labels is not None
    assert set(splits.train.labels.tolist()) == set(range(singles + 1))
    counts = [len(getattr(splits, part)) for part in PARTS]
    total = 40 + singles
    held = round(total * 0.1)
    assert counts == [total - held - round((total - held) * 0.2), round((total - held) * 0.2), held]
    plan = FolderSource(folder).plan_parts()
    for part in PARTS:
        images = getattr(splits, part)
        assert images.labels.tolist() == [file.label for file in plan[part]]


def test_a_cut_that_leaves_every_class_an_image_is_what_it_always_was() -> None:
    labels = torch.arange(10).repeat(30)
    with_labels, without = (cut_rows(300, 0.2, "split", known) for known in (labels, None))
    for one, other in zip(with_labels, without, strict=True):
        assert torch.equal(one, other)


def test_where_nothing_can_be_given_up_a_class_may_stay_without_an_image() -> None:
    kept, held = cut_rows(5, 0.4, "split", torch.arange(5))
    assert sorted([*kept.tolist(), *held.tolist()]) == list(range(5))


# ---- the fingerprint ----


def write_mixed(folder: Path, count: int = 12) -> None:
    for number, mode in enumerate(["RGB", "L", "P", "RGBA", "LA", "1"] * (count // 6)):
        for shift, name in enumerate(CATS_DOGS):
            path = folder / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            grey = Image.linear_gradient("L").resize((9, 7))
            grey.point(lambda v, add=number * 7 + shift * 50: (v + add) % 256).convert(mode).save(
                path
            )


def test_the_fingerprint_is_that_of_older_versions(tmp_path: Path) -> None:
    """As revision 03c3642 computed it: studies that it stored go on."""
    write_mixed(tmp_path / "pets")
    write_mixed(tmp_path / "set" / "train")
    write_mixed(tmp_path / "set" / "test", 6)
    assert load(tmp_path / "pets", shape=(3, 6, 6)).fingerprint == "7a5401c02af73434"
    assert load(tmp_path / "pets", shape=(1, 6, 6)).fingerprint == "fdd6dfc8b331c7ba"
    assert load(tmp_path / "set", shape=(3, 6, 6)).fingerprint == "75b8635c281d82ce"


def rename_a_class(folder: Path) -> None:
    (folder / "dogs").rename(folder / "wolves")


def change_an_attribute(folder: Path) -> None:
    table = folder / "attributes.csv"
    table.write_text(table.read_text().replace("cats/0.png,1", "cats/0.png,0"))


@pytest.mark.parametrize("change", [rename_a_class, change_an_attribute])
def test_classes_and_attributes_have_a_fingerprint_too(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    folder = write_all(tmp_path / "pets", "cats", "dogs")
    names = [f"{name}/{number}.png" for name in (*CATS_DOGS, "wolves") for number in range(6)]
    (folder / "attributes.csv").write_text("\n".join(["file,a", *(f"{name},1" for name in names)]))
    first = load(folder)
    shutil.copytree(folder, tmp_path / "elsewhere" / "animals")
    copied = load(tmp_path / "elsewhere" / "animals")
    assert (copied.fingerprint, copied.labelled) == (first.fingerprint, first.labelled)
    change(folder)
    second = load(folder)
    assert second.fingerprint == first.fingerprint
    assert second.labelled != first.labelled


# ---- the description ----


def test_a_folder_is_described_before_and_after_it_is_read(tmp_path: Path) -> None:
    folder = write_all(tmp_path / "pets", "cats", "dogs")
    write(folder / "cats" / "wide.png", size=(40, 10))
    half_clear("RGBA").save(folder / "dogs" / "clear.png")
    (folder / "dogs" / "moving.gif").write_bytes(b"GIF89a")
    early, whole = FolderSource(folder).survey(), FolderSource(folder).inspect(lambda *_: None)
    read = load(folder, shape=(1, 8, 8)).folder
    assert read == whole
    assert read is not None
    assert (early.transparent, whole.transparent) == (0, 1)
    assert early.counts == {"all": {"cats": 7, "dogs": 7}}
    assert (early.images, early.sizes, early.colored) == (14, 3, 14)
    assert (early.smallest, early.common, early.largest) == ((4, 2), (8, 6), (40, 10))
    assert early.skipped == ("1 file: .gif is not read",)
    again = load(folder, shape=(1, 8, 8)).folder  # from the cache
    assert again == read
    assert describe_use(read, (1, 8, 8)) == [
        "resized from 3 sizes to 8x8",
        "enlarged: the median image has 75% of the pixels",
        "cropped from the centre: 25% of the median image is cut off, at most 75%",
        "colours are lost: 14 images in colour become grey",
    ]


def test_nothing_is_done_to_images_that_fit(tmp_path: Path) -> None:
    found = FolderSource(write_all(tmp_path / "pets", "cats", "dogs")).survey()
    assert describe_use(found, (3, 6, 8)) == []
    assert FolderDescription.from_plain(found.to_plain()) == found
