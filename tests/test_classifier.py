"""The classifier on an autoencoder's codes: what is trained, what it is compared with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models.analysis.confusion import accuracy, class_table, confusion_matrix, draw_confusion
from models.base import build, evaluating, parameter_count
from models.cae import CAE, CAEConfig
from models.classifier import Classifier, ClassifierConfig
from models.data.images import ImageSplits
from models.errors import ConfigError
from models.export import check_export, describe, load_export, write_export
from models.training.loop import evaluate, fit
from tests.conftest import CAE_SHAPE, blank_images

FEW_DIGITS = True

pytestmark = pytest.mark.usefixtures("quick_onnx")

SMALL = ClassifierConfig(hidden=32, batch_size=64, lr=1e-2)


@pytest.fixture(scope="module")
def autoencoder(digits: ImageSplits) -> CAE:
    model = build(CAE, CAEConfig(channels=4, latent=16, batch_size=64), CAE_SHAPE, seed=0)
    assert isinstance(model, CAE)
    for _ in fit(model, digits, epochs=30, seed=0):
        pass
    return model


@pytest.fixture(scope="module")
def trained(autoencoder: CAE, digits: ImageSplits) -> Classifier:
    model = build(Classifier, SMALL, CAE_SHAPE, seed=0, base=autoencoder)
    assert isinstance(model, Classifier)
    for _ in fit(model, digits, epochs=30, seed=0):
        pass
    return model


def test_the_head_has_the_parameters_of_reference_system_a2() -> None:
    base = build(CAE, CAEConfig(), CAE_SHAPE, seed=0)
    model = build(Classifier, ClassifierConfig(), CAE_SHAPE, seed=0, base=base)
    assert isinstance(model, Classifier)
    assert parameter_count(model.head) == 10_498


def test_a_frozen_encoder_stays_as_it_was_exported(
    trained: Classifier, autoencoder: CAE, digits: ImageSplits
) -> None:
    for ours, exported in zip(
        trained.encoder.parameters(), autoencoder.encoder.parameters(), strict=True
    ):
        assert torch.equal(ours, exported)
    assert evaluate(trained, digits.valid)["accuracy"] > 0.8


def test_tuning_goes_on_from_the_classifier_and_moves_the_encoder(
    trained: Classifier, digits: ImageSplits
) -> None:
    config = ClassifierConfig(frozen=False, lr=1e-3, batch_size=64)
    model = build(Classifier, config, CAE_SHAPE, seed=1, base=trained)
    assert isinstance(model, Classifier)
    assert model.config.hidden == 32
    before = evaluate(trained, digits.valid)["loss"]
    assert evaluate(model, digits.valid)["loss"] == pytest.approx(before, rel=1e-5)
    results = list(fit(model, digits, epochs=3, seed=0))
    assert results[-1].valid["loss"] < before
    weights = [each.state_dict()["encoder.0.weight"] for each in (model, trained)]
    moved = (weights[0] - weights[1]).abs().max()
    assert float(moved.detach()) > 1e-3


def test_an_export_of_a_classifier_needs_no_other_file(trained: Classifier, tmp_path: Path) -> None:
    write_export(trained, tmp_path)
    assert set(check_export(trained, tmp_path)) >= {"classifier.onnx", "classifier.pt2"}
    loaded = load_export(tmp_path)
    assert isinstance(loaded, Classifier)
    images = torch.rand(3, *CAE_SHAPE)
    with evaluating(trained):
        assert torch.equal(loaded(images), trained(images))


def test_the_number_of_classes_follows_from_the_images() -> None:
    config = Classifier.fitted(SMALL, blank_images(CAE_SHAPE, classes=3))
    assert isinstance(config, ClassifierConfig)
    assert config.classes == 3
    with pytest.raises(ConfigError, match="has 0 classes, a classifier needs 2 or more"):
        Classifier.fitted(SMALL, replace(blank_images(CAE_SHAPE), classes=()))


def test_what_no_encoder_can_come_from_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs an encoder: set starts_from"):
        Classifier(SMALL, CAE_SHAPE)
    base = build(CAE, CAEConfig(), CAE_SHAPE, seed=0)
    with pytest.raises(ConfigError, match=r"images of \(1, 28, 28\), not of \(1, 32, 32\)"):
        Classifier(replace(SMALL, encoder=describe(base)), (1, 32, 32))


def test_a_confusion_matrix_counts_every_image_once(
    trained: Classifier, digits: ImageSplits
) -> None:
    with evaluating(trained):
        matrix = confusion_matrix(trained, digits.test, 10)
    assert digits.test.labels is not None
    assert matrix.sum(1).tolist() == torch.bincount(digits.test.labels).tolist()
    assert accuracy(matrix) == pytest.approx(evaluate(trained, digits.test)["accuracy"], abs=1e-6)


def test_classes_are_judged_one_by_one() -> None:
    table = class_table(np.array([[8, 2], [0, 10]]), ("cat", "dog"))
    assert table.rows[0] == ("cat", 10, 1.0, 0.8, pytest.approx(16 / 18))
    assert table.rows[1] == ("dog", 10, pytest.approx(10 / 12), 1.0, pytest.approx(20 / 22))


def test_tables_set_the_accuracy_beside_baselines_on_the_same_images(
    trained: Classifier, digits: ImageSplits
) -> None:
    said: list[str] = []
    with evaluating(trained):
        classes, baselines = trained.tables(digits, said.append)
    assert len(classes.rows) == 10
    found = {str(row[0]): float(row[2]) for row in baselines.rows}
    assert found["this classifier"] == pytest.approx(evaluate(trained, digits.test)["accuracy"])
    assert 0.9 < found["logistic regression on the pixels"] <= 1
    assert 0.8 < found["PCA-16 + logistic"] <= 1
    assert found["this head, random encoder"] < found["this classifier"]
    assert "a random encoder, epoch 20/20" in said


def test_the_confusion_picture_shows_every_class(tmp_path: Path) -> None:
    matrix = np.full((10, 10), 3) + np.diag(np.arange(100, 110))
    draw_confusion(tmp_path / "c.png", matrix, tuple("abcdefghij"), title="t")
    with Image.open(tmp_path / "c.png") as drawn:
        pixels = np.asarray(drawn.convert("RGB")).astype(int)
    blue = (pixels[..., 2] - pixels[..., 0] > 60).mean()
    assert 0.03 < blue < 0.2  # the diagonal, a tenth of the cells


def test_predictions_are_drawn_with_their_words(
    trained: Classifier, digits: ImageSplits, tmp_path: Path
) -> None:
    with evaluating(trained):
        for picture in trained.pictures(digits, "valid"):
            picture.draw(tmp_path / picture.file, "classifier trial 3")
    assert {path.name for path in tmp_path.iterdir()} == {"predictions.png", "confusion.png"}
