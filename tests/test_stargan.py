"""StarGAN, reference system B3: images translated to other labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from models.base import build, evaluating, parameter_count
from models.data.images import ImageSplits, Shape
from models.errors import ConfigError
from models.export import check_export, load_export, write_export
from models.networks.pixel_range import to_signed
from models.networks.stargan import Residual
from models.stargan import StarGAN, StarGANConfig, with_planes
from models.training.checkpoint import load_checkpoint, save_checkpoint
from models.training.loop import fit
from search.setup.checks import _Unfilled
from tests.conftest import CAE_SHAPE

FEW_DIGITS = True

pytestmark = pytest.mark.usefixtures("quick_onnx")

SMALL = StarGANConfig(width=0.05, blocks=1, batch_size=16, labels=10, exclusive=True)


def stargan(config: StarGANConfig = SMALL, shape: Shape = CAE_SHAPE, seed: int = 0) -> StarGAN:
    model = build(StarGAN, config, shape, seed=seed)
    assert isinstance(model, StarGAN)
    return model


def test_networks_follow_reference_system_b3() -> None:
    with torch.device("meta"), _Unfilled():
        model = StarGAN(StarGANConfig(), (3, 64, 64))
        x, sizes = torch.empty(2, 3 + 8, 64, 64), []
        for layer in model.generator.children():
            x = layer(x)
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | Residual):
                sizes.append(tuple(x.shape[1:]))
        scores = model.discriminator(torch.empty(2, 3, 64, 64))
    residual = [(256, 16, 16)] * 7
    ends = [(128, 32, 32), (64, 64, 64)]
    assert sizes == [(64, 64, 64), (128, 32, 32), *residual, *ends, (3, 64, 64)]
    assert scores.shape == (2, 6 * 6 + 8)
    assert parameter_count(model.generator) == 8_439_936
    assert parameter_count(model.discriminator) == 2_966_272


def test_the_defaults_are_the_references() -> None:
    config = StarGANConfig()
    assert (config.batch_size, config.d_steps, config.g_steps) == (32, 4, 1)
    assert config.lr_g == config.lr_d
    assert config.labels == 8


def test_a_score_sees_a_patch_of_70_pixels() -> None:
    model = stargan(replace(SMALL, normalization="none", width=0.02), (1, 160, 160))
    image = torch.zeros(1, 1, 160, 160, requires_grad=True)
    side = round(model.scores_per_image**0.5)
    middle = side * (side // 2) + side // 2
    (slope,) = torch.autograd.grad(model.discriminator(image)[0, middle], image)
    seen = slope[0, 0] != 0
    assert int(seen.any(0).sum()) == int(seen.any(1).sum()) == 70


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 33, 47), (1, 24, 64)])
def test_images_of_any_size_are_translated(shape: Shape) -> None:
    model = stargan(shape=shape)
    images = torch.rand(3, *shape)
    made = model.translate(images, torch.eye(10)[:3])
    assert made.shape == images.shape
    assert 0 <= float(made.min()) <= float(made.max()) <= 1
    assert model.discriminator(images).shape == (3, model.scores_per_image + 10)


def test_images_too_small_for_a_patch_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"23x28 are too small for a StarGAN: at least 24x24"):
        StarGAN(SMALL, (1, 23, 28))


def test_a_label_is_a_constant_plane() -> None:
    images, labels = torch.rand(2, 3, 4, 5), torch.tensor([[0.25, 1.0], [0.0, 0.5]])
    given = with_planes(images, labels)
    assert given.shape == (2, 5, 4, 5)
    assert torch.equal(given[:, :3], images)
    assert torch.equal(given[:, 3:], labels[:, :, None, None] * torch.ones(4, 5))


def test_targets_are_the_labels_of_other_images(digits: ImageSplits) -> None:
    model = stargan()
    batch = digits.train.batch(slice(0, 16))
    own = model.labels(batch)
    ways = set()
    for seed in range(20):
        torch.manual_seed(seed)
        given = model.conditions(batch)
        assert torch.equal(given[:, :1], to_signed(batch.images))
        targets = model.labels_in(given)
        found = [way for way in range(16) if torch.equal(targets, own.roll(-way, 0))]
        ways |= set(found)
        assert found
    assert 0 not in ways
    assert len(ways) > 5


def test_a_step_has_four_updates_of_the_discriminator_and_one_of_the_generator(
    digits: ImageSplits,
) -> None:
    model = stargan()
    assert model.images_per_step == 64
    before = {name: value.clone() for name, value in model.named_parameters()}
    metrics = model.train_step(digits.train.batch(slice(0, 64)))
    assert {"label_d", "label_g", "reconstruction"} <= set(metrics)
    assert all(torch.isfinite(value) for value in metrics.values())
    steps = {name: o.state_dict()["state"][0]["step"] for name, o in model.optimizers.items()}
    assert steps == {"generator": 1, "discriminator": 4}
    for name, value in model.named_parameters():
        assert torch.isfinite(value).all()
        assert not torch.equal(value, before[name]), name


@pytest.mark.parametrize("normalization", ["spectral", "none"])
def test_penalties_and_norms_give_finite_steps(normalization: str, digits: ImageSplits) -> None:
    model = stargan(replace(SMALL, normalization=normalization, r1=1.0, ema=0.5, smoothing=0.1))
    metrics = model.train_step(digits.train.batch(slice(0, 64)))
    assert all(torch.isfinite(value) for value in metrics.values())


def test_both_networks_learn_the_labels(digits: ImageSplits) -> None:
    config = replace(SMALL, lr_g=5e-3, lr_d=1e-3, d_steps=1)
    *_, last = fit(stargan(config), digits, epochs=6, seed=0)
    assert last.valid["labels_real"] > 0.45  # by chance 0.1
    assert last.valid["labels_fake"] > 0.45


def test_the_generator_learns_the_way_back(digits: ImageSplits) -> None:
    model = stargan(replace(SMALL, lr_g=1e-2))
    batch = digits.train.batch(slice(0, 32))
    given = model.conditions(batch)
    errors = [
        float(model._update_generator(batch, given, model.generator(given))["reconstruction"])
        for _ in range(40)
    ]
    assert errors[-1] < 0.5 * errors[0]


def test_a_resumed_training_is_the_same_bit_for_bit(digits: ImageSplits, tmp_path: Path) -> None:
    config = replace(SMALL, ema=0.9)
    model = stargan(config)
    epochs = fit(model, digits, epochs=2, seed=3)
    next(epochs)
    save_checkpoint(tmp_path / "c", model, epoch=1, note={})
    next(epochs)
    other = stargan(config, seed=99)
    load_checkpoint(tmp_path / "c", other)
    next(fit(other, digits, epochs=2, seed=3, start=1))
    ours, theirs = model.state_dict(), other.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_an_export_takes_images_with_planes(digits: ImageSplits, tmp_path: Path) -> None:
    model = stargan()
    model.train_step(digits.train.batch(slice(0, 64)))
    with evaluating(model):
        model.prepare_export(digits)
    write_export(model, tmp_path)
    assert set(check_export(model, tmp_path)) >= {"generator.onnx", "discriminator.onnx"}
    loaded = load_export(tmp_path)
    assert isinstance(loaded, StarGAN)
    images, labels = digits.test.batch(slice(0, 3)).images, torch.eye(10)[4:7]
    assert torch.equal(loaded.translate(images, labels), model.translate(images, labels))


def test_a_picture_shows_each_image_with_every_label(digits: ImageSplits, tmp_path: Path) -> None:
    config = StarGAN.fitted(replace(SMALL, labels=3, exclusive=False), digits)
    assert isinstance(config, StarGANConfig)
    model = stargan(config)
    with evaluating(model):
        (picture,) = model.pictures(digits, "test")
    picture.draw(tmp_path / "p.png", "a trial")
    with Image.open(tmp_path / "p.png") as drawn:
        assert drawn.height == pytest.approx(144 * (0.62 * 11 + 0.34), abs=2)
