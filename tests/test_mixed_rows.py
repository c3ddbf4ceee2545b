"""Where not all images of a part are taken, those that are stand for all of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from models.acgan import ACGAN, ACGANConfig
from models.augmentation import AugmentedGAN, AugmentedGANConfig
from models.base import Model, ModelConfig, build, evaluating
from models.cae import CAE, CAEConfig
from models.data.description import FolderDescription
from models.data.images import Batch, Images, ImageSplits
from models.data.mixed_rows import mixed_rows, shown_images
from models.evaluation.encoder_check import measure_encoder
from models.evaluation.features import Extractor
from models.evaluation.label_evaluator import LabelEvaluator
from models.evaluation.sample_evaluator import SampleEvaluator
from models.stargan import StarGAN, StarGANConfig

FEW_DIGITS = True
PARTS = ("train", "valid", "test")


def in_class_order(images: Images) -> Images:
    assert images.labels is not None
    return images.take(images.labels.argsort(stable=True))


def as_folder(digits: ImageSplits, *parts: str) -> ImageSplits:
    """The digits as a folder with these parts of its own, each read class by class."""
    size = (28, 28)
    about = FolderDescription(
        images=0, counts={part: {} for part in parts}, smallest=size, median=size, largest=size,
        common=size, sizes=1, aspects=(1.0, 1.0, 1.0), modes={}, colored=0,
    )  # fmt: skip
    read: dict[str, Any] = {part: in_class_order(getattr(digits, part)) for part in parts}
    return replace(digits, folder=about, **read)


@pytest.fixture(scope="module")
def sorted_digits(digits: ImageSplits) -> ImageSplits:
    return as_folder(digits, *PARTS)


def classes_of(images: ImageSplits, part: str, rows: Tensor) -> set[int]:
    labels = getattr(images, part).labels
    assert labels is not None
    return set(labels[rows].tolist())


@pytest.mark.parametrize("part", PARTS)
def test_rows_of_a_part_in_class_order_are_of_nearly_all_classes(
    sorted_digits: ImageSplits, part: str
) -> None:
    rows = mixed_rows(sorted_digits, part, 60)
    assert len(rows.unique()) == 60
    assert len(classes_of(sorted_digits, part, rows)) >= 9
    assert torch.equal(rows, mixed_rows(sorted_digits, part, 60)), "the same every time"
    assert torch.equal(rows[:20], mixed_rows(sorted_digits, part, 20)), "a smaller set lies in it"


def test_what_was_cut_off_at_random_keeps_its_first_images(digits: ImageSplits) -> None:
    first = torch.arange(20)
    assert torch.equal(mixed_rows(digits, "train", 20), first)
    assert torch.equal(mixed_rows(digits, "valid", 20), first)
    assert not torch.equal(mixed_rows(digits, "test", 20), first), "MNIST's own order"
    split = as_folder(digits, "train", "test")  # a fifth of its training images is cut off
    assert torch.equal(mixed_rows(split, "train", 20), first)
    assert torch.equal(mixed_rows(split, "valid", 20), first)
    assert not torch.equal(mixed_rows(split, "test", 20), first)
    split = as_folder(digits, "train", "valid")  # and here its test images are
    assert torch.equal(mixed_rows(split, "train", 20), first)
    assert not torch.equal(mixed_rows(split, "valid", 20), first)
    assert torch.equal(mixed_rows(split, "test", 20), first)


def test_all_rows_are_taken_where_there_are_no_more(sorted_digits: ImageSplits) -> None:
    count = len(sorted_digits.test)
    assert torch.equal(mixed_rows(sorted_digits, "test", count), torch.arange(count))
    some = torch.tensor([5, 3, 90])
    assert torch.equal(mixed_rows(sorted_digits, "test", 3, of=some), some)
    assert set(mixed_rows(sorted_digits, "test", 2, of=some).tolist()) < set(some.tolist())


def test_real_images_are_measured_alike_in_any_order(
    extractor: Extractor, digits: ImageSplits, sorted_digits: ImageSplits
) -> None:
    usual, found = (
        SampleEvaluator(extractor, images, count=80) for images in (digits, sorted_digits)
    )
    assert found.floor["modes"] >= 8
    assert found.floor["frechet"] < 2 * usual.floor["frechet"]
    assert found.floor["class_kl"] < 3 * usual.floor["class_kl"]
    samples = digits.test.batch(slice(0, 80)).images
    assert found(samples)["coverage"] > 0.8 * usual(samples)["coverage"]
    assert found(samples)["diversity"] < 1.3 * usual(samples)["diversity"]


def test_a_gan_on_few_images_sees_all_classes(sorted_digits: ImageSplits) -> None:
    config = AugmentedGANConfig(architecture="dropout-28", width=0.02, real=60)
    model = build(AugmentedGAN, config, sorted_digits.shape, seed=0)
    seen = model.training_set(sorted_digits, seed=0).labels
    assert seen is not None
    assert set(seen.tolist()) == set(range(10))


def test_translations_begin_with_images_of_all_other_classes(
    extractor: Extractor, sorted_digits: ImageSplits
) -> None:
    found = LabelEvaluator(extractor, sorted_digits, count=32)
    for group in found.groups:
        assert len(classes_of(sorted_digits, "train", group.rows)) >= 6


def test_a_translator_is_asked_for_all_classes(
    sorted_digits: ImageSplits, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = StarGAN.fitted(StarGANConfig(width=0.02, blocks=0), sorted_digits)
    model = build(StarGAN, config, sorted_digits.shape, seed=0)
    asked: list[Tensor] = []

    def note(labels: Tensor, images: ImageSplits, rows: Tensor) -> Tensor:
        asked.extend([labels.argmax(1), rows])
        return images.train.batch(rows).images

    monkeypatch.setattr(model, "made_with", note)
    model.samples(60, sorted_digits, "valid")
    labels, rows = asked
    assert len(set(labels.tolist())) >= 9
    assert classes_of(sorted_digits, "train", rows) == set(range(10))


@pytest.mark.parametrize(
    ("family", "config"),
    [
        (CAE, CAEConfig(channels=1, latent=2)),
        (ACGAN, ACGANConfig(width=0.02, latent=4)),
        (StarGAN, StarGANConfig(width=0.02, blocks=0)),
    ],
)
def test_a_picture_shows_images_of_many_classes(
    family: type[Model],
    config: ModelConfig,
    sorted_digits: ImageSplits,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = build(family, family.fitted(config, sorted_digits), sorted_digits.shape, seed=0)
    shown: list[Batch] = []

    def note(images: ImageSplits, part: str, count: int) -> Batch:
        shown.append(shown_images(images, part, count))
        return shown[-1]

    module = "autoencoder" if family is CAE else family.__name__.lower()
    monkeypatch.setattr(f"models.{module}.shown_images", note)
    with evaluating(model):
        model.preview(sorted_digits, "valid", 10)
    (batch,) = shown
    assert batch.labels is not None
    assert len(set(batch.labels.tolist())) >= 5


def test_an_encoder_is_checked_on_images_of_all_classes(
    extractor: Extractor, sorted_digits: ImageSplits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.evaluation.encoder_check.MOST", 60)
    assert measure_encoder(extractor, sorted_digits).floor < 0.5
