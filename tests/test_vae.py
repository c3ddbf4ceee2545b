"""Variational autoencoders: their parts, their loss, their bounds against exact ones."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal, kl_divergence
from torch.nn import functional as F

from models.analysis import elbo
from models.analysis.elbo import active_dimensions, describe_activity
from models.analysis.importance_sampling import estimate_by_importance_sampling
from models.base import build, evaluating, parameter_count
from models.data.binarised import binarise
from models.data.images import Batch, Images, ImageSplits
from models.errors import ConfigError
from models.export import check_export, load_export, write_export
from models.networks.vae import NETWORKS
from models.training.checkpoint import load_checkpoint, save_checkpoint
from models.training.loop import evaluate, fit
from models.vae import VAE, VAEConfig, gaussian_kl
from search.setup.checks import _Unfilled

pytestmark = pytest.mark.usefixtures("quick_onnx")

SHAPE = (1, 28, 28)


def small(seed: int = 0, shape: tuple[int, int, int] = SHAPE, **changes: Any) -> VAE:
    config = VAEConfig(**{"width": 0.125, "lr": 3e-3, "batch_size": 64, **changes})
    model = build(VAE, config, shape, seed=seed)
    assert isinstance(model, VAE)
    return model


@pytest.fixture(scope="module")
def trained(digits: ImageSplits) -> VAE:
    model = small()
    list(fit(model, digits, epochs=6, seed=0))
    return model.eval()


@pytest.mark.parametrize(
    ("architecture", "latent", "shape", "encoder", "decoder"),
    [
        ("latent-2", 2, (1, 28, 28), 494_244, 56_385),
        ("faces-64", 128, (3, 64, 64), 20_829_568, 33_470_851 - 20_829_568),
        ("wide-64", 20, (3, 64, 64), 359_052_520, 538_821_035 - 359_052_520),
        ("strided", 32, (1, 28, 28), 838_336, 833_153),
        ("residual", 32, (1, 28, 28), 930_688, 925_505),
    ],
)
def test_networks_have_the_parameters_of_reference_system_a6(
    architecture: str, latent: int, shape: tuple[int, int, int], encoder: int, decoder: int
) -> None:
    with torch.device("meta"), _Unfilled():
        model = VAE(VAEConfig(architecture=architecture, latent=latent), shape)
    assert (parameter_count(model.encoder), parameter_count(model.decoder)) == (encoder, decoder)


@pytest.mark.parametrize(
    ("architecture", "shape", "sizes"),
    [
        ("latent-2", SHAPE, [(32, 28, 28), (64, 14, 14), (64, 14, 14), (64, 14, 14)]),
        ("wide-64", (3, 64, 64), [(64, 46, 46), (128, 37, 37)]),
        (
            "faces-64",
            (3, 64, 64),
            [(n, side, side) for n, side in ((128, 64), (256, 32), (512, 16)) for _ in range(2)],
        ),
    ],
)
def test_convolutions_follow_the_reference(
    architecture: str, shape: tuple[int, int, int], sizes: list[tuple[int, ...]]
) -> None:
    with torch.device("meta"), _Unfilled():
        model = VAE(VAEConfig(architecture=architecture), shape)
        found, x = [], torch.empty(2, *shape)
        for layer in model.encoder.body:  # type: ignore[attr-defined]
            x = layer(x)
            if isinstance(layer, torch.nn.Conv2d):
                found.append(tuple(x.shape[1:]))
    assert found == sizes


@pytest.mark.parametrize("architecture", NETWORKS)
@pytest.mark.parametrize("shape", [SHAPE, (3, 64, 64), (1, 32, 48), (3, 33, 31), (1, 9, 10)])
def test_networks_give_back_images_of_any_size(
    architecture: str, shape: tuple[int, int, int]
) -> None:
    model = small(architecture=architecture, shape=shape, width=0.02, latent=3)
    images = torch.rand(2, *shape)
    with evaluating(model):
        assert model.encode(images).shape == (2, 3)
        made = model(images)
    assert made.shape == images.shape
    assert 0 <= made.min() <= made.max() <= 1


def test_images_too_small_to_be_halved_three_times_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"7x9 are too small for faces-64.*at least 8x8"):
        small(architecture="faces-64", shape=(1, 7, 9))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"architecture": "latent-3"},
            r"architecture 'latent-3'; did you mean 'latent-2'\? available: ",
        ),
        ({"reconstruction": "l1"}, "unknown reconstruction 'l1'; available: bce, mse"),
        ({"latent": 0}, r"latent=0 is outside \[1"),
        ({"width": 0.0}, "width=0.0 is outside"),
        ({"beta": -1.0}, "beta=-1.0 is outside"),
        ({"warm_up": -1}, "warm_up=-1 is outside"),
    ],
)
def test_configurations_name_the_value_and_its_range(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        VAEConfig(**values)


def test_the_divergence_is_that_of_two_gaussians() -> None:
    mean, log_variance = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    expected = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0))
    torch.testing.assert_close(gaussian_kl(mean, log_variance), expected)


@pytest.mark.parametrize("reconstruction", ["bce", "mse"])
def test_a_step_follows_the_reported_losses(reconstruction: str) -> None:
    """Cross-entropy + KL summed over an image; or mean squared error + 1e-3 KL."""
    shape = (3, 12, 12)
    beta = 1e-3 * math.prod(shape) if reconstruction == "mse" else 1.0
    stepped, expected = (
        small(shape=shape, reconstruction=reconstruction, beta=beta) for _ in range(2)
    )
    images = torch.rand(8, *shape, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(2)
    metrics = stepped.train_step(Batch(images=images))
    torch.manual_seed(2)
    mean, log_variance = expected.encoder.posterior(images)
    made = expected.decoder(mean + torch.randn_like(mean) * (log_variance / 2).exp())
    kl = gaussian_kl(mean, log_variance).sum() / 8
    bce = F.binary_cross_entropy(made, images, reduction="sum") / 8
    mse = F.mse_loss(made, images)
    (mse + 1e-3 * kl if reconstruction == "mse" else (bce + kl) / math.prod(shape)).backward()
    for ours, theirs in zip(stepped.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-7)
    for name, value in {"bce": bce, "mse": mse, "kl": kl, "nelbo": bce + kl}.items():
        torch.testing.assert_close(metrics[name], value.detach())


def test_cross_entropy_stays_finite_where_probabilities_round_to_0_and_1() -> None:
    model = small()
    torch.nn.init.constant_(list(model.decoder.parameters())[-1], 500.0)
    with evaluating(model):
        measured = model.evaluate(Batch(images=torch.zeros(2, *SHAPE)))
    assert float(measured["bce"]) == pytest.approx(500 * 784, rel=0.02)


def test_beta_rises_in_equal_steps_that_follow_from_the_epoch_alone() -> None:
    model = small(beta=2.0, warm_up=3)
    place, seen = model.beta.data_ptr(), []
    for epoch in (1, 2, 3, 4, 5):
        model.begin_epoch(epoch, epochs=5 * epoch)
        seen.append(float(model.beta))
    assert seen == [0.5, 1.0, 1.5, 2.0, 2.0]
    model.begin_epoch(2, epochs=100)
    assert float(model.beta) == 1.0
    assert model.beta.data_ptr() == place  # a recorded step reads it from there
    assert "beta" not in model.state_dict()
    assert VAEConfig(beta=2.0).beta_in(1) == 2.0


def test_beta_decides_what_is_learned_not_what_is_measured(digits: ImageSplits) -> None:
    light, heavy = small(beta=1e-3), small(beta=50.0)
    assert evaluate(light, digits.valid) == evaluate(heavy, digits.valid)
    after = [list(fit(m, digits, epochs=2, seed=0))[-1].valid for m in (light, heavy)]
    assert after[0]["kl"] > 5 * after[1]["kl"]
    for measured in after:
        assert measured["nelbo"] == pytest.approx(measured["bce"] + measured["kl"], rel=1e-5)


@pytest.mark.parametrize("optimizer", ["adam", "adamax", "sgd"])
def test_a_resumed_training_equals_an_uninterrupted_one_bit_for_bit(
    tmp_path: Path, digits: ImageSplits, optimizer: str
) -> None:
    changes: dict[str, Any] = {
        "optimizer": optimizer,
        "warm_up": 3,
        "schedule": "cosine",
        "noise": "salt_pepper",
    }
    whole, first, second = small(**changes), small(**changes), small(seed=9, **changes)
    expected = [(r.train, r.valid) for r in fit(whole, digits, epochs=4, seed=3)]
    found = []
    for result in fit(first, digits, epochs=4, seed=3):
        found.append((result.train, result.valid))
        if result.number == 2:
            save_checkpoint(tmp_path / "c", first, epoch=2, note={})
            break
    epoch, _ = load_checkpoint(tmp_path / "c", second)
    found += [(r.train, r.valid) for r in fit(second, digits, epochs=4, seed=3, start=epoch)]
    assert found == expected
    for name, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])


def test_a_healthy_latent_is_told_from_a_collapsed_one(digits: ImageSplits, trained: VAE) -> None:
    collapsed = small(beta=1e4)
    list(fit(collapsed, digits, epochs=3, seed=0))
    with evaluating(collapsed):
        table = elbo.latent_table(collapsed, digits.test)
    assert {row[0]: row[1] for row in table.rows}["verdict"] == (
        "collapsed: 0 of 2 latent dimensions active; lower beta or lengthen warm_up"
    )
    assert {row[0]: row[1] for row in table.rows}["active dimensions"] == 0
    measured = evaluate(collapsed, digits.test)
    assert measured["active"] == 0
    assert measured["kl"] < 0.05
    with torch.no_grad():
        healthy = elbo.latent_table(trained, digits.test)
    assert {row[0]: row[1] for row in healthy.rows}["verdict"] == "2 of 2 latent dimensions active"
    assert evaluate(trained, digits.test)["active"] == 2


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_narrow_network_starts_with_a_code_that_comes_alive(
    digits: ImageSplits, seed: int
) -> None:
    model = small(seed)
    last = list(fit(model, digits, epochs=4, seed=seed))[-1]
    assert last.valid["active"] == 2
    assert last.valid["kl"] > 2


def test_dimensions_are_active_when_their_means_vary() -> None:
    spread = torch.tensor([0.0, 0.05, 0.2, 3.0])
    means = torch.randn(4000, 4, generator=torch.Generator().manual_seed(0)) * spread + 7
    assert active_dimensions(means).tolist() == [False, False, True, True]
    assert active_dimensions(means[:1]).tolist() == [False] * 4  # one image tells nothing
    assert describe_activity(3, 20) == "3 of 20 latent dimensions active"
    assert describe_activity(0, 20).startswith("collapsed: 0 of 20")


class LinearGaussian:
    """x = W z + noise with orthogonal columns: posterior and likelihood are known exactly."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        columns = torch.linalg.qr(torch.randn(6, 2, generator=generator)).Q
        self.weights = columns * torch.tensor([2.0, 0.7])
        self.noise = 0.5
        self.images = torch.randn(5, 6, generator=generator)
        precision = 1 + self.weights.square().sum(0) / self.noise**2
        mean = self.images @ self.weights / self.noise**2 / precision
        self.posterior = mean, (-precision.log()).expand_as(mean)
        covariance = self.weights @ self.weights.T + self.noise**2 * torch.eye(6)
        self.exact = MultivariateNormal(torch.zeros(6), covariance).log_prob(self.images)

    def density(self, codes: Tensor, images: Tensor) -> Tensor:
        return Normal(codes @ self.weights.T, self.noise).log_prob(images).sum(1).double()


