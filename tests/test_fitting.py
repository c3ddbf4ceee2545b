"""A study fits somebody's own images, or says what it does to them, before anything is searched."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from models.analysis.confusion import class_table, draw_confusion
from models.augmentation import AugmentedGAN, AugmentedGANConfig
from models.base import ModelConfig, build, evaluating
from models.cae import CAE, CAEConfig
from models.conditional_gan import LabelledConfig
from models.data.decoding import Header
from models.data.description import FolderDescription
from models.data.folders import FolderSource
from models.data.images import Images, ImageSplits
from models.data.layout import FolderLayout
from models.data.torchvision_sets import DigitsSource
from models.errors import ConfigError, DataError
from models.evaluation.feature_net import FeatureNet, FeatureNetConfig
from models.export import exported_shape
from models.gan import GAN, GANConfig
from models.model_config import fit_batch
from models.needs import Needs, Sides, count_classes, is_unclassed
from models.stargan import StarGAN, StarGANConfig
from models.training.gan_losses import sample_spread
from models.training.loop import evaluate
from models.upsample_ae import UpsampleAE, UpsampleAEConfig
from models.vae import VAE, VAEConfig
from search.setup.fitting import (
    STEPS,
    check_needs,
    describe_batches,
    describe_fit,
)
from search.setup.loading import load_study, study_names
from search.setup.sampled import sample_configurations
from search.setup.shapes import choose_shape, fit_shape, stored_shape
from search.setup.stored_study import identify_study, read_identity
from search.variables import Variables
from storage import trials
from storage.database.connection import open_storage
from storage.files.model_card import warnings_of
from tests.conftest import CAE_SHAPE, blank_images
from tests.user import User

WriteStudy = Callable[..., Path]

TINY_GAN = """
    '''A tiny GAN.'''
    from models.gan import GAN, GANConfig
    from search.study import StudySpec

    def suggest(trial):
        return GANConfig(
            architecture="32", width=0.0625, batch_size=8,
            lr_g=trial.suggest_float("lr_g", 1e-4, 1e-2, log=True),
        )

    STUDY = StudySpec(
        model=GAN, suggest=suggest, data="digits", shape=(1, 32, 32), metric="frechet",
        sampler="random", pruner="none", trials=2, epochs=1, retrain_epochs=1,
    )
