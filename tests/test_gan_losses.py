"""Losses of GANs against sums written out by hand, and penalties against autograd."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.acgan import ACGAN, ACGANConfig
from models.adversarial import Adversarial
from models.base import build
from models.data.images import ImageSplits
from models.errors import ConfigError
from models.gan import GAN, GANConfig
from models.kernels.fast_convolution import fast_convolutions
from models.networks.pixel_range import to_signed
from models.stargan import StarGAN, StarGANConfig
from models.training.checkpoint import load_checkpoint, save_checkpoint
from models.training.gan_balance import BalanceConfig
from models.training.gan_losses import LOSSES, gradient_penalty, lipschitz_penalty, mix_images
from models.training.loop import fit
from tests.conftest import CAE_SHAPE

FEW_DIGITS = True

SMALL = GANConfig(width=0.05, latent=6, batch_size=32, normalization="none")
REAL, FAKE = [[2.0, 0.3], [-1.0, 4.0]], [[0.5, -2.0], [3.0, 0.1]]
PAIRS = [(r, f) for real, fake in zip(REAL, FAKE, strict=True) for r, f in zip(real, fake)]  # noqa: B905


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def soft(x: float) -> float:
    return math.log(1 + math.exp(x))


BY_HAND = {
    "non_saturating": (
        mean([soft(-r) for r, _ in PAIRS]) + mean([soft(f) for _, f in PAIRS]),
        mean([soft(-f) for _, f in PAIRS]),
    ),
    "hinge": (
        mean([max(0, 1 - r) for r, _ in PAIRS]) + mean([max(0, 1 + f) for _, f in PAIRS]),
        -mean([f for _, f in PAIRS]),
    ),
    "least_squares": (
        mean([(r - 1) ** 2 for r, _ in PAIRS]) / 2 + mean([f**2 for _, f in PAIRS]) / 2,
        mean([(f - 1) ** 2 for _, f in PAIRS]) / 2,
    ),
    "wasserstein": (mean([f - r for r, f in PAIRS]), -mean([f for _, f in PAIRS])),
    "relativistic": (mean([soft(f - r) for r, f in PAIRS]), mean([soft(r - f) for r, f in PAIRS])),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_the_one_written_out_by_hand(name: str) -> None:
    real, fake = torch.tensor(REAL), torch.tensor(FAKE)
    of_d, of_g = BY_HAND[name]
    assert float(LOSSES[name].of_discriminator(real, fake, 0.0)) == pytest.approx(of_d, rel=1e-6)
    assert float(LOSSES[name].of_generator(fake, real)) == pytest.approx(of_g, rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_each_side_is_paid_for_what_it_should_do(name: str) -> None:
    """D for higher scores of real images and lower ones of fakes, G for higher ones of fakes."""
    real, fake = (
        torch.tensor([[0.2]], requires_grad=True),
        torch.tensor([[0.4]], requires_grad=True),
    )
    loss = LOSSES[name]
    up, down = torch.autograd.grad(loss.of_discriminator(real, fake, 0.0), (real, fake))
    assert (float(up) < 0, float(down) > 0) == (True, True)
    (way,) = torch.autograd.grad(loss.of_generator(fake, real), fake)
    assert float(way) < 0


def test_least_squares_take_smoothed_labels() -> None:
    loss = LOSSES["least_squares"].of_discriminator(
        torch.tensor([[0.9]]), torch.tensor([[0.0]]), 0.1
    )
    assert float(loss) == pytest.approx(0, abs=1e-12)


def test_d_is_right_about_what_lies_on_the_proper_side_of_its_boundary() -> None:
    real, fake = torch.tensor([[3.0], [1.0]]), torch.tensor([[2.0], [0.0]])
    for name, expected in {
        "non_saturating": [[3, 1], [2, 0]],
        "least_squares": [[2.5, 0.5], [1.5, -0.5]],
        "wasserstein": [[1.5, -0.5], [0.5, -1.5]],  # half way between 2 and 1
        "relativistic": [[1.5, -0.5], [0.5, -1.5]],
    }.items():
        found = [side.flatten().tolist() for side in LOSSES[name].centred(real, fake)]
        assert found == expected, name


def slopes_one_by_one(network: nn.Module, images: Tensor) -> list[Tensor]:
    """The gradient of each image's mean score, in float64."""
    found = []
    for image in images:
        image = image[None].clone().requires_grad_()
        score = network(image).mean()
        found.append(torch.autograd.grad(score, image, create_graph=True)[0])
    return found