@pytest.mark.parametrize("rows", [1, 7, 10, 1000])
def test_importance_sampling_from_the_true_posterior_is_exact(rows: int) -> None:
    model, reached = LinearGaussian(), []
    found = estimate_by_importance_sampling(
        model.density, model.posterior, model.images, samples=10, rows=rows,
        progress=lambda done, total: reached.append((done, total)),
    )  # fmt: skip
    torch.testing.assert_close(found.log_likelihood, model.exact.double(), rtol=0, atol=1e-4)
    torch.testing.assert_close(found.elbo, model.exact.double(), rtol=0, atol=1e-4)
    assert reached[-1] == (5, 5)


def test_importance_sampling_rises_from_the_bound_to_the_likelihood() -> None:
    model = LinearGaussian()
    mean, log_variance = model.posterior
    poor = mean + 0.2, log_variance + 0.7
    torch.manual_seed(0)
    means = []
    for samples in (1, 10, 10_000):
        tries = [
            estimate_by_importance_sampling(
                model.density, poor, model.images, samples=samples, rows=4000
            )
            for _ in range(3 if samples > 100 else 400)
        ]
        means.append(torch.stack([found.log_likelihood for found in tries]).mean(0))
        assert all((found.elbo <= found.log_likelihood + 1e-9).all() for found in tries)
    gaps = [float((model.exact - value).mean()) for value in means]
    assert gaps[0] > 0.3
    assert gaps[0] > 3 * gaps[1] > 0
    assert abs(gaps[2]) < 0.01


