"""`make sample`: images that exported models make, and labels as a person asks for them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
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
from search.cli.sample_files import ABOUT, PICTURE
from storage.files.sealed_json import write_sealed
from storage.paths import RunPaths
from tests.test_stored_names import store

Sample = Callable[..., tuple[int, str, str]]
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
    about = {"study": name, "trial": 7, "made": "today", "data": "digits", "classes": CLASSES}
    write_sealed(folder / "provenance.json", about)
    return model


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
        ({"FROM": "/nowhere"}, ["/nowhere is not a whole export"]),
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
