"""Image sets: real ones, folders of one's own, and everything that can be wrong with them."""

from __future__ import annotations

import gzip
import hashlib
import struct
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from models.data.binarised import binarise, is_binary
from models.data.images import ImageSplits, resize
from models.data.loading import find_source, load_images, open_images
from models.errors import DataError, DataMissing
from tests.preloaded import Preloaded


def write_mnist(root: Path, train: int = 50, test: int = 10, folder: str = "FashionMNIST") -> None:
    """Small IDX files in the layout of torchvision's Fashion-MNIST, or of another such set."""
    raw = root / folder / "raw"
    raw.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for name, count in (("train", train), ("t10k", test)):
        pixels = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        images = struct.pack(">IIII", 0x803, count, 28, 28) + pixels.tobytes()
        (raw / f"{name}-images-idx3-ubyte").write_bytes(images)
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(
            struct.pack(">II", 0x801, count) + labels.tobytes()
        )


def write_picture(path: Path, value: int = 100, size: tuple[int, int] = (8, 6)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value % 256, value * 7 % 256, 20)).save(path)


def write_folder(root: Path, classes: tuple[str, ...] = ("cats", "dogs"), each: int = 12) -> Path:
    for position, name in enumerate(classes):
        for number in range(each):
            write_picture(root / name / f"{number}.png", value=position * 50 + number)
    return root


def load(name: str, place: Path, **options: object) -> ImageSplits:
    return load_images(name, root=place, cache=place / "cache", **options)  # type: ignore[arg-type]


def test_digits_are_split_into_train_validation_and_test(digits: ImageSplits) -> None:
    assert [len(part) for part in (digits.train, digits.valid, digits.test)] == [1150, 288, 359]
    assert digits.shape == (1, 28, 28)
    assert digits.train.pixels.dtype == torch.uint8
    assert digits.classes == tuple("0123456789")
    batch = digits.train.batch(torch.tensor([3, 5]))
    assert batch.images.shape == (2, 1, 28, 28)
    assert 0 <= float(batch.images.min()) <= float(batch.images.max()) <= 1
    assert batch.labels is not None
    assert batch.labels.shape == (2,)


def test_digits_keep_their_own_size_without_a_shape(tmp_path: Path) -> None:
    assert load("digits", tmp_path).shape == (1, 8, 8)