def test_penalties_and_their_gradients_are_those_of_autograd_image_by_image() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    images = torch.randn(4, 3, 2, 2, dtype=torch.float64)
    slopes = slopes_one_by_one(network, images)
    expected = {
        gradient_penalty: torch.stack([(slope**2).sum() for slope in slopes]).mean(),
        lipschitz_penalty: torch.stack([(s.norm() - 1) ** 2 for s in slopes]).mean(),
    }
    for penalty, exact in expected.items():
        seen = images.clone().requires_grad_()
        found = penalty(network(seen), seen)
        torch.testing.assert_close(found, exact)
        weights = [value for value in network.parameters() if value.dim() == 2]
        ours = torch.autograd.grad(found, weights)
        theirs = torch.autograd.grad(exact, weights, retain_graph=True)
        torch.testing.assert_close(ours, theirs)


def test_a_score_that_is_linear_with_slope_one_has_no_lipschitz_penalty() -> None:
    weights = torch.randn(12, generator=torch.Generator().manual_seed(0))
    images = torch.randn(5, 12, requires_grad=True)
    for length in (1.0, 3.0):
        scores = (images @ (weights * length / weights.norm()))[:, None]
        assert float(lipschitz_penalty(scores, images)) == pytest.approx(
            (length - 1) ** 2, abs=1e-5
        )


def test_the_lipschitz_penalty_is_taken_between_pairs() -> None:
    torch.manual_seed(1)
    reals, fakes = torch.zeros(200, 1, 2, 2), torch.ones(200, 1, 2, 2)
    mixed = mix_images(reals, fakes)
    assert mixed.requires_grad
    shares = mixed.detach().flatten(1)
    assert torch.equal(shares, shares[:, :1].expand_as(shares))  # one place on the line an image
    assert 0 <= float(shares.min()) < 0.05 < 0.95 < float(shares.max()) <= 1


GAMES: dict[str, dict[str, Any]] = {
    "hinge": {"loss": "hinge", "normalization": "spectral"},
    "least squares": {"loss": "least_squares", "smoothing": 0.1},
    "Wasserstein": {"loss": "wasserstein", "gradient_penalty": 10.0, "d_steps": 2, "beta1": 0.0},
    "Wasserstein, spectral": {"loss": "wasserstein", "normalization": "spectral"},
    "R3GAN": {"loss": "relativistic", "r1": 1.0, "r2": 1.0, "instance_noise": 0.1},
    "packed": {"loss": "relativistic", "r1": 0.1, "r2": 0.1, "pack": 2, "g_steps": 2},
    "augmented": {"augment": "colour,translation,cutout", "r1": 0.1},
    "adaptive": {"augment": "translation,cutout", "ada_target": 0.6, "ada_images": 64},
}


@pytest.mark.parametrize("values", GAMES.values(), ids=GAMES.keys())
def test_every_game_moves_both_networks_to_finite_weights(
    values: dict[str, Any], digits: ImageSplits
) -> None:
    model = build(GAN, replace(SMALL, **values), CAE_SHAPE, seed=0)
    before = {name: value.clone() for name, value in model.named_parameters()}
    model.begin_epoch(1, 3)
    with fast_convolutions(model) as laid_out:
        size = model.images_per_step
        metrics = model.train_step(laid_out(digits.train.batch(slice(0, size))))
    assert all(torch.isfinite(value) for value in metrics.values())
    for name, value in model.named_parameters():
        if "bias" not in name:  # what shifts all scores alike cancels in pairs
            assert torch.isfinite(value).all()
            assert not torch.equal(value, before[name]), name


def test_a_game_with_labels_keeps_them(digits: ImageSplits) -> None:
    games: list[tuple[type[Adversarial], Any]] = [
        (ACGAN, ACGANConfig(width=0.03, batch_size=16, loss="hinge", augment="translation")),
        (StarGAN, StarGANConfig(
            width=0.03, batch_size=8, blocks=1, loss="relativistic", r1=1.0, r2=1.0,
            augment="cutout", ada_target=0.5, normalization="none",
        )),
    ]  # fmt: skip
    for family, config in games:
        model = build(family, family.fitted(config, digits), CAE_SHAPE, seed=0)
        found = model.train_step(digits.train.batch(slice(0, model.images_per_step)))
        assert {"label_d", "label_g", "loss_d", "loss_g"} <= set(found)
        assert all(torch.isfinite(value) for value in found.values()), family.__name__