def test_the_likelihood_is_what_integrating_over_the_latent_plane_gives(
    trained: VAE, digits: ImageSplits
) -> None:
    """Draw from twice the encoder's width: its own q(z | x) is narrower than p(z | x) after six
    epochs, the weights then have no finite variance, and no tolerance follows from it."""
    images = digits.test.batch(slice(0, 6)).images
    step, samples = 0.06, 4000
    line = torch.arange(-5, 5, step)
    plane = torch.cartesian_prod(line, line)  # (G, 2)
    with torch.no_grad():
        logits = torch.cat([trained.decoder.logits(z).flatten(1) for z in plane.split(2048)])
        prior = Normal(0.0, 1.0).log_prob(plane).sum(1).double() + 2 * math.log(step)
        alone = prior - F.softplus(logits).sum(1, dtype=torch.float64)
        joint = alone + images.flatten(1).double() @ logits.double().T  # (6, G)
        exact = joint.logsumexp(1)
        torch.manual_seed(0)
        mean, log_variance = posterior = trained.encoder.posterior(images)
        wide = mean, log_variance + 2 * math.log(2)
        found = estimate_by_importance_sampling(
            trained.log_likelihood, wide, images, samples=samples, rows=1000
        )
        narrow = estimate_by_importance_sampling(
            trained.log_likelihood, posterior, images, samples=400, rows=1000
        )
        # the standard error of the mean weight, from the integral of p(x, z)^2 / q(z)
        drawn = Normal(mean.unsqueeze(1), (wide[1] / 2).exp().unsqueeze(1))
        density = drawn.log_prob(plane).sum(2).double()  # (6, G)
        squares = (2 * joint - 2 * math.log(step) - density).logsumexp(1)
        error = (((squares - 2 * exact).exp() - 1) / samples).sqrt()
    assert (error < 0.025).all()
    assert ((found.log_likelihood - exact).abs() < 4 * error).all()
    kl = gaussian_kl(*posterior).sum(1)
    assert (kl > 0.5).all()
    assert (narrow.elbo < exact).all()


