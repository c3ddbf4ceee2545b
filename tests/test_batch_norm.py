"""Batch norms of GANs: what D and the averaged generator are measured and exported with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from models.acgan import ACGAN, ACGANConfig
from models.adversarial import Adversarial
from models.base import ModelConfig, build, evaluating
from models.data.images import Images, ImageSplits
from models.export import check_export, load_export, write_export
from models.gan import GAN, GANConfig
from models.networks.batch_norm import own_statistics, recompute_statistics
from models.networks.pixel_range import to_signed
from models.seeds import same_draws
from models.stargan import StarGAN, StarGANConfig
from models.training.checkpoint import load_checkpoint, save_checkpoint
from models.training.loop import evaluate, fit
from tests.conftest import CAE_SHAPE

SMALL = GANConfig(width=0.05, latent=6, batch_size=32)


def gan(config: GANConfig = SMALL) -> GAN:
    model = build(GAN, config, CAE_SHAPE, seed=0)
    assert isinstance(model, GAN)
    return model


def network() -> nn.Sequential:
    """Batch norm, and two layers that behave otherwise in training."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Dropout(0.5), nn.Conv2d(3, 1, 3)
    ).eval()


def states_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same_states(module: nn.Module, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_a_batch_is_normalised_by_its_own_statistics_which_are_not_kept() -> None:
    model, images = network(), 3 + 2 * torch.rand(8, 1, 9, 9)
    before = states_of(model)
    convolution, norm, _, last = model
    assert isinstance(norm, nn.BatchNorm2d)
    kept = norm.running_mean  # where a recorded step writes
    own = nn.functional.batch_norm(
        convolution(images), None, None, norm.weight, norm.bias, training=True
    )
    with own_statistics(model):
        torch.testing.assert_close(model(images), last(own))
    assert same_states(model, before)
    with pytest.raises(RuntimeError), own_statistics(model):
        model(torch.rand(8, 2, 9, 9))  # too many channels
    assert same_states(model, before)
    assert norm.running_mean is kept
    assert not torch.allclose(model(images), last(own))


def test_statistics_are_the_mean_of_those_of_all_batches_without_dropout() -> None:
    model = network()
    batches = [torch.rand(8, 1, 9, 9) + shift for shift in (0.0, 1.0, 5.0)]
    convolution, norm = model[0], model[1]
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean += 100
    place = norm.running_mean.data_ptr()
    recompute_statistics(model, iter(batches))
    seen = [convolution(batch).transpose(0, 1).flatten(1) for batch in batches]  # (3, pixels)
    torch.testing.assert_close(norm.running_mean, torch.stack([x.mean(1) for x in seen]).mean(0))
    torch.testing.assert_close(norm.running_var, torch.stack([x.var(1) for x in seen]).mean(0))
    assert norm.running_mean.data_ptr() == place  # where a recorded step writes
    assert norm.momentum == 0.1
    assert not any(layer.training for layer in model.modules())


FAMILIES: list[tuple[type[Adversarial], ModelConfig]] = [
    (GAN, SMALL),
    (GAN, replace(SMALL, pack=2)),
    (ACGAN, ACGANConfig(width=0.03, latent=6, labels=10, exclusive=True, batch_size=32)),
    (StarGAN, StarGANConfig(width=0.03, blocks=1, labels=10, exclusive=True)),
]


@pytest.mark.parametrize(("family", "config"), FAMILIES)
def test_a_discriminator_is_measured_as_it_is_trained(
    digits: ImageSplits, family: type[Adversarial], config: ModelConfig
) -> None:
    """Its running statistics mix real images and fakes, and say something else."""
    model = build(family, replace(config, lr_d=5e-3), CAE_SHAPE, seed=0)  # type: ignore[call-arg]
    assert isinstance(model, Adversarial)
    model.train()
    torch.manual_seed(0)  # of the codes
    for step in range(6):
        model.train_step(digits.train.batch(slice(32 * step, 32 * step + model.images_per_step)))
    few = digits.valid.take(torch.arange(64))
    before = states_of(model)
    measured = evaluate(model, few)
    assert same_states(model, before)
    with evaluating(model):
        reals = to_signed(few.batch(slice(0, 64)).images)
        mixed = torch.sigmoid(model._scores(model.seen(reals))[0]).mean()
        model.discriminator.train()
        halves = [model._scores(model.seen(half))[0] for half in reals.split(32)]
    trained = torch.sigmoid(torch.cat(halves)).mean()
    assert measured["d_real"] == pytest.approx(float(trained), abs=1e-6)
    assert abs(float(mixed) - float(trained)) > 1e-4


def test_a_discriminator_is_measured_on_images_as_it_sees_them_in_training(
    digits: ImageSplits,
) -> None:
    """One that knows images with holes would take all clean ones for real, fakes included."""
    model = gan(replace(SMALL, augment="cutout", instance_noise=0.2))
    seen: list[Tensor] = []
    model.discriminator.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    few = digits.valid.take(torch.arange(32))
    reals = to_signed(few.batch(slice(0, 32)).images)
    measured = evaluate(model, few)
    assert not (seen[0] == reals).any(), "noise is everywhere"
    assert evaluate(model, few) == measured
    model.noise.zero_()
    seen.clear()
    evaluate(model, few)
    for image, real in zip(seen[0], reals, strict=True):
        assert 0.5 < (image == real).float().mean() < 1, "a hole, and nothing else"


def test_a_rest_of_too_few_images_joins_the_batch_before_it() -> None:
    images = Images(pixels=torch.arange(9, dtype=torch.uint8).view(9, 1, 1, 1))
    for size, least, expected in ((4, 1, [4, 4, 1]), (4, 2, [4, 5]), (9, 3, [9]), (20, 12, [9])):
        batches = list(images.batches(size, least=least))
        assert [len(batch.images) for batch in batches] == expected
        seen = torch.cat([batch.images for batch in batches]).flatten() * 255
        assert seen.round().tolist() == list(range(9))


def drift_of_first_norm(model: GAN) -> float:
    """How far what the averaged generator's first batch norm lets through is from what it lets
    through in training, in deviations."""
    layers = list(model.sampling_generator.children())
    first = next(i for i, layer in enumerate(layers) if isinstance(layer, nn.BatchNorm2d))
    with evaluating(model):
        normalised = layers[first]
        assert isinstance(normalised, nn.BatchNorm2d)
        made = nn.Sequential(*layers[: first + 1])(model.codes(2000, torch.Generator()))
        made = (made - normalised.bias[:, None, None]) / normalised.weight[:, None, None]
    return float((made.var((0, 2, 3)) - 1).abs().mean())


def test_the_average_of_weights_has_statistics_of_its_own_after_each_epoch(
    digits: ImageSplits,
) -> None:
    model = gan(replace(SMALL, ema=0.99, lr_g=5e-3))
    few = digits.train.take(torch.arange(256))
    for _ in fit(model, replace(digits, train=few), epochs=2, seed=0):
        own = drift_of_first_norm(model)
        assert model.averaged is not None
        kept = states_of(model.averaged)
        model.averaged.load_state_dict(
            {**model.averaged.state_dict(), **dict(model.generator.named_buffers())}
        )
        assert own < 0.1 < drift_of_first_norm(model)  # with those of the trained weights
        model.averaged.load_state_dict(kept)


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_translator_is_measured_with_the_statistics_of_images_and_not_of_its_fakes(
    digits: ImageSplits, ema: float
) -> None:
    small = StarGANConfig(width=0.02, blocks=1, batch_size=16, d_steps=1, ema=ema)
    few = replace(digits, train=digits.train.take(torch.arange(64)))
    model = build(StarGAN, StarGAN.fitted(small, few), CAE_SHAPE, seed=0)
    assert isinstance(model, StarGAN)
    assert len([*fit(model, few, epochs=1, seed=0)]) == 1
    first, norm = [*model.sampling_generator.children()][:2]
    assert isinstance(norm, nn.BatchNorm2d)
    with evaluating(model), same_draws(model.device):
        given = [model.conditions(batch) for batch in model._draw_batches(few.train)]
        means = torch.stack([first(planes).mean((0, 2, 3)) for planes in given]).mean(0)
    assert norm.running_mean is not None
    assert torch.allclose(norm.running_mean, means, atol=1e-4)


@pytest.mark.parametrize("family", [GAN, StarGAN])
def test_a_resumed_training_is_the_same_bit_for_bit_with_batch_norm(
    digits: ImageSplits, tmp_path: Path, family: type[Adversarial]
) -> None:
    config: Any = dict(FAMILIES)[family]
    config = replace(config, ema=0.9, d_steps=1, batch_size=32)
    few, fewer = torch.arange(64), torch.arange(40)
    images = replace(digits, train=digits.train.take(few), valid=digits.valid.take(fewer))
    model, other = (build(family, config, CAE_SHAPE, seed=seed) for seed in (0, 9))
    epochs = fit(model, images, epochs=2, seed=3)
    next(epochs)
    save_checkpoint(tmp_path / "c", model, epoch=1, note={})
    whole = list(epochs)
    load_checkpoint(tmp_path / "c", other)
    resumed = list(fit(other, images, epochs=2, seed=3, start=1))
    assert [e.valid for e in resumed] == [e.valid for e in whole]
    ours, theirs = model.state_dict(), other.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.usefixtures("quick_onnx")
def test_a_discriminator_is_exported_with_the_statistics_of_real_images(
    digits: ImageSplits, tmp_path: Path
) -> None:
    model = gan()
    for _ in fit(model, digits, epochs=1, seed=0):
        assert set(model.programs()) == {"generator"}  # D's statistics mix real images and fakes
    batches = [to_signed(b.images) for b in digits.train.batches(32, least=2)]
    with evaluating(model):
        model.prepare_export(digits)
        kept = states_of(model.discriminator)
        model.prepare_export(digits)
    assert not same_states(model.discriminator, kept)  # the caller sets the seed
    fresh = gan()
    fresh.load_state_dict(model.state_dict())
    with evaluating(fresh):
        recompute_statistics(fresh.discriminator, batches)
    pairs = zip(model.discriminator.buffers(), fresh.discriminator.buffers(), strict=True)
    for found, of_all in pairs:
        if found.is_floating_point():
            torch.testing.assert_close(found, of_all, rtol=0.2, atol=0.02)
    write_export(model, tmp_path)
    assert "discriminator.onnx" in check_export(model, tmp_path)
    assert set(load_export(tmp_path).programs()) == {"generator", "discriminator"}
    session = onnxruntime.InferenceSession(tmp_path / "discriminator.onnx")
    (said,) = json.loads(session.get_modelmeta().custom_metadata_map["outputs"])
    assert said["holds"].endswith("its batch norms have the statistics of real training images")
    images = digits.valid.batch(slice(0, 64)).images
    (scores,) = session.run(None, {"images": images.numpy()})
    with evaluating(model), own_statistics(model.discriminator):
        own = model.discriminator(to_signed(images))
    assert np.abs(scores - own.numpy()).mean() < 0.3 * float(own.std() + own.abs().mean())


def test_without_batch_norm_nothing_is_said_or_left_out(digits: ImageSplits) -> None:
    model = gan(replace(SMALL, normalization="spectral"))
    model.train_step(digits.train.batch(slice(0, 32)))
    said = model.programs()["discriminator"].outputs[0].holds
    assert "batch norm" not in said
    before = states_of(model.discriminator)
    with evaluating(model):
        model.prepare_export(digits)
    assert same_states(model.discriminator, before)
