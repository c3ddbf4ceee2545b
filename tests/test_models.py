"""The contract that every model keeps, and what is particular to each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models.acgan import ACGAN, ACGANConfig
from models.base import AskedSamples, Model, ModelConfig, build, evaluating, parameter_count
from models.cae import CAE, CAEConfig
from models.data.images import ImageSplits
from models.dense_ae import DenseAE, DenseAEConfig
from models.errors import ConfigError
from models.export import check_export, load_export, write_export
from models.gan import GAN, GANConfig
from models.stargan import StarGAN, StarGANConfig
from models.training.checkpoint import load_checkpoint, save_checkpoint
from models.training.loop import fit
from models.upsample_ae import UpsampleAE, UpsampleAEConfig
from models.vae import VAE, VAEConfig

FEW_DIGITS = True

pytestmark = pytest.mark.usefixtures("quick_onnx")

CONTRACT: list[tuple[type[Model], ModelConfig]] = [
    (CAE, CAEConfig(channels=2, latent=4, lr=3e-3, batch_size=64)),
    (CAE, CAEConfig(channels=2, latent=4, lr=3e-2, batch_size=64, optimizer="sgd")),
    (VAE, VAEConfig(width=0.1, latent=4, lr=3e-3, batch_size=64)),
    (VAE, VAEConfig(width=0.1, lr=3e-3, batch_size=64, reconstruction="mse", optimizer="adamax")),
    (VAE, VAEConfig(architecture="faces-64", width=0.02, lr=3e-3, batch_size=64, warm_up=2)),
    (VAE, VAEConfig(architecture="wide-64", width=0.03, latent=20, lr=1e-3, batch_size=64)),
    (CAE, CAEConfig(channels=2, latent=4, lr=3e-3, batch_size=64, noise="all")),
    (DenseAE, DenseAEConfig(widths=(32, 8, 3), batch_size=64)),
    (UpsampleAE, UpsampleAEConfig(channels=(4, 4, 2), lr=3e-3, batch_size=64)),
    (UpsampleAE, UpsampleAEConfig(channels=(4, 4, 2), lr=3e-3, batch_size=64, noise="gaussian")),
]
# Two networks with a loss each, of which neither need fall: see test_gan.py for what must.
ADVERSARIAL: list[tuple[type[Model], ModelConfig]] = [
    (GAN, GANConfig(width=0.05, latent=8, batch_size=64)),
    (GAN, GANConfig(architecture="dropout-28", width=0.03, batch_size=64)),
    (GAN, GANConfig(width=0.03, batch_size=32, normalization="spectral", ema=0.9, extra_g_steps=1)),
    (GAN, GANConfig(width=0.03, batch_size=32, normalization="none", r1=1.0, pack=2, d_steps=3)),
    (ACGAN, ACGANConfig(width=0.03, latent=8, batch_size=64, labels=10, exclusive=True, ema=0.9)),
    (StarGAN, StarGANConfig(width=0.03, blocks=1, batch_size=64, labels=10, exclusive=True)),
]

# What other architectures write is checked where their studies run: see test_every_study.py.
EXPORTED = [CONTRACT[0], CONTRACT[2], CONTRACT[7], CONTRACT[8], ADVERSARIAL[3]]


def case_name(case: tuple[type[Model], ModelConfig]) -> str:
    """What tells it from the others: of its fields, those that are words."""
    family, config = case
    words = [value for value in asdict(config).values() if isinstance(value, str)]
    return "-".join([family.__name__, *words])


@pytest.fixture(params=CONTRACT + ADVERSARIAL, ids=case_name)
def model(request: pytest.FixtureRequest) -> Model:
    family, config = request.param
    return build(family, config, (1, 28, 28), seed=0)


@pytest.fixture(params=CONTRACT, ids=case_name)
def minimiser(request: pytest.FixtureRequest) -> Model:
    """A model with one loss."""
    family, config = request.param
    return build(family, config, (1, 28, 28), seed=0)


def test_train_step_returns_finite_scalars_on_the_device(model: Model, digits: ImageSplits) -> None:
    metrics = model.train_step(digits.train.batch(slice(0, 64)))
    assert metrics
    for value in metrics.values():
        assert value.shape == ()
        assert not value.requires_grad
        assert torch.isfinite(value)


def test_evaluate_returns_the_metrics_it_names_and_changes_nothing(
    model: Model, digits: ImageSplits
) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with evaluating(model):
        metrics = model.evaluate(digits.valid.batch(slice(0, 10)))
    assert set(metrics) == set(model.metrics)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_training_lowers_the_loss(minimiser: Model, digits: ImageSplits) -> None:
    results = list(fit(minimiser, digits, epochs=4, seed=0))
    metric = minimiser.metrics[0]
    assert results[-1].valid[metric] < results[0].valid[metric]
    assert results[-1].train[metric] < results[0].train[metric]


def test_one_step_lowers_the_loss_of_its_batch(minimiser: Model, digits: ImageSplits) -> None:
    batch = digits.train.batch(slice(0, 64))
    losses = []
    for _ in range(2):
        torch.manual_seed(0)  # the same noise
        losses.append(minimiser.train_step(batch)[minimiser.metrics[0]])
    assert losses[1] < losses[0]


def test_a_resumed_training_is_the_same_bit_for_bit(
    model: Model, digits: ImageSplits, tmp_path: Path
) -> None:
    list(fit(model, digits, epochs=1, seed=3))
    save_checkpoint(tmp_path / "c", model, epoch=1, note={})
    other = build(type(model), model.config, model.shape, seed=99)
    load_checkpoint(tmp_path / "c", other)
    ends = [list(fit(each, digits, epochs=2, seed=3, start=1))[-1] for each in (model, other)]
    assert (ends[0].train, ends[0].valid) == (ends[1].train, ends[1].valid)


@pytest.mark.parametrize("case", EXPORTED, ids=case_name)
def test_an_export_comes_back_with_its_configuration(
    case: tuple[type[Model], ModelConfig], tmp_path: Path
) -> None:
    family, config = case
    model = build(family, config, (1, 28, 28), seed=0)
    write_export(model, tmp_path)
    differences = check_export(model, tmp_path)
    assert len(differences) == 3 * len(model.programs())
    loaded = load_export(tmp_path)
    assert (type(loaded), loaded.config) == (type(model), model.config)


def test_a_preview_is_drawn_from_images_of_either_part(
    model: Model, digits: ImageSplits, tmp_path: Path
) -> None:
    for part in ("valid", "test"):
        with evaluating(model):
            picture = model.preview(digits, part, 5)
        assert picture is not None
        picture.draw(tmp_path / picture.file, "a trial")
        with Image.open(tmp_path / picture.file) as drawn:
            assert drawn.width > 400


@pytest.mark.parametrize(("family", "config"), CONTRACT + ADVERSARIAL)
def test_the_same_seed_gives_the_same_training(
    family: type[Model], config: ModelConfig, digits: ImageSplits
) -> None:
    few = replace(
        digits,
        train=digits.train.take(torch.arange(128)),
        valid=digits.valid.take(torch.arange(64)),
    )

    def train(seed: int) -> list[dict[str, float]]:
        model = build(family, config, few.shape, seed=seed)
        return [epoch.valid for epoch in fit(model, few, epochs=2, seed=seed)]

    first = train(1)
    assert train(1) == first
    assert train(2) != first


def test_building_leaves_the_callers_random_numbers_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    build(CAE, CAEConfig(), (1, 28, 28), seed=9)
    assert torch.equal(torch.rand(3), expected)


NAMES = {"images", "codes", "mean", "log_variance", "samples", "scores", "labels"}


def test_programs_run_on_their_examples_and_name_what_they_take_and_give(model: Model) -> None:
    programs = model.programs()
    with evaluating(model):
        for program in programs.values():
            assert all(len(given) >= 2 for given in program.arguments)
            made = program.named().run(program.arguments)
            assert {spec.name for spec in (*program.inputs, *program.outputs)} <= NAMES
            assert len(program.outputs) == len(made)
            for spec, tensor in zip(program.outputs, made, strict=True):
                low, high = spec.bounds or (-float("inf"), float("inf"))
                assert low <= tensor.min() <= tensor.max() <= high


def test_models_that_draw_images_give_samples_without_gradients(model: Model) -> None:
    if not isinstance(model, VAE | GAN | ACGAN):  # all others need images, or make none
        with pytest.raises(NotImplementedError, match=r"makes (images of other|no) images"):
            model.sample(4)
        return
    drawn = [model.sample(4, seed=seed).numpy() for seed in (1, 1, 2)]
    assert drawn[0].shape == (4, *model.shape)
    assert np.array_equal(drawn[0], drawn[1])
    narrow = isinstance(model, ACGAN)  # too narrow for its ReLUs to live
    assert narrow or not np.array_equal(drawn[0], drawn[2])
    with pytest.raises(ValueError, match="seed=1 and a generator are given; give one"):
        model.sample(4, seed=1, generator=torch.Generator())


class Dots(CAE):
    """A family that says no more than how its images are made, each time of other draws."""

    makes_from_images = False

    def make(self, asked: AskedSamples) -> torch.Tensor:
        assert not self.training
        assert not torch.is_grad_enabled()
        random = torch.Generator().manual_seed(asked.seed)
        return torch.rand(asked.count, *self.shape, generator=random)


def test_a_family_that_says_how_images_are_made_has_samples() -> None:
    model = build(Dots, CAEConfig(channels=2), (1, 28, 28), seed=0).train()
    first, same, other = (model.sample(3, seed=seed) for seed in (1, 1, 2))
    assert first.shape == (3, 1, 28, 28)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert not torch.equal(model.sample(3), model.sample(3))
    assert model.training


@pytest.mark.parametrize(
    ("channels", "latent", "count"), [(9, 27, 60_240), (4, 10, 22_987), (10, 60, 72_589)]
)
def test_cae_has_the_parameters_of_reference_system_a1(
    channels: int, latent: int, count: int
) -> None:
    assert parameter_count(CAE(CAEConfig(channels=channels, latent=latent), (1, 28, 28))) == count


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 64, 64), (1, 32, 48), (3, 33, 31), (1, 9, 10)])
def test_cae_gives_back_images_of_any_size(shape: tuple[int, int, int]) -> None:
    model = build(CAE, CAEConfig(channels=2, latent=3), shape, seed=0)
    images = torch.rand(2, *shape)
    with evaluating(model):
        assert model(images).shape == images.shape


def test_cae_layers_follow_the_reference() -> None:
    model = CAE(CAEConfig(), (1, 28, 28))
    images = torch.rand(2, 1, 28, 28)
    sizes = []
    for layer in model.encoder:  # type: ignore[attr-defined]
        images = layer(images)
        if isinstance(layer, torch.nn.ReLU):
            sizes.append(tuple(images.shape[1:]))
    assert sizes == [(9, 14, 14), (18, 7, 7), (36, 3, 3), (64,), (27,)]


def test_cae_starts_with_a_code_that_is_alive(digits: ImageSplits) -> None:
    model = build(CAE, CAEConfig(), (1, 28, 28), seed=0)
    assert isinstance(model, CAE)
    with evaluating(model):
        codes = model.encoder(digits.train.batch(slice(0, 500)).images)
    assert int((codes.amax(0) > 0).sum()) == 27


def test_images_too_small_for_the_cae_are_refused() -> None:
    with pytest.raises(ConfigError, match="8x8 are too small"):
        CAE(CAEConfig(), (1, 8, 8))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"channels": 0}, r"channels=0 is outside \[1"),
        ({"latent": -1}, "latent=-1 is outside"),
        ({"lr": float("nan")}, "lr=nan is outside"),
        ({"weight_decay": -0.1}, "weight_decay=-0.1"),
        ({"batch_size": 0}, "batch_size=0"),
    ],
)
def test_configurations_name_the_value_and_its_range(
    values: dict[str, float], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        CAEConfig(**values)  # type: ignore[arg-type]


def test_an_unknown_optimizer_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"unknown optimizer 'adamm'; did you mean 'adam'\? available: adam, "
    ):
        CAE(CAEConfig(optimizer="adamm"), (1, 28, 28))


@pytest.mark.parametrize(
    ("model", "count"),
    [
        (DenseAE(DenseAEConfig(), (1, 64, 64)), 2_136_291),
        (UpsampleAE(UpsampleAEConfig(), (1, 28, 28)), 4_385),
        (UpsampleAE(UpsampleAEConfig(channels=(32, 32, 16)), (1, 28, 28)), 30_689),
    ],
    ids=["A4", "A5", "A5-denoise"],
)
def test_the_other_autoencoders_have_the_parameters_of_their_reference_systems(
    model: Model, count: int
) -> None:
    assert parameter_count(model) == count


def test_the_resizing_autoencoder_goes_through_the_sizes_of_reference_system_a5() -> None:
    model = UpsampleAE(UpsampleAEConfig(), (1, 28, 28))
    images, sizes = torch.rand(2, 1, 28, 28), []
    for layer in (*model.encoder, *model.decoder):  # type: ignore[misc]
        images = layer(images)
        if isinstance(layer, torch.nn.MaxPool2d | torch.nn.Upsample | torch.nn.Flatten):
            sizes.append(tuple(images.shape[1:]))
    down, up = [(16, 14, 14), (8, 7, 7), (8, 4, 4)], [(8, 7, 7), (8, 14, 14), (8, 28, 28)]
    assert sizes == [*down, (128,), *up]


def test_every_channel_of_the_resizing_autoencoder_answers_some_image(digits: ImageSplits) -> None:
    images = digits.train.batch(slice(0, 500)).images
    for seed in range(5):
        model = build(UpsampleAE, UpsampleAEConfig(), (1, 28, 28), seed=seed)
        assert isinstance(model, UpsampleAE)
        seen = images
        for layer in (*model.encoder, *model.decoder):  # type: ignore[misc]
            seen = layer(seen)
            if isinstance(layer, torch.nn.ReLU):
                dead = int((seen.amax((0, 2, 3)) == 0).sum())
                assert dead == 0, f"{dead} of {seen.shape[1]} channels, seed {seed}"


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 33, 21), (1, 9, 64)])
def test_autoencoders_of_other_kinds_give_back_images_of_any_size(
    shape: tuple[int, int, int],
) -> None:
    images = torch.rand(3, *shape)
    for model in (
        build(UpsampleAE, UpsampleAEConfig(channels=(2, 3, 4)), shape, seed=0),
        build(DenseAE, DenseAEConfig(widths=(5,)), shape, seed=0),
    ):
        with evaluating(model):
            made = model(images)
        assert made.shape == images.shape
        assert 0 <= float(made.min()) <= float(made.max()) <= 1


def test_the_dense_autoencoder_learns_where_its_images_are_clipped(digits: ImageSplits) -> None:
    """The tanh is negative on the black half of what it starts from: a gradient taken after the
    clip would leave those pixels where they are."""
    model = build(DenseAE, DenseAEConfig(widths=(8,), batch_size=64), (1, 28, 28), seed=0)
    assert isinstance(model, DenseAE)
    batch = digits.train.batch(slice(0, 64))
    model.train_step(batch)
    unclipped = model.decoder[:-1](model.encode(batch.images))
    negative = (unclipped < 0).all(0).flatten()
    last = next(layer for layer in reversed(model.decoder) if isinstance(layer, torch.nn.Linear))
    assert last.bias.grad is not None
    assert int(negative.sum()) > 0
    assert bool((last.bias.grad[negative] != 0).all())


@pytest.mark.parametrize("kind", ["tuple", "list"])
def test_widths_come_as_a_tuple_or_as_the_list_that_json_makes_of_it(kind: str) -> None:
    values = {"tuple": (7, 5, 3), "list": [7, 5, 3]}[kind]
    dense = DenseAEConfig(widths=values)  # type: ignore[arg-type]
    resizing = UpsampleAEConfig(channels=values)  # type: ignore[arg-type]
    assert dense.widths == resizing.channels == (7, 5, 3)
    assert hash(dense) != hash(resizing)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DenseAEConfig(widths=()), r"widths=\(\) has no layer"),
        (lambda: DenseAEConfig(widths=(3, 0)), "widths=0 is outside"),
        (lambda: UpsampleAEConfig(channels=(3, 0, 1)), "channels=0 is outside"),
        (lambda: UpsampleAEConfig(channels=(3, 1)), r"channels=\(3, 1\) are not three"),  # type: ignore[arg-type]
        (lambda: UpsampleAE(UpsampleAEConfig(), (1, 28, 8)), "28x8 are too small.*at least 9x9"),
    ],
)
def test_widths_that_make_no_network_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