def test_each_penalty_counts_with_its_weight(digits: ImageSplits) -> None:
    """With one penalty alone, D's gradient is that of the loss and the penalty times its weight."""
    batch = digits.train.batch(slice(0, 32))
    weights = {"r1": 0.5, "r2": 0.5, "gradient_penalty": 1.0}
    for name, factor in weights.items():
        model = build(GAN, replace(SMALL, **{name: 8.0}), CAE_SHAPE, seed=0)  # type: ignore[arg-type]
        assert isinstance(model, GAN)
        fakes = model.generator(given := model.conditions(batch)).detach()
        reals = to_signed(batch.images)
        drawn = torch.random.get_rng_state()
        model.optimizers["discriminator"].step = lambda: None  # type: ignore[assignment,method-assign]
        model._update_discriminator(batch, given, fakes.clone())
        found = [p.grad.clone() for p in model.discriminator.parameters() if p.grad is not None]
        torch.random.set_rng_state(drawn)
        at = {
            "r1": reals.clone().requires_grad_(),
            "r2": fakes.clone().requires_grad_(),
            "gradient_penalty": mix_images(reals, fakes),
        }[name]
        kind = lipschitz_penalty if name == "gradient_penalty" else gradient_penalty
        scores = [model.discriminator(images) for images in (reals, fakes)]
        total = LOSSES["non_saturating"].of_discriminator(scores[0], scores[1], 0.0)
        total = total + 8.0 * factor * kind(model.discriminator(at), at)
        exact = torch.autograd.grad(total, list(model.discriminator.parameters()))
        torch.testing.assert_close(found, list(exact), rtol=1e-4, atol=1e-6)


def test_an_adaptive_game_resumes_bit_for_bit(digits: ImageSplits, tmp_path: Path) -> None:
    config = replace(
        SMALL, loss="relativistic", r1=0.1, r2=0.1, augment="colour,translation,cutout",
        ada_target=0.3, ada_images=2000, ema=0.9,
    )  # fmt: skip
    model = build(GAN, config, CAE_SHAPE, seed=0)
    epochs = fit(model, digits, epochs=3, seed=3)
    first = next(epochs)
    assert 0 < first.train["augmented"] <= 1
    save_checkpoint(tmp_path / "c", model, epoch=1, note={})
    for _ in epochs:
        pass
    other = build(GAN, config, CAE_SHAPE, seed=99)
    load_checkpoint(tmp_path / "c", other)
    for _ in fit(other, digits, epochs=3, seed=3, start=1):
        pass
    ours, theirs = model.state_dict(), other.state_dict()
    assert {"augmentation.chance", "augmentation.signs", "augmentation.updates"} <= set(ours)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_game_without_new_choices_has_no_new_state() -> None:
    model = build(GAN, SMALL, CAE_SHAPE, seed=0)
    assert model.augmentation is None
    assert not [name for name in model.state_dict() if "augment" in name]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"loss": "wgan"}, "unknown loss 'wgan'; available: non_saturating, hinge"),
        ({"loss": "hinge", "smoothing": 0.1}, "smoothing=0.1 means nothing to loss='hinge'.*to 0"),
        ({"loss": "wasserstein"}, "grows without bounds.*set gradient_penalty, such as 10"),
        ({"r2": -1.0}, "r2=-1.0 is outside"),
        ({"gradient_penalty": float("nan")}, "gradient_penalty=nan is outside"),
        (
            {"augment": "color"},
            "augment='color' is neither 'none' nor some of flip, colour, translation",
        ),
        ({"augment": "cutout,cutout"}, "augment='cutout,cutout' is neither"),
        ({"ada_target": 0.6}, "ada_target=0.6 adapts augment='none': name what"),
        ({"ada_target": 1.5}, "ada_target=1.5 is outside"),
        ({"ada_images": 0}, "ada_images=0 is outside"),
    ],
)
def test_a_game_that_means_nothing_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BalanceConfig(**values)


def test_a_field_that_is_new_leaves_a_configuration_of_before_what_it_was() -> None:
    new = {"loss", "r2", "gradient_penalty", "augment", "ada_target", "ada_images"}
    assert not new & set(GANConfig().to_plain())
    changed = GANConfig(loss="hinge", ada_images=7).to_plain()
    assert {name: changed[name] for name in new & set(changed)} == {
        "loss": "hinge",
        "ada_images": 7,
    }
