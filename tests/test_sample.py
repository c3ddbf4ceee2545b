"""`make sample`: images that exported models make, and labels as a person asks for them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from PIL import Image

from models.acgan import ACGAN, ACGANConfig
from models.analysis.gaussian import draw_gaussian
from models.asked_labels import read_labels
from models.base import Model, build
from models.cae import CAE, CAEConfig
from models.errors import ConfigError
from models.export import write_export
from models.gan import GAN, GANConfig
from models.image_classifier import ImageClassifier
from models.stargan import StarGAN, StarGANConfig
from models.vae import VAE, VAEConfig
from search.__main__ import main
from search.cli.sample import order_rows
from search.cli.sample_files import ABOUT, PICTURE
from storage.files.exports import read_provenance
from storage.files.sealed_json import write_sealed
from storage.paths import RunPaths
from tests.test_stored_names import store

Sample = Callable[..., tuple[int, str, str]]
DIGITS = tuple("0123456789")
CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SMALL: dict[type[Model], Any] = {
    GAN: GANConfig(latent=4, width=0.125),
    VAE: VAEConfig(latent=2, width=0.125),
    CAE: CAEConfig(channels=2, latent=3),
    ACGAN: ACGANConfig(latent=4, width=0.0625, labels=10, exclusive=True),
    StarGAN: StarGANConfig(width=0.0625, blocks=1, labels=10, exclusive=True),
}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def sample(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Sample:
    """Call the command; returns its exit code, output and errors."""

    def call(**variables: object) -> tuple[int, str, str]:
        given = {"RUNS": runs, **variables}
        for name, value in given.items():
            monkeypatch.setenv(name, str(value))
        monkeypatch.setenv("GENSTUDY_GIVEN", " ".join(given))
        monkeypatch.setenv("COLUMNS", "300")
        code = main(["sample"])
        for name in given:
            monkeypatch.delenv(name)
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def export(runs: Path, family: type[Model], name: str = "s", rank: int = 1) -> Model:
    """Write the weights of a small model as an export of the digits."""
    shape = (1, 32, 32) if family in (ACGAN, StarGAN) else (1, 28, 28)
    model = build(family, SMALL[family], shape, seed=0)
    folder = RunPaths(runs).export(name, rank)
    folder.mkdir(parents=True)
    model.programs = lambda: {}  # type: ignore[method-assign]  # a second each, and not asked here
    write_export(model, folder)
    names = DIGITS if family is StarGAN else CLASSES
    about = {"study": name, "trial": 7, "made": "today", "data": "digits", "label_names": names}
    write_sealed(folder / "provenance.json", about)
    return model


def write_faces(folder: Path, *columns: str) -> Path:
    """Write twelve images; an attribute that begins with s is 1 for every second one, else 0."""
    folder.mkdir()
    rows = [",".join(("file", *columns))]
    for number in range(12):
        pixels = np.full((32, 32), 20 * number, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        values = (str(number % 2 if name.startswith("s") else 0) for name in columns)
        rows.append(",".join((f"{number}.png", *values)))
    if columns:
        (folder / "attributes.csv").write_text("\n".join(rows) + "\n")
    return folder


def export_with_attributes(runs: Path, *names: str) -> Path:
    """Write the weights of a small StarGAN as an export that is given two attributes."""
    config = StarGANConfig(width=0.0625, blocks=1, labels=2, ranges=((0, 1), (0, 1)))
    folder = RunPaths(runs).export("s", 1)
    folder.mkdir(parents=True)
    model = build(StarGAN, config, (1, 32, 32), seed=0)
    model.programs = lambda: {}  # type: ignore[method-assign]
    write_export(model, folder)
    write_sealed(
        folder / "provenance.json",
        {"study": "s", "trial": 7, "data": "digits", "label_names": names},
    )
    return folder


def read(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("family", SMALL)
def test_every_family_makes_the_same_images_of_the_same_seed(
    runs: Path, sample: Sample, tmp_path: Path, family: type[Model]
) -> None:
    export(runs, family)
    code, out, error = sample(NAME="s", N=3)
    assert (code, error) == (0, "")
    made = read(runs / "samples" / "s" / "1")
    assert made.keys() == {"0.png", "1.png", "2.png", PICTURE, ABOUT}
    assert "3 images (" in out
    assert "s trial 7, seed 0: " in out
    assert len({made[f"{number}.png"] for number in range(3)}) > 1
    assert sample(NAME="s", N=3, OUT=tmp_path / "again")[0] == 0
    assert read(tmp_path / "again") == made
    assert sample(NAME="s", N=3, SEED=1)[0] == 0  # in the place of the first
    assert read(runs / "samples" / "s" / "1") != made


def test_the_images_are_those_of_python(runs: Path, sample: Sample) -> None:
    model = export(runs, GAN).eval()
    assert isinstance(model, GAN)
    assert sample(NAME="s", N=12, SEED=5)[0] == 0
    with Image.open(runs / "samples" / "s" / "1" / "11.png") as shown:
        values = np.asarray(shown) / 255
    wanted = model.sample(12, seed=5)[11, 0]
    assert np.abs(values - wanted.numpy()).max() <= 0.5 / 255 + 1e-6


def test_classes_are_taken_in_turn(runs: Path, sample: Sample) -> None:
    export(runs, ACGAN)
    assert sample(NAME="s", N=5, LABELS="two, 4")[0] == 0
    about = json.loads((runs / "samples" / "s" / "1" / ABOUT).read_text())
    assert about["labels"] == [*CLASSES]
    assert [row.index(1.0) for row in about["values"]] == [2, 4, 2, 4, 2]


def test_a_translation_of_one_image_is_the_first_of_several(runs: Path, sample: Sample) -> None:
    """Each image has the labels of the next: also the only one those of another."""
    export(runs, StarGAN)
    place = runs / "samples" / "s" / "1"
    others = 0
    for seed in range(3):
        found = []
        for count in (1, 3):
            assert sample(NAME="s", N=count, SEED=seed)[0] == 0
            about = json.loads((place / ABOUT).read_text())
            found.append(((place / "0.png").read_bytes(), about["values"][0]))
        assert found[0] == found[1]
        assert about["values"][1] != about["values"][0] or seed
        others += about["values"][1] != about["values"][0]
    assert others


@pytest.mark.parametrize("images", [2, 3, 7])
def test_an_image_that_is_translated_again_is_given_the_labels_of_another(images: int) -> None:
    count = 5 * images
    rows, others = (order_rows(images, count, seed=3, ahead=ahead) for ahead in (False, True))
    assert sorted(rows[:images].tolist()) == [*range(images)]
    assert not (rows == others).any()
    again = set(others[rows == rows[0]].tolist())
    assert len(again) == min(5, images - 1)
    assert order_rows(1, 3, seed=0, ahead=True).tolist() == [0, 0, 0]


def test_attributes_of_another_set_are_found_by_their_names(
    runs: Path, sample: Sample, tmp_path: Path
) -> None:
    folder = export_with_attributes(runs, "smile", "beard")
    values = []
    for name, columns in (("same", ("smile", "beard")), ("turned", ("beard", "hat", "smile"))):
        place = write_faces(tmp_path / name, *columns)
        code, _, error = sample(FROM=folder, N=6, DATA=f"folder:{place}", LABELS="beard=0.5")
        assert (code, error) == (0, "")
        values.append(json.loads((runs / "samples" / "s" / "1" / ABOUT).read_text())["values"])
    assert values[0] == values[1]
    assert {row[0] for row in values[0]} == {0.0, 1.0}
    assert {row[1] for row in values[0]} == {0.5}


def test_labels_of_an_older_export_are_those_of_its_program(runs: Path, sample: Sample) -> None:
    """Its provenance has the attributes in another order than the model."""
    folder = export_with_attributes(runs)
    attributes = {"smile": [0, 1], "a": [0, 1]}
    about = {"study": "s", "trial": 7, "data": "digits", "attributes": attributes}
    write_sealed(folder / "provenance.json", about)
    assert list((read_provenance(folder) or {})["attributes"]) == ["a", "smile"]
    program = helper.make_model(helper.make_graph([], "generator", [], []))
    helper.set_model_props(program, {"attributes": json.dumps(attributes)})
    onnx.save(program, folder / "generator.onnx")
    assert sample(NAME="s", N=1, LABELS="a=0.25, smile=1")[0] == 0
    found = json.loads((runs / "samples" / "s" / "1" / ABOUT).read_text())
    assert (found["labels"], found["values"]) == (["smile", "a"], [[1.0, 0.25]])


def test_transparent_images_stand_on_the_background_of_the_training(
    runs: Path, sample: Sample, tmp_path: Path
) -> None:
    """A copy of the set on that background gives the same images."""
    grounds: dict[str, Path] = {}
    for name, colour in (("clear", None), ("black", 0), ("white", 255)):
        grounds[name] = tmp_path / name
        grounds[name].mkdir()
        for number in range(12):
            picture = Image.new("LA", (28, 28), (20 * number, 0))
            picture.paste((20 * number, 255), (5, 5, 20, 20))
            if colour is not None:
                ground = Image.new("LA", picture.size, (colour, 255))
                picture = Image.alpha_composite(ground.convert("RGBA"), picture.convert("RGBA"))
            picture.save(grounds[name] / f"{number}.png")
    export(runs, CAE)
    folder = RunPaths(runs).export("s", 1)
    about = read_provenance(folder) or {}

    def made(name: str, **more: object) -> dict[str, bytes]:
        code, _, error = sample(FROM=folder, N=2, DATA=f"folder:{grounds[name]}", **more)
        assert (code, error) == (0, "")
        return read(runs / "samples" / "s" / "1")

    assert made("clear") == made("white") != made("black")
    write_sealed(folder / "provenance.json", {**about, "background": "#000000"})
    assert made("clear") == made("black")
    assert made("clear", BACKGROUND="white") == made("white")
    write_sealed(folder / "provenance.json", about)
    program = helper.make_model(helper.make_graph([], "encoder", [], []))
    helper.set_model_props(program, {"preparation": json.dumps({"background": "#000000"})})
    onnx.save(program, folder / "encoder.onnx")
    assert made("clear") == made("black"), "an older export"


def test_a_set_without_the_labels_of_an_export_needs_them_in_labels(
    runs: Path, sample: Sample, tmp_path: Path
) -> None:
    folder, plain = export_with_attributes(runs, "smile", "beard"), write_faces(tmp_path / "plain")
    other = write_faces(tmp_path / "other", "sad", "old")
    for data in (f"folder:{plain}", f"folder:{other}", "digits"):
        for more in ({}, {"LABELS": "smile=1"}):
            code, _, error = sample(FROM=folder, N=2, DATA=data, **more)
            assert code == 2
            assert error.count("\n") == 1
            assert "lacks attributes of the export (smile, beard): give each a value" in error
    assert sample(FROM=folder, N=2, DATA=f"folder:{plain}", LABELS="smile=1,beard=0")[0] == 0
    export(runs, StarGAN, rank=2)
    folder = RunPaths(runs).export("s", 2)
    code, _, error = sample(FROM=folder, N=2, DATA=f"folder:{plain}")
    assert code == 2
    assert "has other classes than the export (0, 1, 2, 3, 4, 5, 6, 7 and 2 more)" in error
    assert sample(FROM=folder, N=2, DATA=f"folder:{plain}", LABELS="7")[0] == 0


def test_more_images_than_memory_holds_are_refused_before_they_are_made(
    runs: Path, sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(runs, GAN)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=2**30))
    code, _, error = sample(NAME="s", N=1_000_000)
    assert code == 2
    assert "N=1000000 images of 1x28x28 need 8.8 GiB of memory, and 1.0 are free" in error
    assert sample(NAME="s", N=1)[0] == 0


def test_one_file_holds_a_picture_of_all(runs: Path, sample: Sample, tmp_path: Path) -> None:
    export(runs, GAN)
    place = tmp_path / "new" / "all.PNG"
    assert sample(NAME="s", N=25, OUT=place)[0] == 0
    with Image.open(place) as shown:
        width, height = shown.size
    assert width > 2 * height  # ten in a row


def test_the_only_stored_study_of_a_file_is_meant_by_its_name(runs: Path, sample: Sample) -> None:
    export(runs, GAN, name="gan-digits")
    code, _, error = sample(NAME="gan", N=1)
    assert code == 2, "without a trial database nobody knows who began it"
    assert "no export of gan under" in error
    store(f"sqlite:///{runs}/studies.db", "gan-digits", "digits", command="gan")
    assert sample(NAME="gan", N=1)[0] == 0
    assert (runs / "samples" / "gan-digits" / "1" / "0.png").exists()
    assert sample(NAME="gan", DATA="mnist", N=1)[0] == 2, "that is gan-mnist"
    export(runs, GAN, name="gan")
    assert sample(NAME="gan", N=1)[0] == 0
    assert (runs / "samples" / "gan" / "1" / "0.png").exists()


def test_an_export_of_any_place_is_sampled(runs: Path, sample: Sample, tmp_path: Path) -> None:
    export(runs, GAN)
    folder = RunPaths(runs).export("s", 1).rename(tmp_path / "mine")
    code, _, error = sample(FROM=folder, N=1)
    assert (code, error) == (0, "")
    assert (runs / "samples" / "s" / "1" / "0.png").exists()


def test_an_export_with_a_model_of_its_study_file_says_which_file(
    runs: Path, sample: Sample, tmp_path: Path
) -> None:
    export(runs, GAN)
    folder = RunPaths(runs).export("s", 1)
    about = json.loads((folder / "config.json").read_text())
    write_sealed(folder / "config.json", {**about, "model": "own:Own"})
    write_sealed(folder / "provenance.json", {"study": "s", "trial": 7, "study_file": "my/own.py"})
    needed = "error: s trial 7 needs the study file that defines its model: make sample"
    assert sample(NAME="s", N=1) == (2, "", f"{needed} NAME=my/own.py\n")
    assert sample(FROM=folder, N=1) == (2, "", f"{needed} NAME=my/own.py FROM={folder}\n")


def test_nothing_of_a_person_is_overwritten(runs: Path, sample: Sample, tmp_path: Path) -> None:
    export(runs, GAN)
    mine = tmp_path / "mine"
    mine.mkdir()
    assert sample(NAME="s", N=2, OUT=mine)[0] == 0
    (mine / "notes.txt").write_text("mine")
    before = read(mine)
    code, _, error = sample(NAME="s", N=1, OUT=mine)
    assert code == 2
    assert "holds other files; give a folder that is new or empty" in error
    assert read(mine) == before
    (tmp_path / "file").write_text("mine")
    for place, said in (
        ("file", "is a file; name a folder, or a file that ends in .png"),
        ("file/below", f"{tmp_path}/file is not a folder"),
        ("file/a.png", f"{tmp_path}/file is not a folder"),
    ):
        code, _, error = sample(NAME="s", N=1, OUT=tmp_path / place)
        assert code == 2
        assert said in error
    assert (tmp_path / "file").read_text() == "mine"


def test_a_picture_of_something_else_is_not_overwritten(
    runs: Path, sample: Sample, tmp_path: Path
) -> None:
    export(runs, GAN)
    names = ("photo.png", "notes.png", "map.png", "made.png")
    mine, notes, huge, made = (tmp_path / name for name in names)
    Image.new("L", (9, 9)).save(mine)
    notes.write_text("mine")
    Image.new("1", (20_000, 20_000)).save(huge)  # Pillow calls it a bomb
    for place in (mine, notes, huge):
        before = place.read_bytes()
        code, _, error = sample(NAME="s", N=1, OUT=place)
        assert code == 2
        assert "nothing in it says that it shows samples; name another file" in error
        assert place.read_bytes() == before
    sizes = []
    for count in (1, 4):
        assert sample(NAME="s", N=count, OUT=made)[0] == 0
        sizes.append(made.stat().st_size)
    assert sizes[0] != sizes[1], "samples of before may be overwritten"


@pytest.mark.parametrize(
    ("variables", "fragments"),
    [
        ({}, ["NAME"]),
        ({"NAME": "s", "RANK": 4}, ["RANK=4", "rank 1, 2"]),
        ({"NAME": "cae", "DATA": "digits"}, ["no export of cae-digits", "exports of s"]),
        ({"NAME": "nothing"}, ["unknown study 'nothing'"]),
        ({"NAME": "s-digit"}, ["no export of 's-digit'", "did you mean 's-digits'?"]),
        ({"NAME": "s", "N": 0}, ["N='0'"]),
        ({"NAME": "s", "LABELS": "two"}, ["LABELS is given", "GAN, which takes none"]),
        ({"FROM": "/nowhere"}, ["there is no folder /nowhere", "runs/exports/cae/1"]),
        ({"NAME": "s", "OUT": "/proc"}, ["/proc"]),
    ],
)
def test_a_mistake_is_one_line(
    runs: Path, sample: Sample, variables: Mapping[str, object], fragments: list[str]
) -> None:
    export(runs, GAN)
    export(runs, GAN, rank=2)
    export(runs, GAN, name="s-digits")
    code, out, error = sample(**variables)
    assert (code, out) == (2, "")
    assert error.count("\n") == 1
    assert error.startswith("error: ")
    for fragment in fragments:
        assert fragment in error


def test_a_classifier_makes_no_images() -> None:
    assert ImageClassifier.make is Model.make


# ---- labels ----

NAMES, RANGES = ("smile", "beard", "2"), ((0.0, 1.0), (-1.0, 1.0), (0.0, 10.0))


def test_attributes_are_asked_for_in_their_own_units() -> None:
    asked = read_labels("beard=0, smile=1,2=5", NAMES, RANGES)
    assert asked.attributes == {1: 0.5, 0: 1.0, 2: 0.5}
    given = torch.rand(4, 3)
    wanted = asked.put_on(given)
    assert wanted.tolist() == [[1.0, 0.5, 0.5]] * 4
    some = read_labels("beard=-1", NAMES, RANGES).put_on(given)
    assert torch.equal(some[:, [0, 2]], given[:, [0, 2]])


@pytest.mark.parametrize(
    ("text", "ranges", "fragment"),
    [
        ("", (), "names none of smile, beard, 2"),
        ("hat", (), "'hat', which is no class: smile, beard, 2"),
        ("7", (), "'7', which is no class"),
        ("smile", RANGES, "say a value of the attribute, as in smile=1"),
        ("hat=1", RANGES, "'hat', which is no attribute"),
        ("smile=1, beard=0, smile=0", RANGES, "gives smile two values"),
        ("smile=1, 0=1", RANGES, "gives smile two values"),
        ("beard=2", RANGES, "gives beard the value '2'; in training it goes from -1 to 1"),
        ("beard=nan", RANGES, "gives beard the value 'nan'"),
        ("beard=x", RANGES, "gives beard the value 'x'"),
    ],
)
def test_labels_that_there_are_not_are_named(
    text: str, ranges: tuple[tuple[float, float], ...], fragment: str
) -> None:
    with pytest.raises(ConfigError, match="LABELS") as error:
        read_labels(text, NAMES, ranges)
    assert fragment in str(error.value)


# ---- codes of an autoencoder ----


def test_draws_have_the_mean_and_covariance_of_the_codes() -> None:
    generator = torch.Generator().manual_seed(0)
    codes = torch.randn(4000, 3, generator=generator) @ torch.tensor(
        [[1.0, 0.0, 0.0], [0.5, 2.0, 0.0], [0.0, 0.0, 0.0]]  # the third unit is dead
    )
    codes += torch.tensor([3.0, 0.0, 7.0])
    drawn = draw_gaussian(codes, 50_000, seed=1)
    assert torch.allclose(drawn.mean(0), codes.mean(0), atol=0.03)
    assert torch.allclose(drawn.T.cov(), codes.T.cov(), atol=0.06)
    assert drawn[:, 2].eq(7.0).all()
    assert torch.equal(drawn, draw_gaussian(codes, 50_000, seed=1))
    assert torch.equal(draw_gaussian(codes[:1], 2, seed=0), codes[[0, 0]])