"""


def some_images(*, train: int, valid: int = 20, test: int = 20, classes: int = 2) -> ImageSplits:
    """Black images whose classes take turns."""

    def part(count: int) -> Images:
        labels = torch.arange(count) % classes if classes else None
        return Images(pixels=torch.zeros(count, *CAE_SHAPE, dtype=torch.uint8), labels=labels)

    return ImageSplits(
        name="folder:pets", fingerprint="x", train=part(train), valid=part(valid), test=part(test),
        classes=tuple(f"class {index}" for index in range(classes)),
    )  # fmt: skip


def without_training_images(images: ImageSplits, label: int) -> ImageSplits:
    labels = images.train.labels
    assert labels is not None
    return replace(images, train=images.train.take(torch.nonzero(labels != label).flatten()))


# ---- what images must have ----


def test_too_few_images_of_a_part_are_named_with_what_needs_them() -> None:
    needs = Needs(what="the measuring of samples", test=6)
    needs.check(some_images(train=9, test=6))
    with pytest.raises(DataError) as caught:
        needs.check(some_images(train=9, test=5))
    said = str(caught.value)
    assert said == (
        "folder:pets has 5 test images, but the measuring of samples needs 6 or more: add images"
    )


def test_a_class_without_training_images_is_named() -> None:
    images = without_training_images(some_images(train=30, valid=20, test=10), 1)
    needs = Needs(what="a classifier", classes=2, each_class=True)
    with pytest.raises(DataError, match=r"the class 'class 1' of folder:pets has no training"):
        needs.check(images)
    assert count_classes(images)["class 1"] == {"train": 0, "valid": 10, "test": 5}
    three = without_training_images(some_images(train=30, classes=3), 2)
    Needs(what="a judge", classes=2).check(three)
    with pytest.raises(DataError, match="'class 2'"):
        needs.check(three)


def test_one_class_is_no_class() -> None:
    assert is_unclassed(some_images(train=9, classes=0))
    assert is_unclassed(some_images(train=9, classes=1))
    assert not is_unclassed(some_images(train=9, classes=2))
    with pytest.raises(DataError, match="has one class, but a classifier needs 2 or more"):
        Needs(what="a classifier", classes=2).check(some_images(train=9, classes=1))


def test_attributes_do_for_a_model_that_takes_either() -> None:
    plain = some_images(train=9, classes=0)
    needs = StarGAN.needs(StarGANConfig())
    with pytest.raises(DataError, match=r"no classes.*or add an attributes\.csv"):
        needs.check(plain)
    described = replace(plain.train, attributes=torch.rand(9, 2))
    replace(needs, train=1).check(replace(plain, train=described))


@pytest.mark.parametrize(
    ("config", "fewest"),
    [
        (GANConfig(), 2),
        (GANConfig(d_steps=5), 10),
        (GANConfig(d_steps=2, pack=4), 10),
        (LabelledConfig(d_steps=4), 8),
    ],
)
def test_a_gan_needs_a_minibatch_for_each_update_of_its_discriminator(
    config: LabelledConfig | GANConfig, fewest: int
) -> None:
    family = GAN if isinstance(config, GANConfig) else StarGAN
    assert family.needs(config).train == fewest
    assert config.minibatch(fewest) == fewest // config.d_steps
    fix = "or more: lower d_steps" if config.d_steps > 1 else "or more: raise batch_size"
    with pytest.raises(ConfigError, match=fix):
        config.minibatch(2 * config.d_steps - 1)


def test_a_study_of_samples_needs_neighbours_in_every_part(study_file: WriteStudy) -> None:
    study = load_study(str(study_file("tiny", TINY_GAN)))
    check_needs(study, some_images(train=30, valid=6, test=6))
    for few in ({"valid": 5}, {"test": 5}):
        with pytest.raises(DataError, match="the measuring of samples needs 6"):
            check_needs(study, some_images(train=30, **few))
    rare = without_training_images(some_images(train=30), 1)
    with pytest.raises(DataError, match="the classifier that judges samples learns 2 classes"):
        check_needs(study, rare)


def write_pets(folder: Path, **counts: int) -> Path:
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = torch.full((12, 12), 20 * number % 256, dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(folder / name / f"{number}.png")
    return folder


def test_a_gan_on_too_few_images_is_refused_before_the_search(
    tmp_path: Path, refused: Callable[..., str], study_file: WriteStudy
) -> None:
    folder = write_pets(tmp_path / "few", cats=25, dogs=25)
    said = refused(may_make=["runs"], NAME=study_file("tiny", TINY_GAN), DATA=f"folder:{folder}")
    assert "has 5 test images, but the measuring of samples needs 6 or more" in said
    assert not (tmp_path / "runs" / "studies.db").exists()


def test_a_classifier_without_classes_is_refused_before_what_it_starts_from(
    tmp_path: Path, refused: Callable[..., str]
) -> None:
    """With FIRST=1 the autoencoder would be searched for nothing."""
    folder = write_pets(tmp_path / "pets", cats=40)
    said = refused(may_make=["runs"], NAME="classifier", FIRST=1, DATA=f"folder:{folder}")
    assert "pets has no classes, but a classifier needs 2 or more" in said
    assert not (tmp_path / "runs" / "studies.db").exists()


# ---- steps an epoch ----


def test_a_batch_leaves_an_epoch_its_steps() -> None:
    plain = ModelConfig(batch_size=256)
    assert fit_batch(plain, 216, least_steps=20).batch_size == 10
    assert fit_batch(plain, 48_000, least_steps=20) == plain
    assert fit_batch(plain, 216, least_steps=0) == plain, "as before"
    assert fit_batch(plain, 9, least_steps=20).batch_size == 8, "no gradient of single images"
    assert fit_batch(replace(plain, batch_size=4), 9, least_steps=20).batch_size == 4


def test_a_batch_of_several_updates_is_fitted_by_all_of_its_images() -> None:
    config = GANConfig(d_steps=4, batch_size=128)
    fitted = fit_batch(config, 1600, least_steps=20)
    assert fitted.batch_size == 20
    assert 1600 // fitted.images_per_step == 20
    packed = fit_batch(GANConfig(pack=16), 100, least_steps=20)
    assert packed.batch_size == 17, "two packed images"


def test_an_epoch_that_shows_images_several_times_has_more_steps() -> None:
    images = some_images(train=200)
    shown = AugmentedGAN.images_per_epoch
    assert shown(AugmentedGANConfig(), images) == 200
    assert shown(AugmentedGANConfig(real=50, extra="noise"), images) == 200
    assert shown(AugmentedGANConfig(extra="autoencoder", drawn=300), images) == 500
    assert shown(AugmentedGANConfig(real=50, extra="reconstructions"), images) == 100
    assert shown(AugmentedGANConfig(epoch_images=16_000), images) == 16_000
    config = AugmentedGANConfig(extra="noise", real=50)
    model = build(AugmentedGAN, replace(config, width=0.05), CAE_SHAPE, seed=0)
    assert len(model.order(len(model.training_set(images, seed=0)))) == shown(config, images)


def test_what_is_said_of_steps_is_what_batches_come_to(study_file: WriteStudy) -> None:
    study = load_study(str(study_file()))
    many, few = some_images(train=1200), some_images(train=40)
    assert describe_batches(study, many, least_steps=0) is None
    assert describe_batches(study, many, least_steps=STEPS) == (
        "batches have at most 20 images, not 256: 60 steps or more an epoch"
    )
    assert describe_fit(study, many, least_steps=STEPS) == []
    assert describe_fit(study, some_images(train=400), least_steps=0) == [
        "an epoch has only 1 step: 400 training images are few; more images or more EPOCHS help"
    ]
    (said,) = describe_fit(study, few, least_steps=STEPS)
    assert said.startswith("an epoch has only 5 steps: 40 training images are few")


def test_a_label_that_samples_are_not_measured_by_is_named_before_the_search() -> None:
    study = load_study("acgan")
    images = some_images(train=1200, valid=22, test=30, classes=4)
    check_needs(study, images)
    said = describe_fit(study, images, least_steps=0)
    assert [line for line in said if "not measured" in line] == [
        "'class 2' and 1 more have fewer than 6 validation images, or fewer than other labels: "
        "whether samples show them is not measured there"
    ]


# ---- what a model has to beat ----


class MeanImage(CAE):
    """Makes the mean training image of every image."""

    mean: Tensor

    def forward(self, images: Tensor) -> Tensor:
        return self.mean.expand(len(images), -1, -1, -1)


def test_the_mean_image_scores_what_a_model_that_makes_it_scores(digits: ImageSplits) -> None:
    model = MeanImage(CAEConfig(), CAE_SHAPE)
    model.mean = digits.train.batch(slice(None)).images.mean(0)
    for part in ("valid", "test"):
        baseline = model.baseline(digits, part)
        assert baseline.what == "the mean training image"
        measured = evaluate(model, getattr(digits, part))["mse"]
        assert baseline.values["mse"] == pytest.approx(measured, rel=1e-5)


def test_a_vae_has_to_beat_a_decoder_that_ignores_its_codes(digits: ImageSplits) -> None:
    model = build(VAE, VAEConfig(width=0.1), CAE_SHAPE, seed=0)
    assert isinstance(model, VAE)
    values = model.baseline(digits, "valid").values
    mean = digits.train.batch(slice(None)).images.mean(0).clamp(0.5 / 255, 1 - 0.5 / 255)
    shown = digits.valid.batch(slice(None)).images
    bce = torch.nn.functional.binary_cross_entropy(mean.expand_as(shown), shown)
    assert values["nelbo"] == values["bce"]
    assert values["bce"] == pytest.approx(float(bce) * 784, rel=1e-4)
    other = build(UpsampleAE, UpsampleAEConfig(), CAE_SHAPE, seed=0)
    assert isinstance(other, UpsampleAE)
    assert other.baseline(digits, "valid").values["bce"] == pytest.approx(float(bce), rel=1e-4)


def test_a_classifier_has_to_beat_the_commonest_class(digits: ImageSplits) -> None:
    model = build(FeatureNet, FeatureNetConfig(), CAE_SHAPE, seed=0)
    baseline = model.baseline(digits, "valid")
    assert baseline is not None
    assert digits.train.labels is not None
    assert digits.valid.labels is not None
    commonest = digits.train.labels.mode().values
    share = (digits.valid.labels == commonest).double().mean()
    assert baseline.what == "always the commonest class"
    assert baseline.values["accuracy"] == pytest.approx(float(share))
    assert 2.2 < baseline.values["loss"] < 2.4, "ten classes, equally many"


def about(test: float, beaten: float, direction: str = "minimize") -> dict[str, Any]:
    return {
        "metric": "mse", "direction": direction, "valid": {"mse": 1.0}, "test": {"mse": test},
        "baseline": {"what": "the mean training image", "valid": 1.0, "test": beaten},
        "remarks": ["colours are lost"],
    }  # fmt: skip


def test_a_winner_that_has_learned_nothing_is_named_before_all_else() -> None:
    assert warnings_of(about(0.05, 0.1)) == ["colours are lost"]
    for value in (0.1, 0.0995, 0.2):
        first, last = warnings_of(about(value, 0.1))
        assert first == (
            f"this model has learned next to nothing: its mse is {value:g}, and the mean training "
            "image has 0.1"
        )
        assert last == "colours are lost"
    assert len(warnings_of(about(0.9, 0.8, "maximize"))) == 1
    assert len(warnings_of(about(0.8, 0.8, "maximize"))) == 2
    assert warnings_of({"metric": "mse", "test": None}) == [], "an export of an older version"


def test_a_class_that_never_occurs_has_dashes_in_the_table() -> None:
    """JSON has no nan, and a provenance with one is read by few programs."""
    table = class_table(np.array([[0, 1], [0, 0]]), ("cats", "dogs"))
    assert table.rows == (("cats", 1, "-", 0.0, 0.0), ("dogs", 0, 0.0, "-", 0.0))
    json.dumps(table.to_plain(), allow_nan=False)


def test_the_confusions_of_many_classes_fit_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[float] = []

    def measure(figure: Figure, path: Path) -> None:
        drawn.extend(figure.get_size_inches())

    monkeypatch.setattr("models.analysis.confusion.save_figure", measure)
    for count in (1000, 4):
        matrix = np.eye(count, dtype=np.int64)
        draw_confusion(tmp_path / "x.png", matrix, tuple(map(str, range(count))), title="t")
    assert 30 < max(drawn[:2]) < 40, "inches"
    assert max(drawn[2:]) < 10


# ---- which images a family takes ----


@pytest.mark.parametrize("name", study_names())
def test_a_family_takes_the_smallest_images_that_it_says_it_takes(name: str) -> None:
    study = load_study(name)
    if study.spec.starts_from is not None:
        return  # the autoencoder's images are its own
    for config in sample_configurations(study)[:2]:
        sides = study.spec.model.sides(config)
        assert sides.least <= sides.most
        least = sides.least
        family, images = study.spec.model, blank_images((3, least, least))
        with torch.device("meta"):
            family(family.fitted(config, images), (3, least, least))
            if least > 1:
                with pytest.raises(ConfigError, match="too small"):
                    family(config, (3, least - 1, least - 1))


def test_the_spread_of_a_single_image_is_no_number_that_ends_a_trial() -> None:
    """1,025 validation images are measured as 1,024 and one."""
    one = torch.rand(1, *CAE_SHAPE)
    assert sample_spread(one, one) == 0
    two = torch.rand(2, *CAE_SHAPE)
    assert sample_spread(two, two) == 1
    model = build(GAN, GANConfig(architecture="dropout-28", width=0.05), CAE_SHAPE, seed=0)
    images = some_images(train=8, valid=1)
    with evaluating(model):
        measured = model.evaluate(images.valid.batch(slice(None)))
    assert all(value.isfinite() for value in measured.values())


# ---- which shape the images of a folder get ----


def described(*sizes: tuple[int, int], colored: bool = True) -> FolderDescription:
    """What is known of a folder with images of these widths and heights."""
    headers = [Header(size=size, mode="RGB" if colored else "L", kind="PNG") for size in sizes]
    layout = FolderLayout(folder=Path("x"), files=(), classes=(), parts=(), skipped=())
    return FolderDescription.of(headers, layout)


@pytest.mark.parametrize(
    ("sizes", "sides", "shape"),
    [
        ([(48, 48)], Sides(), (3, 48, 48)),
        ([(40, 28)], Sides(), (3, 28, 40)),
        ([(178, 218)], Sides(), (3, 64, 52)),
        ([(640, 480), (1024, 768)], Sides(), (3, 48, 64)),
        ([(640, 480), (480, 640)], Sides(), (3, 64, 64)),
        ([(20, 40), (30, 30), (60, 40)], Sides(), (3, 30, 30)),
        ([(5, 5)], Sides(least=9), (3, 9, 9)),
        ([(1000, 50)], Sides(least=9), (3, 50, 50)),
        ([(64, 64)], Sides(least=8, most=32), (3, 32, 32)),
        ([(700, 700)], Sides(least=64, most=512), (3, 512, 512)),
        ([(48, 48)], Sides(channels=(1,)), (1, 48, 48)),
    ],
)
def test_a_shape_changes_images_least(
    sizes: list[tuple[int, int]], sides: Sides, shape: tuple[int, int, int]
) -> None:
    assert fit_shape(described(*sizes), sides) == shape


def test_grey_images_stay_grey() -> None:
    assert fit_shape(described((48, 48), colored=False), Sides()) == (1, 48, 48)


def write_colours(folder: Path, count: int, size: tuple[int, int] = (48, 48)) -> Path:
    folder.mkdir(parents=True)
    for number in range(count):
        color = (250 if number % 2 else 20, 20 * number % 256, 250 if number % 3 else 20)
        Image.new("RGB", size, color).save(folder / f"{number}.png")
    return folder


def chosen(name: str, folder: Path, **more: Any) -> tuple[int, int, int] | None:
    runs = folder.parent / "runs"
    variables = Variables(name=name, data=f"folder:{folder}", runs=runs, **more)
    return choose_shape(variables, load_study(name), FolderSource(folder))


def test_a_study_that_adapts_keeps_colours_and_one_that_insists_does_not(
    tmp_path: Path, study_file: WriteStudy
) -> None:
    folder = write_colours(tmp_path / "pets", 12)
    assert chosen("cae", folder) == (3, 48, 48)
    assert chosen("gan", folder) == (3, 32, 32), "what its architecture is made for"
    assert chosen("classifier", folder) == (3, 48, 48), "as its encoder"
    assert chosen(str(study_file()), folder) == (1, 28, 28)
    adapts = study_file("other", replace={"shape=(1, 28, 28),": "shape=(1, 28, 28), adapts=True,"})
    assert chosen(str(adapts), folder) == (3, 48, 48)
    digits = Variables(name="cae", data="digits", runs=tmp_path)
    assert choose_shape(digits, load_study("cae"), DigitsSource()) == (1, 28, 28)


def test_a_stored_study_keeps_its_shape(
    tmp_path: Path, digits: ImageSplits, storage_url: str
) -> None:
    """Stored by an older version, it has grey images and batches as they were written."""
    folder = write_colours(tmp_path / "pets", 12)
    assert stored_shape(storage_url, "cae-folder-pets") is None
    storage = open_storage(storage_url)
    assert stored_shape(storage_url, "cae-folder-pets") is None
    stored = optuna.create_study(study_name="cae-folder-pets", storage=storage)
    images = replace(digits, name=f"folder:{folder}")
    before = identify_study(load_study("cae"), images, epochs=None, seed=None, stored=None)
    assert before.least_steps == STEPS
    plain = {name: value for name, value in asdict(before).items() if name != "least_steps"}
    stored.set_user_attr("definition", json.dumps(plain))
    found = read_identity(stored)
    assert found is not None
    assert found.least_steps == 0
    now = identify_study(load_study("cae"), images, epochs=None, seed=None, stored=found)
    assert now.least_steps == 0
    assert stored_shape(storage_url, "cae-folder-pets") == (1, 28, 28)
    assert chosen("cae", folder, storage=storage_url) == (1, 28, 28)
    assert chosen("vae", folder, storage=storage_url) == (3, 48, 48), "another study"


def test_a_study_starts_from_an_export_in_its_shape(tmp_path: Path) -> None:
    folder = write_colours(tmp_path / "pets", 12)
    export = tmp_path / "runs" / "exports" / "cae-folder-pets" / "1"
    export.mkdir(parents=True)
    (export / "config.json").write_text(json.dumps({"shape": [1, 20, 20]}))
    assert chosen("classifier", folder) == (1, 20, 20)
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text(json.dumps({"shape": [3, 9, 9]}))
    assert chosen("classifier", folder, start=other) == (3, 9, 9)
    assert exported_shape(tmp_path) is None


def test_a_study_takes_another_shape_than_it_could_only_with_a_word(digits: ImageSplits) -> None:
    folder = described((48, 48), (48, 50))
    study = load_study("cae")
    (said,) = describe_fit(study, replace(digits, folder=folder), least_steps=STEPS)[:1]
    assert said.startswith("images become 1x28x28: resized from 2 sizes to 28x28")
    assert "colours are lost: 2 images in colour become grey" in said
    insists = replace(study, spec=replace(study.spec, adapts=False))
    (said,) = describe_fit(insists, replace(digits, folder=folder), least_steps=STEPS)[:1]
    assert "as the study asks (adapts=True fits it to them)" in said
    same = described((28, 28), colored=False)
    assert not describe_fit(study, replace(digits, folder=same), least_steps=STEPS)


# ---- as a user sees it ----


def test_a_folder_of_colours_trains_in_colour_and_says_what_it_lacks(
    user: User, tmp_path: Path
) -> None:
    folder = write_colours(tmp_path / "pets", 40, (24, 20))
    smallest: dict[str, Any] = {
        "TRIALS": 1,
        "EPOCHS": 1,
        "RETRAIN_EPOCHS": 1,
        "WORKERS": 1,
        "TOP": 1,
    }
    code, out, error = user.run(NAME="cae", DATA=f"folder:{folder}", **smallest)
    assert not error
    assert code == 0
    assert "used as 3x20x24: as they are" in out
    assert "batches have at most 8 images, not 256" in out
    assert out.count("an epoch has only 3 steps: 29 training images are few") == 2
    export = user.runs / "exports" / "cae-folder-pets" / "1"
    found = json.loads((export / "provenance.json").read_text())
    assert json.loads((export / "config.json").read_text())["shape"] == [3, 20, 24]
    assert found["config"]["batch_size"] == 8
    assert found["baseline"]["what"] == "the mean training image"
    assert 0 < found["baseline"]["test"] < 1
    card = (export / "README.md").read_text()
    for line in warnings_of(found):
        assert line in out
        assert f"**{line}**" in card
    row = trials("cae-folder-pets", storage=user.url).iloc[0]
    assert row["fitted_batch_size"] == 8
