"""GANs with attributes, reference system B2: what is told the networks and what they tell."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from models.acgan import ACGAN, ACGANConfig
from models.base import build, evaluating, parameter_count
from models.conditional_gan import (
    Labels,
    fit_config_to_labels,
    flip_label,
    label_accuracy,
    short_label_names,
)
from models.data.images import Batch, ImageSplits
from models.errors import ConfigError
from models.export import check_export, load_export, write_export
from models.training.checkpoint import load_checkpoint, save_checkpoint
from models.training.loop import fit
from search.setup.checks import _Unfilled
from tests.conftest import CAE_SHAPE, blank_images

FEW_DIGITS = True

pytestmark = pytest.mark.usefixtures("quick_onnx")

SMALL = ACGANConfig(width=0.05, latent=6, batch_size=32)


@pytest.fixture(scope="module")
def described(digits: ImageSplits) -> ImageSplits:
    """The digits with two attributes: even (0, 1), and how large (-3 to 6)."""

    def attributes(labels: torch.Tensor | None) -> torch.Tensor:
        assert labels is not None
        return torch.stack([1.0 - labels % 2, labels - 3.0], dim=1)

    parts = {
        part: replace(images, attributes=attributes(images.labels))
        for part in ("train", "valid", "test")
        if (images := getattr(digits, part))
    }
    return replace(digits, **parts, attribute_names=("even", "large"))


def acgan(images: ImageSplits, config: ACGANConfig = SMALL, seed: int = 0) -> ACGAN:
    model = build(ACGAN, ACGAN.fitted(config, images), CAE_SHAPE, seed=seed)
    assert isinstance(model, ACGAN)
    return model


def test_networks_have_the_parameters_of_reference_system_b2() -> None:
    with torch.device("meta"), _Unfilled():
        model = ACGAN(ACGANConfig(labels=13), (3, 64, 64))
        images = model.generator(torch.empty(2, 141))
        assert (images.shape, model.discriminator(images).shape) == ((2, 3, 64, 64), (2, 14))
    assert parameter_count(model.generator) == 4_957_824
    assert parameter_count(model.discriminator) == 7_088_142


def test_the_defaults_are_the_references() -> None:
    config = ACGANConfig()
    assert (config.latent, config.lr_g, config.lr_d, config.label_weight) == (128, 2e-4, 2e-4, 1)
    assert (config.d_steps, config.g_steps) == (1, 1)


@pytest.mark.parametrize("label_fakes", [True, False])
def test_the_discriminator_learns_labels_from_real_images_and_from_fakes_if_asked(
    label_fakes: bool, digits: ImageSplits
) -> None:
    model = acgan(digits, replace(SMALL, label_fakes=label_fakes))
    batch = digits.train.batch(slice(0, 4))
    given = model.conditions(batch)
    real = torch.zeros(4, 10, requires_grad=True)
    fake = torch.zeros(4, 10, requires_grad=True)
    losses = model.discriminator_label_losses(batch, given, real, fake)
    losses["label_d"].backward()  # type: ignore[no-untyped-call]
    assert real.grad is not None
    assert (fake.grad is not None) == label_fakes


def test_labels_are_the_classes_where_there_are_no_attributes(digits: ImageSplits) -> None:
    config = fit_config_to_labels(SMALL, digits)
    assert (config.labels, config.exclusive, config.ranges) == (10, True, ())
    batch = digits.train.batch(slice(0, 50))
    rows = Labels(config)(batch)
    assert batch.labels is not None
    assert rows.shape == (50, 10)
    assert torch.equal(rows.argmax(1), batch.labels)
    assert torch.equal(rows.sum(1), torch.ones(50))


def test_attributes_go_before_classes_and_are_brought_to_one_range(described: ImageSplits) -> None:
    config = fit_config_to_labels(SMALL, described)
    assert (config.labels, config.exclusive) == (2, False)
    assert config.ranges == ((0.0, 1.0), (-3.0, 6.0))
    batch = described.train.batch(slice(0, 50))
    assert batch.labels is not None
    expected = torch.stack([1.0 - batch.labels % 2, batch.labels / 9], dim=1)
    torch.testing.assert_close(Labels(config)(batch), expected)
    beyond = Batch(images=batch.images[:1], attributes=torch.tensor([[2.0, -9.0]]))
    assert Labels(config)(beyond).tolist() == [[1.0, 0.0]]


def test_images_without_labels_are_refused(described: ImageSplits) -> None:
    blank = blank_images(CAE_SHAPE, classes=1)
    with pytest.raises(ConfigError, match=r"neither attributes nor two classes: add an attributes"):
        ACGAN.fitted(SMALL, blank)
    assert described.train.attributes is not None
    train = replace(described.train, attributes=torch.ones_like(described.train.attributes))
    with pytest.raises(ConfigError, match=r"'even' of digits is 1 for all .* remove its column"):
        ACGAN.fitted(SMALL, replace(described, train=train))


def test_ranges_come_back_from_json_as_they_were(described: ImageSplits) -> None:
    config = fit_config_to_labels(SMALL, described)
    assert replace(config, ranges=[[0, 1], [-3, 6]]) == config  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="not as many as labels=3"):
        replace(config, labels=3)


@pytest.mark.parametrize("exclusive", [False, True])
def test_one_label_is_changed(exclusive: bool) -> None:
    given = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    flipped = [[0, 0, 0], [1, 0, 1]]
    expected = [[1, 0, 0], [1, 0, 0]] if exclusive else flipped
    assert flip_label(given, 0, exclusive=exclusive).tolist() == expected
    assert given.tolist() == [[1, 0, 0], [0, 0, 1]]


def test_shares_of_labels_told_right() -> None:
    said = torch.tensor([[3.0, -1.0], [1.0, 2.0]])
    assert (
        float(label_accuracy(said, torch.tensor([[1.0, 1.0], [1.0, 0.0]]), exclusive=False)) == 0.5
    )
    assert (
        float(label_accuracy(said, torch.tensor([[1.0, 0.0], [1.0, 0.0]]), exclusive=True)) == 0.5
    )


def test_fakes_are_given_the_labels_of_their_batch(described: ImageSplits) -> None:
    model = acgan(described)
    batch = described.train.batch(slice(0, 32))
    first, second = model.conditions(batch), model.conditions(batch)
    assert first.shape == (32, 8)
    assert torch.equal(first[:, 6:], model.labels(batch))
    assert torch.equal(first[:, 6:], second[:, 6:])
    assert not torch.equal(first[:, :6], second[:, :6])


def test_both_networks_learn_the_labels(digits: ImageSplits, described: ImageSplits) -> None:
    config = replace(SMALL, lr_g=2e-3, lr_d=2e-3, width=0.1, extra_g_steps=0)
    for images, least in ((digits, 0.35), (described, 0.7)):  # by chance 0.1 and 0.5
        *_, last = fit(acgan(images, config), images, epochs=6, seed=0)
        assert last.valid["labels_real"] > least
        assert last.valid["labels_fake"] > least


def test_losses_on_labels_are_those_of_their_kind(
    digits: ImageSplits, described: ImageSplits
) -> None:
    said, labels = torch.tensor([[0.3, -2.0]]), torch.tensor([[1.0, 0.0]])
    squared = ((torch.sigmoid(said) - labels) ** 2).mean()
    entropy = -said.softmax(1).log()[0, 0]
    for images, expected in ((digits, entropy), (described, squared)):
        assert float(acgan(images).label_loss(said, labels)) == pytest.approx(float(expected))


@pytest.mark.parametrize("normalization", ["batch", "spectral", "none"])
def test_a_step_moves_both_networks_to_finite_weights(
    normalization: str, described: ImageSplits
) -> None:
    model = acgan(described, replace(SMALL, normalization=normalization, r1=1.0, ema=0.5))
    before = {name: value.clone() for name, value in model.named_parameters()}
    metrics = model.train_step(described.train.batch(slice(0, 32)))
    assert {"label_d", "label_g"} <= set(metrics)
    assert all(torch.isfinite(value) for value in metrics.values())
    for name, value in model.named_parameters():
        assert torch.isfinite(value).all()
        assert not torch.equal(value, before[name]), name


def test_samples_are_given_labels_as_training_images_have_them(described: ImageSplits) -> None:
    model = acgan(described, replace(SMALL, batch_size=300))
    batch = described.train.batch(slice(0, 300))
    model.train_step(batch)
    assert torch.equal(model.remembered, model.labels(batch)[:256])
    small = described.train.batch(slice(310, 320))
    model.train_step(small)
    assert torch.equal(model.remembered[:10], model.labels(small))
    assert torch.equal(model.remembered[10:], model.labels(batch)[:246])
    images = model.sample(5, generator=torch.Generator().manual_seed(1))
    again = model.sample(5, generator=torch.Generator().manual_seed(1))
    assert images.shape == (5, *CAE_SHAPE)
    assert torch.equal(images, again)
    labels = torch.tensor([[1.0, 0.0]] * 5)
    chosen = model.sample(5, labels=labels, generator=torch.Generator().manual_seed(1))
    assert not torch.equal(chosen, images)


@pytest.mark.parametrize("kind", ["digits", "described"])
def test_samples_are_measured_with_the_labels_of_the_images_beside_them(
    kind: str, request: pytest.FixtureRequest
) -> None:
    images: ImageSplits = request.getfixturevalue(kind)
    model = acgan(images)
    model.train_step(images.train.batch(slice(0, 32)))
    asked: list[torch.Tensor] = []
    with evaluating(model):
        first = model.generator.get_submodule("0")
        first.register_forward_pre_hook(lambda _, given: asked.append(given[0]))
        model.samples(2 * len(images.valid), images, "valid")
    balance = model.labels_in(torch.cat(asked)).mean(0)
    real = model.labels(images.valid.batch(slice(None))).mean(0)
    assert torch.allclose(balance, real, atol=1e-6)


def test_a_resumed_training_is_the_same_bit_for_bit(described: ImageSplits, tmp_path: Path) -> None:
    config = replace(SMALL, ema=0.9)
    model = acgan(described, config)
    epochs = fit(model, described, epochs=2, seed=3)
    next(epochs)
    save_checkpoint(tmp_path / "c", model, epoch=1, note={})
    next(epochs)
    other = acgan(described, config, seed=99)
    load_checkpoint(tmp_path / "c", other)
    next(fit(other, described, epochs=2, seed=3, start=1))
    ours, theirs = model.state_dict(), other.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert torch.equal(ours["remembered"], theirs["remembered"])


def test_an_export_takes_codes_and_labels(described: ImageSplits, tmp_path: Path) -> None:
    model = acgan(described)
    model.train_step(described.train.batch(slice(0, 32)))
    with evaluating(model):
        model.prepare_export(described)
    write_export(model, tmp_path)
    assert set(check_export(model, tmp_path)) >= {"generator.onnx", "discriminator.onnx"}
    loaded = load_export(tmp_path)
    assert isinstance(loaded, ACGAN)
    assert loaded.config == model.config
    draws = [m.sample(3, generator=torch.Generator().manual_seed(0)) for m in (model, loaded)]
    assert torch.equal(*draws)


@pytest.mark.parametrize("kind", ["classes", "attributes"])
def test_a_picture_shows_the_same_noise_with_one_label_changed(
    kind: str, digits: ImageSplits, described: ImageSplits, tmp_path: Path
) -> None:
    images = digits if kind == "classes" else described
    model = acgan(images)
    with evaluating(model):
        (picture,) = model.pictures(images, "test")
    picture.draw(tmp_path / "p.png", "a trial")
    with Image.open(tmp_path / "p.png") as drawn:
        rows = 10 if kind == "classes" else 3
        assert drawn.height == pytest.approx(144 * (0.62 * rows + 0.34), abs=2)


def test_many_labels_and_long_names_fit_a_picture() -> None:
    found = short_label_names(("a" * 30, "a" * 31, *(str(i) for i in range(40))))
    assert len(found) == len({name for _, name in found}) == 16
    assert max(len(name) for _, name in found) <= 24
