"""Whatever stands in a study file or a folder of images: it is read, or refused in one line.

    GENSTUDY_FUZZ=20000 python -m pytest --timeout=0 tests/test_fuzz.py     an hour, not seconds

The short form draws the same examples each time; a longer one draws new ones.
"""

from __future__ import annotations

import io
import math
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from models.data.images import ImageSplits
from models.data.loading import load_images
from models.errors import DataError
from search.errors import StudyFileError, UnknownStudy
from search.setup.loading import find_study, load_study
from search.study import Study

LONG = int(os.environ.get("GENSTUDY_FUZZ", "0"))
LONGEST = 500  # characters of a message


def examples(count: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return settings(
        max_examples=LONG or count,
        derandomize=not LONG,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


def one_line(error: Exception, place: str) -> bool:
    """Of a message whose paths do not count."""
    said = str(error)
    return "\n" not in said and 0 < len(said) <= LONGEST + 2 * len(place)


def as_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def load(content: bytes) -> Study | None:
    """The study in a file of ``content``; None where it is refused as it should be."""
    refused = None
    with TemporaryDirectory() as folder:
        path = Path(folder) / "s.py"
        path.write_bytes(content)
        study = None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                study = load_study(str(path))
        except StudyFileError as error:
            refused = error
        assert path.read_bytes() == content
        assert [found.name for found in Path(folder).iterdir()] == ["s.py"]
        if refused is not None:
            assert one_line(refused, folder), refused
            assert str(path) in str(refused)
    return study


@examples(200)
@given(content=st.one_of(st.binary(max_size=200), st.text(max_size=200).map(as_bytes)))
def test_any_file_is_a_study_or_one_line(content: bytes) -> None:
    assert load(content) is None


# what a study file may say: right values, and all others that can be written down
NUMBERS = st.one_of(
    st.integers(), st.integers(-2, 12), st.floats(), st.sampled_from([10**30, -(2**63), True])
)
WORDS = st.one_of(st.text(max_size=20), st.sampled_from(["mse", "digits", "tpe", "none", "cae"]))
PLAIN = st.one_of(st.none(), NUMBERS, WORDS, st.binary(max_size=5))
VALUES = st.recursive(
    PLAIN,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(WORDS, inner, max_size=3),
    ),
    max_leaves=6,
)
CALLS = st.builds(
    "{}({}={!r})".format,
    st.sampled_from(["tpe", "median", "hyperband", "percentile", "cmaes", "grid", "x"]),
    st.sampled_from(["n_startup_trials", "n_warmup_steps", "seed", "max_resource", "y"]),
    VALUES,
)
FIELDS = {
    "model": st.just("CAE"),
    "suggest": st.just("suggest"),
    "data": st.just("'digits'"),
    "metric": st.just("'mse'"),
    "trials": st.integers(1, 9).map(repr),
    "epochs": st.integers(1, 9).map(repr),
}
OTHERS = ("direction", "sampler", "pruner", "shape", "retrain_epochs", "patience", "seed", "x")
SAID = st.one_of(VALUES.map(repr), CALLS.map(repr), st.sampled_from(["CAE", "suggest", "print"]))
ASKED = st.builds(
    "{}({!r}, {})".format,
    st.sampled_from(["suggest_int", "suggest_float", "suggest_categorical", "suggest"]),
    WORDS,
    st.lists(SAID, max_size=3).map(", ".join),
)


def written(fields: dict[str, str], asked: list[str]) -> str:
    """A study file; nan and inf are names in it, so that every repr can be read."""
    lines = "".join(f"    trial.{call}\n" for call in asked)
    said = ", ".join(f"{name}={value}" for name, value in fields.items())
    return (
        "from math import inf, nan\n"
        "from models.cae import CAE, CAEConfig\n"
        "from search.study import StudySpec\n"
        f"def suggest(trial):\n{lines}    return CAEConfig()\n"
        f"STUDY = StudySpec({said})\n"
    )


@examples(200)
@given(
    right=st.fixed_dictionaries(FIELDS),
    other=st.dictionaries(st.sampled_from((*FIELDS, *OTHERS)), SAID, max_size=3),
    asked=st.lists(ASKED, max_size=2),
)
def test_any_arguments_make_a_study_or_one_line(
    right: dict[str, str], other: dict[str, str], asked: list[str]
) -> None:
    study = load(as_bytes(written({**right, **other}, asked)))
    if study is not None:
        spec = study.spec
        assert all(type(count) is int and count >= 1 for count in (spec.trials, spec.epochs))
        assert spec.metric in spec.model.metrics
        assert isinstance(spec.data, str)
        assert all(math.isfinite(getattr(d, "low", 0)) for d in study.space.values())


@examples(300)
@given(name=st.text(max_size=300).filter(lambda name: "\0" not in name))
def test_any_name_is_a_study_or_one_line(name: str) -> None:
    try:
        found = find_study(name).is_file()
    except (UnknownStudy, StudyFileError) as error:
        found = one_line(error, str(Path.cwd()))
    assert found


def picture(kind: str, mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").resize((9, 7)).convert(mode).save(file, kind)
    return file.getvalue()


WHOLE = [
    (suffix, picture(kind, mode))
    for suffix, kind, mode in [
        ("png", "PNG", "RGB"), ("png", "PNG", "P"), ("PNG", "PNG", "I;16"), ("jpg", "JPEG", "L"),
        ("webp", "WEBP", "RGBA"), ("tif", "TIFF", "RGB"), ("tiff", "TIFF", "F"),
        ("bmp", "BMP", "L"), ("pgm", "PPM", "L"), ("ppm", "PPM", "RGB"),
    ]
]  # fmt: skip


@st.composite
def images(draw: st.DrawFn) -> tuple[str, bytes]:
    """A name's ending and a file's content: an image that was cut, patched, or mixed up."""
    suffix, content = draw(st.sampled_from(WHOLE))
    damage = draw(st.sampled_from(["none", "none", "none", "cut", "patched", "junk"]))
    if damage == "cut":
        content = content[: draw(st.integers(0, len(content)))]
    if damage == "junk":
        content = draw(st.binary(max_size=60))
    for _ in range(draw(st.integers(1, 4)) if damage == "patched" else 0):
        place = draw(st.integers(0, len(content) - 1))
        patch = draw(st.binary(max_size=8))
        content = content[:place] + patch + content[place + len(patch) :]
    return suffix, content


NAMES = st.one_of(
    st.sampled_from(["a", "b", "train", "test", "cats"]),
    st.binary(min_size=1, max_size=6)
    .filter(lambda name: not set(name) & {0, 47} and name not in (b".", b".."))
    .map(os.fsdecode),
)
CELLS = st.one_of(st.sampled_from(["0", "1.5", "nan", "", "file", '"']), st.text(max_size=5))
TABLES = st.one_of(
    st.binary(max_size=80),
    st.lists(st.lists(CELLS, max_size=3).map(",".join), max_size=5).map(
        lambda rows: as_bytes("\n".join(rows))
    ),
)


def read(folder: Path, shape: tuple[int, int, int] | None) -> ImageSplits | None:
    """The images of ``folder``; None where they are refused as they should be."""
    kept = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    cache = folder.parent / "cache"
    splits = refused = None
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always")
        try:
            name = f"folder:{folder}"
            splits = load_images(name, root=folder.parent, cache=cache, shape=shape)
        except DataError as error:
            refused = error
    assert refused is None or (one_line(refused, str(folder)) and not cache.exists()), refused
    assert not noted, noted[0].message
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == kept
    return splits


@examples(200)
@given(
    parts=st.lists(st.lists(NAMES, max_size=2), max_size=2),
    files=st.lists(st.tuples(st.integers(0, 3), NAMES, images()), max_size=4),
    table=st.one_of(st.none(), st.none(), TABLES),
    right=st.sampled_from([0, 12]),
    shape=st.sampled_from([None, (1, 8, 8), (3, 5, 9)]),
)
def test_any_tree_is_images_or_one_line(
    parts: list[list[str]],
    files: list[tuple[int, str, tuple[str, bytes]]],
    table: bytes | None,
    right: int,
    shape: tuple[int, int, int] | None,
) -> None:
    with TemporaryDirectory() as place:
        folder = Path(place) / "set"
        folders = [folder, *(folder.joinpath(*names) for names in parts)]
        for made in folders:
            made.mkdir(parents=True, exist_ok=True)
        for number in range(right):
            (folders[-1] / f"{number}.png").write_bytes(WHOLE[0][1])
        for index, name, (suffix, content) in files:
            path = folders[index % len(folders)] / f"{name}.{suffix}"
            if not path.is_dir():
                path.write_bytes(content)
        if table is not None:
            (folder / "attributes.csv").write_bytes(table)
        splits = read(folder, shape)
        assert splits is None or shape is None or splits.shape == shape


@pytest.mark.parametrize("shape", [None, (1, 8, 8)])
@examples(100)
@given(image=images(), table=st.one_of(st.none(), st.none(), TABLES))
def test_one_odd_image_among_right_ones_is_read_or_named(
    shape: tuple[int, int, int] | None, image: tuple[str, bytes], table: bytes | None
) -> None:
    with TemporaryDirectory() as place:
        folder = Path(place) / "set"
        folder.mkdir()
        for number in range(10):
            (folder / f"{number}.png").write_bytes(WHOLE[0][1])
        (folder / f"odd.{image[0]}").write_bytes(image[1])
        if table is not None:
            (folder / "attributes.csv").write_bytes(table)
        splits = read(folder, shape)
        if splits is not None:
            assert sum(len(part) for part in (splits.train, splits.valid, splits.test)) == 11