def test_binarised_images_are_drawn_from_the_grey_values_once(digits: ImageSplits) -> None:
    drawn = binarise(digits.test)
    assert set(drawn.pixels.unique().tolist()) == {0, 255}
    assert torch.equal(drawn.pixels, binarise(digits.test).pixels)
    assert drawn.labels is digits.test.labels
    grey = Images(pixels=torch.full((50, 1, 28, 28), 64, dtype=torch.uint8))
    share = binarise(grey).pixels.float().mean() / 255
    assert float(share) == pytest.approx(64 / 255, abs=0.01)


def test_bounds_are_measured_on_grey_and_on_binarised_images(
    trained: VAE, digits: ImageSplits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(elbo, "FEWER_DECODED", 40 * 100 * 784)
    monkeypatch.setattr(elbo, "SAID_EVERY", 0.0)
    said: list[str] = []
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    with evaluating(trained):
        latent, bounds = trained.tables(digits, said.append)
        again = list(trained.tables(digits, said.append))[1]
    assert torch.equal(torch.rand(3), expected)  # the caller's random numbers go on undisturbed
    assert (latent.name, bounds.columns) == (
        "latent",
        ("nats per image", "grey values", "binarised"),
    )
    assert again == bounds
    for column in (1, 2):
        total, error, kl, same, likelihood, deviation, gap, small, of_all, its_own = (
            row[column] for row in bounds.rows
        )
        assert total == pytest.approx(error + kl)  # type: ignore[operator]
        assert likelihood < same  # type: ignore[operator]
        assert abs(same - total) < 5 * deviation  # type: ignore[operator]
        assert gap == pytest.approx(same - likelihood)  # type: ignore[operator]
        assert of_all == pytest.approx(total - gap)  # type: ignore[operator]
        assert 0 < small < its_own < deviation  # type: ignore[operator]
    assert bounds.rows[0][1] == evaluate(trained, digits.test)["nelbo"]
    assert bounds.rows[4][0] == "-log p(x) on the same 40, 100 importance samples"
    assert any("of 40 images, " in line and line.endswith(" s left") for line in said)


def test_bound_and_likelihood_are_compared_image_by_image(
    trained: VAE, digits: ImageSplits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(elbo, "FEWER_DECODED", 20 * 50 * 784)
    monkeypatch.setattr(elbo, "FEWER_SAMPLES", 50)
    with evaluating(trained):
        found = elbo.estimate_likelihood(
            trained, digits.test, say=lambda what: None, name="grey values"
        )
        table = elbo.bound_table(trained, digits.test, lambda what: None)
    gaps = (found.log_likelihood - found.elbo).tolist()
    mean, error = statistics.mean(gaps), statistics.stdev(gaps) / math.sqrt(20)
    assert [row[1] for row in table.rows[6:8]] == pytest.approx([mean, error])
    apart = math.hypot(elbo.standard_error(found.elbo), elbo.standard_error(found.log_likelihood))
    assert error < apart / 3, "an error of means that are not paired would hide the difference"
    assert (table.seeds, table.measured_on) == (
        1, f"{len(digits.test)} test images, or as many as the row says"
    )  # fmt: skip


def test_one_image_has_no_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elbo, "FEWER_DECODED", 1)
    pixels = torch.randint(256, (3, 1, 28, 28), generator=torch.Generator().manual_seed(0))
    model = small()
    with evaluating(model):
        table = elbo.bound_table(model, Images(pixels=pixels.to(torch.uint8)), lambda what: None)
    assert [row[1] for row in table.rows][5::2] == ["-", "-", "-"]
    json.dumps(table.to_plain(), allow_nan=False)


def test_the_draws_of_a_bound_vary_as_their_number_says() -> None:
    model = LinearGaussian()
    mean, log_variance = model.posterior
    poor = mean + 0.2, log_variance + 0.7
    torch.manual_seed(0)
    tries = [
        estimate_by_importance_sampling(
            model.density, poor, model.images, samples=1, rows=4000
        ).elbo
        for _ in range(400)
    ]
    expected = torch.stack(tries).var(0)
    found = estimate_by_importance_sampling(
        model.density, poor, model.images, samples=4000, rows=4000
    )
    torch.testing.assert_close(found.draw_variance, expected, rtol=0.35, atol=0)


def test_colour_images_are_not_binarised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elbo, "FEWER_DECODED", 3 * 100 * 12 * 12 * 3)
    pixels = torch.randint(256, (9, 3, 12, 12), generator=torch.Generator().manual_seed(0))
    model = small(shape=(3, 12, 12))
    with evaluating(model):
        images = Images(pixels=pixels.to(torch.uint8))
        table = elbo.bound_table(model, images, lambda what: None)
    assert table.columns == ("nats per image", "grey values")