def test_no_image_is_in_two_parts(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    splits = load("fashion_mnist", tmp_path)
    parts = [
        {row.numpy().tobytes() for row in part.pixels} for part in (splits.train, splits.valid)
    ]
    assert [len(part) for part in parts] == [40, 10]  # 80 and 20 percent
    assert not parts[0] & parts[1]


def test_torchvision_files_are_read_as_they_are(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    splits = load("fashion_mnist", tmp_path)
    raw = (tmp_path / "FashionMNIST/raw/t10k-images-idx3-ubyte").read_bytes()[16:]
    assert splits.test.pixels.numpy().tobytes() == raw
    assert splits.test.labels is not None
    assert splits.test.labels.tolist() == list(range(10))
    assert splits.classes[0] == "T-shirt/top"


def test_a_pickle_of_an_old_torchvision_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mnist(tmp_path)
    processed = tmp_path / "FashionMNIST" / "processed"
    processed.mkdir()
    for name in ("training.pt", "test.pt"):
        torch.save((torch.zeros(30, 28, 28, dtype=torch.uint8), torch.zeros(30)), processed / name)
    monkeypatch.setattr("torch.load", lambda *_, **__: pytest.fail("a pickle is loaded"))
    splits = load("fashion_mnist", tmp_path)
    assert (len(splits.train), len(splits.valid), len(splits.test)) == (40, 10, 10)
    assert splits.train.pixels.any()


def test_stacked_digits_are_numbers_of_three_digits(tmp_path: Path) -> None:
    write_mnist(tmp_path, folder="MNIST")
    single = load("mnist", tmp_path)
    splits = load("stacked_mnist", tmp_path)
    assert (splits.shape, len(splits.classes), splits.classes[42]) == ((3, 28, 28), 1000, "042")
    assert (len(splits.train), len(splits.valid), len(splits.test)) == (40, 10, 10)
    assert single.test.labels is not None
    assert splits.test.labels is not None
    digit_of = {
        pixels.numpy().tobytes(): int(label)
        for pixels, label in zip(single.test.pixels[:, 0], single.test.labels, strict=True)
    }
    for channel, place in enumerate((100, 10, 1)):
        shown = [image[channel].numpy().tobytes() for image in splits.test.pixels]
        assert [digit_of[pixels] for pixels in shown] == (splits.test.labels // place % 10).tolist()
        assert len(set(shown)) == 10  # every digit once
    assert load("stacked_mnist", tmp_path, shape=(3, 32, 32)).shape == (3, 32, 32)
    (tmp_path / "again").mkdir()
    write_mnist(tmp_path / "again", folder="MNIST")
    assert load("stacked_mnist", tmp_path / "again").fingerprint == splits.fingerprint


def test_binarised_digits_are_drawn_once_and_are_the_test_images_of_cards(tmp_path: Path) -> None:
    write_mnist(tmp_path, folder="MNIST")
    grey, drawn = load("mnist", tmp_path), load("binarized_mnist", tmp_path)
    assert drawn.classes == grey.classes
    for part in ("train", "valid", "test"):
        ours, theirs = getattr(drawn, part), getattr(grey, part)
        assert is_binary(ours.pixels)
        assert not is_binary(theirs.pixels)
        assert torch.equal(ours.labels, theirs.labels)
        certain = (theirs.pixels == 0) | (theirs.pixels == 255)
        assert torch.equal(ours.pixels[certain], theirs.pixels[certain])
        apart = float(ours.pixels.double().mean() - theirs.pixels.double().mean()) / 255
        assert abs(apart) < 4 * 0.5 / ours.pixels.numel() ** 0.5  # at most Bernoulli's deviation
    assert torch.equal(drawn.test.pixels, binarise(grey.test).pixels)
    colours = load("binarized_mnist", tmp_path, shape=(3, 32, 32)).test.pixels
    assert is_binary(colours)
    assert torch.equal(colours[:, 0], colours[:, 2])


def test_dynamic_digits_are_grey_in_training_and_else_those_that_are_drawn_once(
    tmp_path: Path,
) -> None:
    write_mnist(tmp_path, folder="MNIST")
    grey, drawn = load("mnist", tmp_path), load("binarized_mnist", tmp_path)
    dynamic = load("dynamic_mnist", tmp_path)
    assert torch.equal(dynamic.train.pixels, grey.train.pixels)
    assert torch.equal(dynamic.valid.pixels, drawn.valid.pixels)
    assert torch.equal(dynamic.test.pixels, drawn.test.pixels)
    ours, theirs = dynamic.valid.labels, drawn.valid.labels
    assert ours is not None
    assert theirs is not None
    assert torch.equal(ours, theirs)
    assert load("dynamic_mnist", tmp_path, shape=(3, 32, 32)).shape == (3, 32, 32)


def test_the_second_load_reads_the_cache_and_equals_the_first(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    first = load("fashion_mnist", tmp_path)
    (cached,) = (tmp_path / "cache").iterdir()
    stamp = cached.stat().st_mtime_ns
    second = load("fashion_mnist", tmp_path)
    assert cached.stat().st_mtime_ns == stamp
    assert torch.equal(first.train.pixels, second.train.pixels)
    assert first.fingerprint == second.fingerprint


def test_changed_files_are_read_again(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    first = load("fashion_mnist", tmp_path)
    path = tmp_path / "FashionMNIST/raw/train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    assert load("fashion_mnist", tmp_path).fingerprint != first.fingerprint


def test_the_fingerprint_is_the_pixels_not_the_place(tmp_path: Path) -> None:
    for place in ("a", "b"):
        write_mnist(tmp_path / place)
    prints = {load("fashion_mnist", tmp_path / place).fingerprint for place in ("a", "b")}
    assert len(prints) == 1


def test_processes_share_the_pixels_in_memory(tmp_path: Path, preloaded: Preloaded) -> None:
    """A mapped file: reading a set does not copy it into the process."""
    load("digits", tmp_path, shape=(1, 256, 256))
    (cached,) = (tmp_path / "cache").iterdir()
    assert cached.stat().st_size > 100 * 2**20
    program = (
        "import sys, psutil, pathlib, models.data.loading as m\n"
        "s = m.open_images(pathlib.Path(sys.argv[1]))\n"
        "s.train.batch(slice(0, 10))\n"
        "i = psutil.Process().memory_full_info()\n"
        "print(i.uss // 2**20)\n"
    )
    nothing = program.replace("s.train", "#").replace("s = m", "#")
    taken = []
    for text in (program, nothing):
        process = preloaded.run_program(text, cached)
        out, error = process.communicate(timeout=60)
        assert process.returncode == 0, error
        taken.append(int(out))
    assert taken[0] - taken[1] < 40  # MiB that are the process's alone


def test_a_damaged_cache_is_not_opened(tmp_path: Path) -> None:
    load("digits", tmp_path)
    (cached,) = (tmp_path / "cache").iterdir()
    cached.write_bytes(b"junk")
    with pytest.raises(DataError, match=r"damaged or gone \(it is no safetensors file\)"):
        open_images(cached)


def test_a_missing_set_that_cannot_be_downloaded_names_the_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.socket.connect", _no_network)
    with pytest.raises(DataMissing, match=r"FashionMNIST is not in .* set DATA_ROOT"):
        load("fashion_mnist", tmp_path)
    assert not list(tmp_path.iterdir())


def _no_network(*_: object) -> None:
    raise OSError(101, "Network is unreachable")


def test_a_missing_set_is_downloaded_from_a_mirror(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchvision's own download, from a server on this machine instead of its mirrors."""
    from torchvision import datasets

    write_mnist(tmp_path / "mirror")
    raw = tmp_path / "mirror" / "FashionMNIST" / "raw"
    resources = []
    for path in sorted(raw.iterdir()):
        packed = gzip.compress(path.read_bytes())
        (raw / f"{path.name}.gz").write_bytes(packed)
        resources.append((f"{path.name}.gz", hashlib.md5(packed).hexdigest()))
    handler = partial(SimpleHTTPRequestHandler, directory=str(raw))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        mirror = f"http://127.0.0.1:{server.server_port}/"
        monkeypatch.setattr(datasets.FashionMNIST, "mirrors", [mirror])
        monkeypatch.setattr(datasets.FashionMNIST, "resources", resources)
        splits = load("fashion_mnist", tmp_path / "root")
        server.shutdown()
    assert len(splits.test) == 10


def test_truncated_files_say_what_to_delete(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    path = tmp_path / "FashionMNIST/raw/train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"incomplete or damaged .*; delete .*FashionMNIST"):
        load("fashion_mnist", tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fashion", r"unknown data 'fashion'; did you mean 'fashion_mnist'\? available: "),
        ("", "unknown data ''"),
        ("folder:", "unknown data 'folder:'"),
        ("../../etc", "unknown data"),
    ],
)
def test_unknown_data_lists_what_there_is(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(name, tmp_path)


def test_a_folder_of_classes_becomes_labelled_images(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "pets")
    splits = load(f"folder:{folder}", tmp_path)
    assert splits.classes == ("cats", "dogs")
    assert splits.shape == (3, 6, 8)
    assert len(splits.train) + len(splits.valid) + len(splits.test) == 24
    assert splits.train.labels is not None
    for pixels, label in zip(splits.train.pixels, splits.train.labels, strict=True):
        assert (int(pixels[0, 0, 0]) >= 50) == bool(label)


def test_a_flat_folder_has_no_labels_and_is_resized(tmp_path: Path) -> None:
    for number in range(20):
        write_picture(tmp_path / "flat" / f"{number}.jpg", number, size=(20 + number, 30))
    splits = load(f"folder:{tmp_path / 'flat'}", tmp_path, shape=(1, 28, 28))
    assert splits.shape == (1, 28, 28)
    assert splits.train.labels is None
    assert splits.classes == ()


def test_a_folder_that_is_split_already_keeps_its_test_images(tmp_path: Path) -> None:
    write_folder(tmp_path / "set" / "train")
    write_folder(tmp_path / "set" / "test", each=2)
    splits = load(f"folder:{tmp_path / 'set'}", tmp_path)
    assert [len(part) for part in (splits.train, splits.valid, splits.test)] == [19, 5, 4]


def test_attributes_follow_their_images(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "pets")
    rows = [f"{path.relative_to(folder)},{path.stem},1" for path in folder.rglob("*.png")]
    (folder / "attributes.csv").write_text("\n".join(["file,number,one", *rows]))
    splits = load(f"folder:{folder}", tmp_path)
    assert splits.attribute_names == ("number", "one")
    assert splits.train.attributes is not None
    values = splits.train.pixels[:, 0, 0, 0] % 50
    assert torch.equal(splits.train.attributes[:, 0], values.float())


def test_grey_images_stay_grey(tmp_path: Path) -> None:
    (tmp_path / "grey").mkdir()
    for number in range(12):
        Image.new("L", (9, 9), number).save(tmp_path / "grey" / f"{number}.png")
    assert load(f"folder:{tmp_path / 'grey'}", tmp_path).shape == (1, 9, 9)


def break_nothing_there(folder: Path) -> None:
    for path in folder.rglob("*.png"):
        path.unlink()


def break_truncated(folder: Path) -> None:
    path = folder / "cats" / "3.png"
    path.write_bytes(path.read_bytes()[:40])


def break_not_an_image(folder: Path) -> None:
    (folder / "cats" / "3.png").write_text("<html>")


def break_empty_file(folder: Path) -> None:
    (folder / "dogs" / "0.png").write_bytes(b"")


def break_sizes(folder: Path) -> None:
    write_picture(folder / "cats" / "3.png", size=(10, 10))


def break_mixed_layout(folder: Path) -> None:
    write_picture(folder / "stray.png")


def break_attributes_missing_row(folder: Path) -> None:
    (folder / "attributes.csv").write_text("file,a\ncats/0.png,1\n")


def break_attributes_text(folder: Path) -> None:
    (folder / "attributes.csv").write_text("file,a\ncats/0.png,yes\n")


def break_attributes_nan(folder: Path) -> None:
    (folder / "attributes.csv").write_text("file,a\ncats/0.png,nan\n")


def break_attributes_ragged(folder: Path) -> None:
    (folder / "attributes.csv").write_text("file,a\ncats/0.png,1,2\n")


def break_attributes_binary(folder: Path) -> None:
    (folder / "attributes.csv").write_bytes(b"\xff\xfe\x00\x00")


def break_attributes_empty(folder: Path) -> None:
    (folder / "attributes.csv").write_bytes(b"")


def break_too_few(folder: Path) -> None:
    for path in folder.rglob("*.png"):
        if path.stem != "0":
            path.unlink()


@pytest.mark.parametrize(
    ("breaking", "message"),
    [
        (break_nothing_there, "no images in .*; expected files ending in"),
        (break_truncated, r"cannot decode .*3.png .*; replace or remove that file"),
        (break_not_an_image, r"cannot decode .*3.png"),
        (break_empty_file, r"cannot decode .*0.png"),
        (break_sizes, r"3.png is 10x10, .* is 8x6: set shape"),
        (break_mixed_layout, r"both directly \(stray.png\) and in folders"),
        (break_attributes_missing_row, r"lacks 23 of 24 images, such as 'cats/1.png'"),
        (break_attributes_text, r"cannot read .*attributes.csv .*could not convert"),
        (break_attributes_nan, "values that are not finite or beyond"),
        (break_attributes_ragged, "not as long as its header"),
        (break_attributes_binary, "cannot read .*attributes.csv"),
        (break_attributes_empty, "cannot read .*attributes.csv"),
        (break_too_few, "too few to split"),
    ],
)
def test_a_wrong_folder_is_one_clear_line(tmp_path: Path, breaking, message: str) -> None:  # type: ignore[no-untyped-def]
    folder = write_folder(tmp_path / "pets")
    breaking(folder)
    with pytest.raises(DataError, match=message):
        load(f"folder:{folder}", tmp_path)
    assert not list(tmp_path.glob("cache/*"))


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no folder .*nowhere; DATA=folder:PATH"):
        load(f"folder:{tmp_path / 'nowhere'}", tmp_path)


def test_a_class_only_in_the_test_part_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "set" / "train")
    write_folder(tmp_path / "set" / "test", classes=("cats", "birds"), each=2)
    with pytest.raises(DataError, match="has the class 'birds', which the training images lack"):
        load(f"folder:{tmp_path / 'set'}", tmp_path)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(content=st.binary(max_size=200), position=st.integers(0, 60))
def test_any_bytes_in_an_image_file_are_an_image_or_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, position: int
) -> None:
    place = tmp_path_factory.mktemp("fuzz")
    folder = write_folder(place / "pets", each=6)
    path = folder / "cats" / "3.png"
    whole = path.read_bytes()
    path.write_bytes(whole[:position] + content + whole[position + len(content) :])
    try:
        splits = load(f"folder:{folder}", place, shape=(1, 8, 8))
    except DataError as found:
        error = str(found)
        splits = None
    assert "3.png" in error if splits is None else splits.shape == (1, 8, 8)


def test_resizing_keeps_the_brightness() -> None:
    pixels = torch.full((2, 1, 8, 8), 200, dtype=torch.uint8)
    grown = resize(pixels, (3, 28, 28))
    assert grown.shape == (2, 3, 28, 28)
    assert int(grown.min()) == int(grown.max()) == 200


def test_the_folder_source_reads_nothing_to_know_its_fingerprint(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "pets")
    before = find_source(f"folder:{folder}", tmp_path).fingerprint()
    write_picture(folder / "cats" / "new.png")
    assert find_source(f"folder:{folder}", tmp_path).fingerprint() != before
