"""GANs of reference system B1: their networks, what a step does to them, and what they show."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn.utils import parametrize

from models.base import build, evaluating, parameter_count
from models.data.images import ImageSplits, Shape
from models.errors import ConfigError
from models.export import check_export, load_export, write_export
from models.gan import GAN, GANConfig, great_circle, pack
from models.kernels.fast_convolution import fast_convolutions
from models.networks.pixel_range import to_signed
from models.training.checkpoint import load_checkpoint, save_checkpoint
from models.training.gan_losses import (
    discriminator_loss,
    gradient_penalty,
    sample_spread,
    update_average,
)
from models.training.loop import fit
from search.setup.checks import _Unfilled
from tests.conftest import CAE_SHAPE

FEW_DIGITS = True

pytestmark = pytest.mark.usefixtures("quick_onnx")

SMALL = GANConfig(width=0.05, latent=6, batch_size=32)
REFERENCES = [
    ("32", (1, 32, 32), 1_931_520, 1_384_576),
    ("64", (3, 64, 64), 3_806_080, 2_765_568),
    ("512", (3, 512, 512), 202_415_104, 2_790_144),
    ("dropout-28", (1, 28, 28), 4_928_769, 1_030_913),
]


def gan(config: GANConfig = SMALL, shape: Shape = CAE_SHAPE, seed: int = 0) -> GAN:
    model = build(GAN, config, shape, seed=seed)
    assert isinstance(model, GAN)
    return model


@pytest.mark.parametrize(("name", "shape", "made", "judged"), REFERENCES)
def test_networks_have_the_parameters_of_reference_system_b1(
    name: str, shape: Shape, made: int, judged: int
) -> None:
    with torch.device("meta"), _Unfilled():
        model = GAN(GANConfig(architecture=name), shape)
        images = model.generator(torch.empty(2, model.latent))
        scores = model.discriminator(images)
    assert (parameter_count(model.generator), parameter_count(model.discriminator)) == (
        made,
        judged,
    )
    assert (images.shape, scores.shape) == ((2, *shape), (2, 1))


@pytest.mark.parametrize(
    ("name", "shape", "sizes"),
    [
        ("32", (1, 32, 32), [4, 8, 16, 32]),
        ("64", (3, 64, 64), [4, 8, 16, 32, 64]),
        ("512", (3, 512, 512), [8, 32, 128, 256, 512]),
        ("dropout-28", (1, 28, 28), [8, 14, 28]),
    ],
)
def test_stages_follow_from_the_image_and_the_configuration(
    name: str, shape: Shape, sizes: list[int]
) -> None:
    with torch.device("meta"), _Unfilled():
        model = GAN(GANConfig(architecture=name), shape)
        x, found = torch.empty(2, model.latent), []
        for layer in model.generator.children():
            x = layer(x)
            if isinstance(layer, nn.ConvTranspose2d):
                found.append(x.shape[2])
    assert found == sizes


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 33, 47), (1, 8, 8), (3, 64, 32)])
@pytest.mark.parametrize("name", ["32", "dropout-28"])
def test_images_of_any_size_are_made_and_judged(name: str, shape: Shape) -> None:
    model = gan(replace(SMALL, architecture=name), shape)
    images = model.sample(3)
    assert images.shape == (3, *shape)
    assert 0 <= float(images.min()) < float(images.max()) <= 1
    assert model.discriminator(images).shape == (3, 1)


def test_the_512_network_trains_at_a_reduced_width(digits: ImageSplits) -> None:
    config = replace(SMALL, architecture="512", width=0.003, batch_size=4)
    model = gan(config, (1, 512, 512))
    batch = digits.train.batch(slice(0, 4))
    images = nn.functional.interpolate(batch.images, size=(512, 512))
    metrics = model.train_step(replace(batch, images=images))
    assert all(torch.isfinite(value) for value in metrics.values())
    assert model.sample(2).shape == (2, 1, 512, 512)


def test_images_too_small_for_the_strides_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"32x32 are too small.*at least 64x64"):
        GAN(replace(SMALL, architecture="512"), (1, 32, 32))


def test_first_weights_are_those_of_dcgan() -> None:
    model = gan(replace(SMALL, width=0.5))
    weights: dict[str, list[torch.Tensor]] = {"conv": [], "norm": []}
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            weights["conv"].append(layer.weight.detach().flatten())
        elif isinstance(layer, nn.BatchNorm2d):
            weights["norm"].append(layer.weight.detach())
            assert not layer.bias.any()
    conv, norm = torch.cat(weights["conv"]), torch.cat(weights["norm"])
    assert (float(conv.mean()), float(conv.std())) == pytest.approx((0, 0.02), abs=1e-3)
    assert (float(norm.mean()), float(norm.std())) == pytest.approx((1, 0.02), abs=4e-3)


VARIANTS = {
    "plain": {},
    "smoothing": {"smoothing": 0.1},
    "instance noise": {"instance_noise": 0.3},
    "R1": {"r1": 10.0},
    "R1, no norm": {"r1": 10.0, "normalization": "none"},
    "spectral": {"normalization": "spectral"},
    "average": {"ema": 0.99},
    "packing": {"pack": 3},
    "packing, R1, two of each": {"pack": 2, "r1": 1.0, "d_steps": 2, "g_steps": 2},
    "dropout": {"architecture": "dropout-28", "normalization": "spectral", "r1": 1.0},
    "cosine": {"schedule": "cosine", "beta1": 0.0, "beta2": 0.9},
}


@pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS.keys())
def test_every_variant_moves_both_networks_to_finite_weights(
    values: dict[str, object], digits: ImageSplits
) -> None:
    model = gan(replace(SMALL, **values))  # type: ignore[arg-type]
    before = {name: value.clone() for name, value in model.named_parameters()}
    model.begin_epoch(1, 3)
    with fast_convolutions(model) as laid_out:
        size = model.images_per_step
        metrics = model.train_step(laid_out(digits.train.batch(slice(0, size))))
    assert all(torch.isfinite(value) for value in metrics.values())
    for name, value in model.named_parameters():
        assert torch.isfinite(value).all()
        assert not torch.equal(value, before[name]), name


def test_each_update_helps_the_network_that_it_is_of(digits: ImageSplits) -> None:
    model = gan()
    batch = digits.train.batch(slice(0, 32))
    given = model.conditions(batch)
    fakes = model.generator(given)
    first = model._update_discriminator(batch, given, fakes.detach())
    for _ in range(10):
        last = model._update_discriminator(batch, given, fakes.detach())
    assert last["loss_d"] < first["loss_d"]
    assert last["d_real"] > first["d_real"]
    assert last["d_fake"] < first["d_fake"]
    first = model._update_generator(batch, given, fakes)
    for _ in range(10):
        last = model._update_generator(batch, given, model.generator(given))
    assert last["loss_g"] < first["loss_g"]


def test_updates_of_one_network_leave_the_other_alone(digits: ImageSplits) -> None:
    model = gan()
    batch = digits.train.batch(slice(0, 32))
    given = model.conditions(batch)
    fakes = model.generator(given)
    for own, other in (("discriminator", "generator"), ("generator", "discriminator")):
        before = [p.clone() for p in getattr(model, other).parameters()]
        if own == "discriminator":
            model._update_discriminator(batch, given, fakes.detach())
        else:
            model._update_generator(batch, given, fakes)
        after = list(getattr(model, other).parameters())
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_the_penalty_and_its_gradient_are_those_of_autograd(digits: ImageSplits) -> None:
    """Image by image in float64, without the kernels; batch norm would mix images."""
    model = gan(replace(SMALL, normalization="none", r1=2.0))
    images = to_signed(digits.train.batch(slice(0, 7)).images)
    weights = list(model.discriminator.parameters())
    with fast_convolutions(model):
        seen = images.clone().requires_grad_()
        penalty = gradient_penalty(model.discriminator(seen), seen)
        ours = torch.autograd.grad(penalty, weights, allow_unused=True)
    model.double()
    squares = []
    for image in images.double():
        image = image[None].clone().requires_grad_()
        (slope,) = torch.autograd.grad(model.discriminator(image).sum(), image, create_graph=True)
        squares.append((slope**2).sum())
    exact = torch.stack(squares).mean()
    theirs = torch.autograd.grad(exact, list(model.discriminator.parameters()), allow_unused=True)
    assert penalty.item() == pytest.approx(exact.item(), rel=1e-5)
    assert sum(gradient is not None for gradient in ours) >= 4  # biases do not count
    for found, expected in zip(ours, theirs, strict=True):
        assert (found is None) == (expected is None)
        if found is not None and expected is not None:
            largest = float(expected.abs().max())
            torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-4 * largest)


def test_smoothing_is_one_sided() -> None:
    real, fake = torch.tensor([[2.0], [-1.0]]), torch.tensor([[0.5], [3.0]])
    true, false = torch.sigmoid(real), torch.sigmoid(fake)
    expected = -(0.9 * true.log() + 0.1 * (1 - true).log()).mean() - (1 - false).log().mean()
    assert float(discriminator_loss(real, fake, 0.1)) == pytest.approx(float(expected), rel=1e-6)


def test_spectral_norms_are_one_and_go_one_step_an_evaluation(digits: ImageSplits) -> None:
    config = replace(SMALL, normalization="spectral", width=0.3)
    model = gan(config)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in model.discriminator.modules())
    batch = digits.train.batch(slice(0, 32))
    for _ in range(30):
        model.discriminator(to_signed(batch.images))
    with evaluating(model):
        for layer in model.discriminator:  # type: ignore[attr-defined]
            if isinstance(layer, nn.Conv2d):
                norm = torch.linalg.matrix_norm(layer.weight.flatten(1), 2)
                assert float(norm) == pytest.approx(1, abs=0.02)
    plain, fast = gan(config, seed=1), gan(config, seed=1)
    plain.discriminator(batch.images)
    with fast_convolutions(fast):
        fast.discriminator(batch.images)
    vectors = [[b for n, b in m.named_buffers() if n.endswith("._u")] for m in (plain, fast)]
    assert len(vectors[0]) == 4
    assert all(torch.equal(a, b) for a, b in zip(*vectors, strict=True))


def test_the_average_follows_the_generator_and_is_what_samples_come_from(
    digits: ImageSplits,
) -> None:
    model = gan(replace(SMALL, ema=0.75))
    assert model.averaged is not None
    expected = [p.detach().clone() for p in model.generator.parameters()]
    for step in range(3):
        model.train_step(digits.train.batch(slice(32 * step, 32 * step + 32)))
        for kept, new in zip(expected, model.generator.parameters(), strict=True):
            new_share = max(0.25, 9 / (10 + step))  # what came before it learnt is soon forgotten
            kept.lerp_(new.detach(), new_share)
    for kept, found in zip(expected, model.averaged.parameters(), strict=True):
        torch.testing.assert_close(found, kept)
    codes = model.codes(4, torch.Generator().manual_seed(1))
    with evaluating(model):
        drawn = (model.averaged(codes) + 1) / 2
        assert not torch.allclose(drawn, (model.generator(codes) + 1) / 2)
    assert torch.equal(model.sample(4, generator=torch.Generator().manual_seed(1)), drawn)


def test_an_average_that_forgets_at_once_is_the_network() -> None:
    ours, theirs = gan(seed=1).generator, gan(seed=2).generator
    update_average(ours, theirs, 0.0, torch.zeros(()))
    pairs = zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_resumed_training_is_the_same_bit_for_bit_average_and_all(
    digits: ImageSplits, tmp_path: Path
) -> None:
    config = replace(
        SMALL, ema=0.9, normalization="spectral", instance_noise=0.2, extra_g_steps=1,
        threshold=-0.5, schedule="cosine",
    )  # fmt: skip
    model = gan(config)
    epochs = fit(model, digits, epochs=3, seed=3)
    next(epochs)
    save_checkpoint(tmp_path / "c", model, epoch=1, note={})
    for _ in epochs:
        pass
    other = gan(config, seed=99)
    load_checkpoint(tmp_path / "c", other)
    for _ in fit(other, digits, epochs=3, seed=3, start=1):
        pass
    ours, theirs = model.state_dict(), other.state_dict()
    assert {name for name in ours if name.startswith("averaged.")}
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_samples_follow_from_their_generator_and_change_nothing(digits: ImageSplits) -> None:
    model = gan().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, again, other = (
        model.sample(70, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert model.training
    assert not first.requires_grad
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    codes = model.codes(70, torch.Generator().manual_seed(1))
    torch.testing.assert_close(model.generate(codes[:1]), first[:1], rtol=0, atol=1e-6)


def test_packing_lays_neighbours_side_by_side_and_fills_up_the_last() -> None:
    images = torch.arange(5.0).view(5, 1, 1, 1).expand(5, 2, 1, 1)
    assert pack(images, 2)[:, :, 0, 0].tolist() == [[0, 0, 1, 1], [2, 2, 3, 3], [4, 4, 0, 0]]
    assert pack(images[:2], 3)[:, :, 0, 0].tolist() == [[0, 0, 1, 1, 0, 0]]
    assert pack(images, 1) is images


@pytest.mark.parametrize("batch_size", [3, 4])
def test_a_minibatch_has_more_images_than_are_packed(batch_size: int, digits: ImageSplits) -> None:
    model = gan(replace(SMALL, pack=4, batch_size=batch_size, normalization="none"))
    images = digits.train.batch(slice(0, model.images_per_step))
    needed = "minibatch, which needs 5 or more: lower pack, or raise batch_size"
    with pytest.raises(ConfigError, match=needed):
        model.train_step(images)


def test_spread_is_the_distance_of_fakes_over_that_of_reals() -> None:
    torch.manual_seed(0)
    fakes, reals = torch.rand(9, 1, 3, 4), torch.rand(9, 1, 3, 4)

    def apart(images: torch.Tensor) -> float:
        return float(torch.pdist(images.flatten(1)).square().mean().sqrt())

    assert float(sample_spread(fakes, reals)) == pytest.approx(
        apart(fakes) / apart(reals), rel=1e-5
    )
    assert float(sample_spread(fakes[:1].expand(9, 1, 3, 4), reals)) == pytest.approx(0, abs=1e-6)


def test_a_training_tells_how_both_networks_are(digits: ImageSplits) -> None:
    (result,) = fit(gan(), digits, epochs=1, seed=0)
    assert set(result.train) == {*GAN.metrics, "gradient_g", "gradient_d"}
    for part in (result.train, result.valid):
        for name in ("d_real", "d_fake", "accuracy_real", "accuracy_fake"):
            assert 0 <= part[name] <= 1
        assert part["spread"] > 0


def test_an_export_makes_images_of_codes_and_scores_of_images(
    digits: ImageSplits, tmp_path: Path
) -> None:
    model = gan(replace(SMALL, ema=0.5, normalization="spectral", pack=2))
    model.train_step(digits.train.batch(slice(0, 32)))
    write_export(model, tmp_path)
    assert set(check_export(model, tmp_path)) >= {"generator.onnx", "discriminator.onnx"}
    loaded = load_export(tmp_path)
    assert isinstance(loaded, GAN)
    codes = model.codes(3)
    assert torch.equal(loaded.generate(codes), model.generate(codes))
    import onnxruntime

    session = onnxruntime.InferenceSession(tmp_path / "generator.onnx")
    (made,) = session.run(None, {session.get_inputs()[0].name: codes.numpy()})
    np.testing.assert_allclose(made, model.generate(codes).numpy(), atol=1e-5)


def test_a_great_circle_keeps_the_length_of_its_ends() -> None:
    first, last = torch.randn(2, 50, generator=torch.Generator().manual_seed(0))
    first, last = first / first.norm(), last / last.norm()
    codes = great_circle(first, last, 7)
    torch.testing.assert_close(codes[0], first)
    torch.testing.assert_close(codes[-1], last)
    torch.testing.assert_close(codes.norm(dim=1), torch.ones(7))
    assert torch.isfinite(great_circle(first, first, 3)).all()


def test_pictures_are_the_same_for_the_same_weights(digits: ImageSplits, tmp_path: Path) -> None:
    model = gan()
    drawn = []
    for turn in range(2):
        torch.manual_seed(turn)
        with evaluating(model):
            pictures = [model.preview(digits, "valid", 10), *model.pictures(digits, "test")]
        assert [picture.name for picture in pictures] == ["samples", "samples", "interpolations"]
        for index, picture in enumerate(pictures):
            picture.draw(tmp_path / f"{turn}-{index}.png", "a trial")
            with Image.open(tmp_path / f"{turn}-{index}.png") as file:
                drawn.append(np.asarray(file))
    assert all(np.array_equal(a, b) for a, b in zip(drawn[:3], drawn[3:], strict=True))
    assert all(picture.std() > 0 for picture in drawn)


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown architecture '33'; available: 32, 64, 512"):
        GANConfig(architecture="33")


def test_parametrised_networks_are_recognised_by_the_kernels() -> None:
    model = gan(replace(SMALL, normalization="spectral"))
    convolutions = [m for m in model.discriminator.modules() if isinstance(m, nn.Conv2d)]
    assert all(parametrize.is_parametrized(layer) for layer in convolutions)
    with fast_convolutions(model):
        assert all("forward" in vars(layer) for layer in convolutions)