def test_as_many_images_as_the_device_manages_are_integrated() -> None:
    model = small()
    assert elbo.sampling_effort(model, 10_000) == (100, 510)
    assert elbo.sampling_effort(model, 50) == (100, 50)
    assert elbo.sampling_effort(small(shape=(3, 64, 64), width=0.02), 10_000) == (100, 33)
    model = small(importance_samples=5000)
    assert elbo.sampling_effort(model, 10_000) == (5000, 255)


def test_black_and_white_images_have_one_version_and_as_many_samples_as_asked_for(
    digits: ImageSplits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(elbo, "FEWER_DECODED", 8 * 50 * 784 / elbo.PATIENCE)
    model = small(importance_samples=50)
    with evaluating(model):
        table = elbo.bound_table(model, binarise(digits.test), lambda what: None)
    assert table.columns == ("nats per image", "black and white")
    assert table.rows[4][0] == "-log p(x) on the same 8, 50 importance samples"
    assert "all values are 0 or 1" in table.note


def test_the_priors_quantiles_are_equally_likely_places() -> None:
    edge = 0.9674216  # two sixths of the normal distribution lie beyond it, one each side
    torch.testing.assert_close(elbo.prior_quantiles(3), torch.tensor([-edge, 0.0, edge]))


@pytest.mark.usefixtures("quick_export")
@pytest.mark.parametrize(("latent", "names"), [(2, {"samples", "prior_grid"}), (3, {"samples"})])
def test_new_images_are_drawn_from_the_prior(
    tmp_path: Path, digits: ImageSplits, latent: int, names: set[str]
) -> None:
    model = small(latent=latent)
    drawn = []
    for _ in range(2):
        with evaluating(model):
            pictures = {p.name: p for p in model.pictures(digits, "test")}
        assert names == set(pictures) & {"samples", "prior_grid"}
        assert "reconstructions" in pictures
        pictures["samples"].draw(tmp_path / "s.png", "a trial")
        drawn.append(np.asarray(Image.open(tmp_path / "s.png")))
        for name in names:
            pictures[name].draw(tmp_path / f"{name}.png", "a trial")
    assert np.array_equal(drawn[0], drawn[1])
    assert drawn[0].shape[1] > 600
    assert drawn[0].std() > 5


def test_samples_follow_from_their_generator(trained: VAE) -> None:
    first, same, other = (
        trained.sample(3, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert first.shape == (3, *SHAPE)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_codes_are_the_means(trained: VAE, digits: ImageSplits) -> None:
    images = digits.test.batch(slice(0, 5)).images
    with torch.no_grad():
        mean, log_variance = trained.encoder.posterior(images)
        assert torch.equal(trained.encode(images), mean)
    assert mean.shape == log_variance.shape == (5, 2)


@pytest.mark.parametrize(
    ("architecture", "shape", "width"),
    [("latent-2", SHAPE, 1.0), ("faces-64", (3, 64, 64), 0.04), ("wide-64", (3, 64, 64), 0.02)],
)
def test_an_export_computes_what_the_live_model_computes(
    tmp_path: Path, architecture: str, shape: tuple[int, int, int], width: float
) -> None:
    model = small(architecture=architecture, shape=shape, width=width)
    images = torch.rand(4, *shape, generator=torch.Generator().manual_seed(0))
    model.train_step(Batch(images=images))
    write_export(model, tmp_path)
    assert max(check_export(model, tmp_path).values()) < 1e-4
    loaded = load_export(tmp_path)
    assert isinstance(loaded, VAE)
    with evaluating(model), torch.no_grad():
        assert torch.equal(loaded(images), model(images))
        again = [m.sample(2, generator=torch.Generator().manual_seed(3)) for m in (loaded, model)]
    assert torch.equal(*again)


@pytest.mark.parametrize("noise", ["none", "gaussian"])
def test_noise_is_what_the_encoder_sees_and_not_what_is_measured(
    digits: ImageSplits, noise: str
) -> None:
    model = small(noise=noise, strength=0.5)
    batch = digits.valid.batch(slice(0, 50))
    seen: list[Tensor] = []
    model.encoder.body.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    with evaluating(model):
        measured = model.evaluate(batch)
    assert torch.equal(seen[0], batch.images) == (noise == "none")
    clean = replace(model.config, noise="none")
    other = small(**{name: getattr(clean, name) for name in ("noise", "strength")})
    with evaluating(other):
        assert float(other.evaluate(batch)["bce"]) == pytest.approx(float(measured["bce"]), rel=0.1)


def test_training_images_are_drawn_anew_for_each_batch_and_held_out_ones_stay_as_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = small(redraw=True)
    grey = Batch(images=torch.rand(64, *SHAPE))
    compared: list[Tensor] = []
    measure = model._measure_draw

    def remember(mean: Tensor, log_variance: Tensor, images: Tensor) -> dict[str, Tensor]:
        compared.append(images)
        return measure(mean, log_variance, images)

    monkeypatch.setattr(model, "_measure_draw", remember)
    model.loss(grey)
    model.loss(grey)
    model.evaluate(grey)
    first, second, held_out = compared
    assert set(first.unique().tolist()) == {0.0, 1.0}
    assert not torch.equal(first, second)
    deviation = 0.5 / grey.images.numel() ** 0.5
    assert abs(float((first - grey.images).mean())) < 4 * deviation
    assert torch.equal(held_out, grey.images)
    model.loss(Batch(images=first))
    assert torch.equal(compared[-1], first), "black and white stays what it is"
