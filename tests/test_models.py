"""The contract that every model keeps, and what is particular to each."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from PIL import Image

from models.base import ConfigError, Model, ModelConfig, build, evaluating, parameter_count
from models.cae import CAE, CAEConfig
from models.images import ImageSplits
from models.training import fit
from models.vae import VAE, VAEConfig

CONTRACT: list[tuple[type[Model], ModelConfig]] = [
    (CAE, CAEConfig(channels=2, latent=4, lr=3e-3, batch_size=64)),
    (CAE, CAEConfig(channels=2, latent=4, lr=3e-2, batch_size=64, optimizer="sgd")),
    (VAE, VAEConfig(width=0.1, latent=4, lr=3e-3, batch_size=64)),
    (VAE, VAEConfig(width=0.1, lr=3e-3, batch_size=64, reconstruction="mse", optimizer="adamax")),
    (VAE, VAEConfig(architecture="faces-64", width=0.02, lr=3e-3, batch_size=64, warm_up=2)),
    (VAE, VAEConfig(architecture="wide-64", width=0.03, latent=20, lr=1e-3, batch_size=64)),
]


def case_name(case: tuple[type[Model], ModelConfig]) -> str:
    """What tells it from the others: of its fields, those that are words."""
    family, config = case
    words = [value for value in asdict(config).values() if isinstance(value, str)]
    return "-".join([family.__name__, *words])


@pytest.fixture(params=CONTRACT, ids=case_name)
def model(request: pytest.FixtureRequest) -> Model:
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


def test_training_lowers_the_loss(model: Model, digits: ImageSplits) -> None:
    results = list(fit(model, digits, epochs=4, seed=0))
    metric = model.metrics[0]
    assert results[-1].valid[metric] < results[0].valid[metric]
    assert results[-1].train[metric] < results[0].train[metric]


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


def test_the_same_seed_gives_the_same_training(digits: ImageSplits) -> None:
    for family, config in CONTRACT:
        runs = [
            [
                r.valid
                for r in fit(build(family, config, (1, 28, 28), seed=s), digits, epochs=2, seed=s)
            ]
            for s in (1, 1, 2)
        ]
        assert runs[0] == runs[1]
        assert runs[0] != runs[2]


def test_building_leaves_the_callers_random_numbers_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    build(CAE, CAEConfig(), (1, 28, 28), seed=9)
    assert torch.equal(torch.rand(3), expected)


def test_programs_run_on_their_examples(model: Model) -> None:
    programs = model.programs()
    with evaluating(model):
        for program in programs.values():
            assert len(program.example) >= 2
            program.module(program.example)


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
    for layer in model.encoder:
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
        ConfigError, match="unknown optimizer 'adamm'; available: adam, sgd, adamax"
    ):
        CAE(CAEConfig(optimizer="adamm"), (1, 28, 28))


def test_models_never_import_what_is_outside_their_room() -> None:
    assert not _imports("models") & {"optuna", "sqlalchemy", "storage", "search"}


def test_storage_never_imports_torch_models_or_search() -> None:
    assert not _imports("storage") & {"torch", "torchvision", "models", "search"}


def _imports(room: str) -> set[str]:
    import ast

    found = set()
    for path in (Path(__file__).parent.parent / room).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add((node.module or "").partition(".")[0])
    assert found
    return found
