"""Noise does what its name says: statistics of real draws, ranges, repeatability, layout."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from models.autoencoder import AutoencoderConfig
from models.base import build
from models.cae import CAE, CAEConfig
from models.data.images import Batch
from models.data.noise import ALL, KINDS, check_noise, corrupt
from models.errors import ConfigError
from models.kernels.fast_convolution import batch_innermost, fast_convolutions

EVERY = [*KINDS, ALL, "gaussian+salt_pepper", "none"]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def grey(level: float, *, count: int = 64, channels: int = 1) -> Tensor:
    """Images of one brightness: 50,176 pixels at the default count."""
    return torch.full((count, channels, 28, 28), level)


def test_gaussian_noise_has_the_deviation_it_is_given() -> None:
    added = corrupt(grey(0.5), "gaussian", 0.1) - 0.5
    assert float(added.mean()) == pytest.approx(0, abs=0.002)
    assert float(added.std()) == pytest.approx(0.1, rel=0.02)
    assert float((added.abs() < 0.1).float().mean()) == pytest.approx(0.683, abs=0.01)


def test_gaussian_noise_on_black_is_clipped_and_not_folded() -> None:
    noisy = corrupt(grey(0.0), "gaussian", 0.2)
    assert float((noisy == 0).float().mean()) == pytest.approx(0.5, abs=0.01)
    assert float(noisy.mean()) == pytest.approx(0.2 / math.sqrt(2 * math.pi), rel=0.03)


@pytest.mark.parametrize("strength", [0.05, 0.3, 1.0])
def test_salt_and_pepper_hits_its_share_of_pixels_half_white_half_black(strength: float) -> None:
    noisy = corrupt(grey(0.5), "salt_pepper", strength)
    for extreme in (0.0, 1.0):
        share = float((noisy == extreme).float().mean())
        assert share == pytest.approx(strength / 2, rel=0.08)
    assert set(noisy.unique().tolist()) <= {0.0, 0.5, 1.0}
    assert float((noisy == 0.5).float().mean()) == pytest.approx(1 - strength, abs=0.01)


@pytest.mark.parametrize("innermost", [False, True])
def test_salt_and_pepper_hits_colour_pixels_as_a_whole(innermost: bool) -> None:
    images = 0.2 + 0.6 * torch.rand(16, 3, 28, 28)
    noisy = corrupt(batch_innermost(images) if innermost else images, "salt_pepper", 0.4)
    hit = noisy != images
    assert torch.equal(hit.all(1), hit.any(1))
    assert float(hit.float().mean()) == pytest.approx(0.4, abs=0.02)
    assert torch.equal(noisy.amin(1)[hit[:, 0]], noisy.amax(1)[hit[:, 0]])


@pytest.mark.parametrize("strength", [0.05, 0.2, 0.0005])  # the last: beyond what is counted
@pytest.mark.parametrize("level", [0.25, 0.5])
def test_poisson_noise_grows_with_the_root_of_brightness(strength: float, level: float) -> None:
    added = corrupt(grey(level), "poisson", strength) - level
    assert float(added.mean()) == pytest.approx(0, abs=0.02 * strength)
    assert float(added.std()) == pytest.approx(strength * math.sqrt(level), rel=0.03)


def test_poisson_noise_counts_photons_and_leaves_black_black() -> None:
    noisy = corrupt(grey(0.5), "poisson", 0.2)  # 25 photons make white
    counts = noisy * 25
    assert torch.allclose(counts, counts.round(), atol=1e-4)
    assert float(noisy.max()) == 1.0
    assert not corrupt(grey(0.0), "poisson", 0.2).any()


@pytest.mark.parametrize("strength", [1e-30, 1e-170, 1e-6, 9.99e-4])
def test_the_faintest_poisson_noise_is_finite_and_faint(strength: float) -> None:
    noisy = corrupt(grey(0.5), "poisson", strength)
    assert float((noisy - 0.5).abs().max()) <= max(6 * strength, 1e-7)


@pytest.mark.parametrize("count", [63, 64, 2])
@pytest.mark.parametrize("innermost", [False, True])
def test_all_gives_each_image_one_kind_and_each_kind_a_third(count: int, innermost: bool) -> None:
    images = grey(0.5, count=count)
    noisy = corrupt(batch_innermost(images) if innermost else images, ALL, 0.2)
    counts = (noisy * 25 - (noisy * 25).round()).abs().amax((1, 2, 3)) < 1e-4
    values = torch.tensor([len(image.unique()) for image in noisy])
    kinds = torch.where(values == 3, 1, torch.where(counts, 2, 0))  # else gaussian
    assert kinds.tolist() == [index % 3 for index in range(count)]


def test_several_kinds_are_laid_over_each_other() -> None:
    noisy = corrupt(grey(0.5), "gaussian+salt_pepper", 0.1)
    extreme = (noisy == 0) | (noisy == 1)
    assert float(extreme.float().mean()) == pytest.approx(0.1, rel=0.08)
    assert float(noisy[~extreme].std()) == pytest.approx(0.1, rel=0.03)


@pytest.mark.parametrize("kind", EVERY)
def test_pixels_stay_pixels_at_full_strength(kind: str) -> None:
    images = torch.rand(9, 3, 28, 28)
    noisy = corrupt(images, kind, 1.0)
    assert noisy.shape == images.shape
    assert noisy.dtype == torch.float32
    assert float(noisy.min()) >= 0
    assert float(noisy.max()) <= 1
    assert torch.equal(noisy, images) == (kind == "none")


@pytest.mark.parametrize("kind", EVERY)
def test_strength_zero_changes_nothing(kind: str) -> None:
    images = torch.rand(7, 3, 28, 28)
    assert torch.equal(corrupt(images, kind, 0.0), images)


@pytest.mark.parametrize("kind", EVERY)
def test_the_same_seed_gives_the_same_noise(kind: str) -> None:
    images = torch.rand(6, 1, 28, 28)
    made = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        made.append(corrupt(images, kind, 0.3))
    assert torch.equal(made[0], made[1])
    assert torch.equal(made[0], made[2]) == (kind == "none")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", EVERY)
def test_noise_keeps_the_layout_and_the_images(kind: str, channels: int) -> None:
    plain = torch.rand(32, channels, 28, 28)
    for images in (plain, batch_innermost(plain)):
        before = images.clone()
        noisy = corrupt(images, kind, 0.3)
        assert noisy.stride() == images.stride()
        assert torch.equal(images, before)


@pytest.mark.parametrize("kind", [*KINDS, ALL])
def test_a_layout_does_not_change_the_statistics(kind: str) -> None:
    """Noise is drawn in the order of memory, so that the numbers differ but not their law."""
    images = torch.full((300, 1, 28, 28), 0.4)
    plain, inner = (corrupt(x, kind, 0.2) for x in (images, batch_innermost(images)))
    assert float(inner.mean()) == pytest.approx(float(plain.mean()), abs=0.003)
    assert float(inner.std()) == pytest.approx(float(plain.std()), rel=0.02)


@pytest.mark.parametrize("kind", [*KINDS, ALL])
def test_a_step_on_noisy_images_runs_the_fast_convolutions(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = []

    def watched(x: Tensor) -> Tensor:
        copied.append(not x.permute(1, 2, 3, 0).is_contiguous())
        return batch_innermost(x)

    model = build(CAE, CAEConfig(channels=2, latent=3, noise=kind), (1, 28, 28), seed=0)
    with fast_convolutions(model) as laid_out:
        batch = laid_out(Batch(images=torch.rand(16, 1, 28, 28)))
        monkeypatch.setattr("models.kernels.fast_convolution.batch_innermost", watched)
        model.encoder[0](model.seen(batch.images))  # type: ignore[index,operator]
    assert copied == [False]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"noise": "gausian"}, r"unknown noise 'gausian'; did you mean 'gaussian'\? available"),
        ({"noise": "gaussian+none"}, r"unknown noise 'gaussian\+none'"),
        ({"noise": ""}, "unknown noise ''"),
        ({"strength": 1.2}, r"strength=1.2 is outside \[0, 1\]"),
        ({"strength": float("nan")}, "strength=nan"),
    ],
)
def test_unknown_noise_is_refused(values: dict[str, str | float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AutoencoderConfig(**values)  # type: ignore[arg-type]


def test_every_kind_and_their_sums_are_accepted() -> None:
    for kind in EVERY:
        check_noise(kind, 0.5)
