"""Models that are trained as one program: each has the values of its training alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.autoencoder import AutoencoderConfig
from models.base import Metrics, Model, build
from models.cae import CAE, CAEConfig
from models.data.images import Batch, Images, ImageSplits
from models.dense_ae import DenseAE, DenseAEConfig
from models.errors import StopRequested
from models.gan import GAN
from models.kernels.product_convolution import product_convolutions
from models.training.checkpoint import load_checkpoint, save_checkpoint
from models.training.fused_epochs import KEPT, FusedEpochs
from models.training.fused_steps import FusedSteps, fusing_key
from models.training.loop import Training, fit
from models.upsample_ae import UpsampleAE, UpsampleAEConfig
from tests.trials import SMALL as SMALL_GAN
from tests.trials import Diverging

FEW_DIGITS = True
SHAPE = (1, 28, 28)
STEPS, BATCH = 2, 16

FAMILIES: dict[str, tuple[type[Model], AutoencoderConfig]] = {
    "cae": (CAE, CAEConfig(channels=2, latent=4)),
    "dense_ae": (DenseAE, DenseAEConfig(widths=(20, 8, 3), noise="none")),
    "upsample_ae": (UpsampleAE, UpsampleAEConfig(channels=(4, 3, 2))),
}


def make(family: str, seed: int, dtype: torch.dtype = torch.float64, **changes: Any) -> Model:
    """A model with a rate and a weight decay of its own."""
    kind, config = FAMILIES[family]
    own: dict[str, Any] = {"lr": 1e-3 * (seed + 1), "weight_decay": 1e-4 * seed}
    values = {**vars(config), "batch_size": BATCH, **own, **changes}
    return build(kind, type(config)(**values), SHAPE, seed=seed).to(dtype)  # type: ignore[arg-type]


def orders_of(count: int, images: Images, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randperm(len(images), generator=generator)[: STEPS * BATCH] for _ in range(count)]


def train_alone(model: Model, images: Images, order: Tensor) -> list[Metrics]:
    """Take the model's own steps."""
    dtype = next(model.parameters()).dtype
    batches = (images.batch(rows).images.to(dtype) for rows in order.split(BATCH))
    return [model.train_step(Batch(images=each)) for each in batches]


def distance(one: Model, other: Model) -> float:
    """How far two models' weights are apart, relative to their size."""
    rows = [torch.cat([p.detach().flatten() for p in m.parameters()]) for m in (one, other)]
    return float((rows[0] - rows[1]).norm() / rows[1].norm())


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "adamax"])
@pytest.mark.parametrize("family", FAMILIES)
def test_each_model_has_the_values_of_its_training_alone(
    family: str, optimizer: str, digits: ImageSplits
) -> None:
    fused = [make(family, seed, optimizer=optimizer) for seed in range(3)]
    alone = [make(family, seed, optimizer=optimizer) for seed in range(3)]
    steps = FusedSteps(fused[0], digits.train, count=3)
    for epoch in range(2):
        orders = orders_of(3, digits.train, epoch)
        measured = steps.train(fused, orders)
        for model, order, found in zip(alone, orders, measured, strict=True):
            taken = train_alone(model, digits.train, order)
            for name, value in found.items():
                expected = sum(float(each[name]) for each in taken) / STEPS
                assert value == pytest.approx(expected, rel=1e-9)
    for model, single in zip(fused, alone, strict=True):
        assert distance(model, single) < 1e-9
        for mine, own in zip(model.parameters(), single.parameters(), strict=True):
            state, expected_state = (
                m.optimizers["all"].state[p] for m, p in ((model, mine), (single, own))
            )
            assert state.keys() == expected_state.keys()
            for name, value in state.items():
                torch.testing.assert_close(value, expected_state[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_in_single_precision_differs_by_rounding_alone(
    family: str, digits: ImageSplits
) -> None:
    fused = [make(family, seed, torch.float32) for seed in range(3)]
    alone = [make(family, seed, torch.float32) for seed in range(3)]
    orders = [order[:BATCH] for order in orders_of(3, digits.train)]
    FusedSteps(fused[0], digits.train, count=3).train(fused, orders)
    for model, order, single in zip(fused, orders, alone, strict=True):
        train_alone(single, digits.train, order)
        assert distance(model, single) < 1e-5


def test_a_model_leaves_and_another_takes_its_row(digits: ImageSplits) -> None:
    first, stays, second = (make("cae", seed) for seed in range(3))
    alone = [make("cae", seed) for seed in (1, 2)]
    steps = FusedSteps(first, digits.train, count=2)
    one, two, three = orders_of(3, digits.train)
    steps.train([first, stays], [three, one])
    left = [each.clone() for each in first.parameters()]
    steps.train([second, stays], [three, two])  # where the first was
    train_alone(alone[0], digits.train, torch.cat([one, two]))
    train_alone(alone[1], digits.train, three)
    assert distance(stays, alone[0]) < 1e-9
    assert distance(second, alone[1]) < 1e-9
    assert all(map(torch.equal, left, first.parameters()))


def test_rates_may_change_from_epoch_to_epoch(digits: ImageSplits) -> None:
    fused = [make("cae", seed, schedule="cosine") for seed in range(2)]
    alone = [make("cae", seed, schedule="cosine") for seed in range(2)]
    steps = FusedSteps(fused[0], digits.train, count=2)
    orders = orders_of(2, digits.train)
    for epoch in (1, 2, 3):
        for model in (*fused, *alone):
            model.begin_epoch(epoch, 3)
        steps.train(fused, orders)
        for model, order in zip(alone, orders, strict=True):
            train_alone(model, digits.train, order)
    assert max(map(distance, fused, alone)) < 1e-9


def test_a_checkpoint_of_a_fused_model_goes_on_alone(digits: ImageSplits, tmp_path: Path) -> None:
    fused = [make("cae", seed) for seed in range(2)]
    one, two = orders_of(2, digits.train)
    FusedSteps(fused[0], digits.train, count=2).train(fused, [one, one])
    save_checkpoint(tmp_path / "kept", fused[1], epoch=1, note={})
    resumed, alone = make("cae", 7, lr=2e-3, weight_decay=1e-4), make("cae", 1)
    load_checkpoint(tmp_path / "kept", resumed)
    train_alone(resumed, digits.train, two)
    train_alone(alone, digits.train, torch.cat([one, two]))
    assert distance(resumed, alone) < 1e-9


def test_the_state_of_an_optimiser_stays_where_it_is(digits: ImageSplits) -> None:
    """A step that was recorded of a model alone reads and writes it there."""
    models = [make("cae", seed) for seed in range(2)]
    one, two = orders_of(2, digits.train)
    train_alone(models[0], digits.train, one)
    state = models[0].optimizers["all"].state
    before = {p: {name: value.data_ptr() for name, value in s.items()} for p, s in state.items()}
    FusedSteps(models[0], digits.train, count=2).train(models, [two, two])
    after = {p: {name: value.data_ptr() for name, value in s.items()} for p, s in state.items()}
    assert before == after


def test_a_model_that_leaves_the_finite_numbers_takes_no_other_with_it(digits: ImageSplits) -> None:
    broken, sound, alone = make("cae", 0), make("cae", 1), make("cae", 1)
    with torch.no_grad():
        next(broken.parameters()).fill_(float("nan"))
    orders = orders_of(2, digits.train)
    measured = FusedSteps(broken, digits.train, count=2).train([broken, sound], orders)
    train_alone(alone, digits.train, orders[1])
    assert str(measured[0]["mse"]) == "nan"
    assert distance(sound, alone) < 1e-9


def test_who_is_interrupted_leaves_the_models_as_they_were(digits: ImageSplits) -> None:
    models = [make("cae", seed) for seed in range(2)]
    before = [each.clone() for model in models for each in model.parameters()]
    asked = iter([False, True])
    steps = FusedSteps(models[0], digits.train, count=2)
    with pytest.raises(StopRequested):
        steps.train(models, orders_of(2, digits.train), interrupted=lambda: next(asked))
    after = [each for model in models for each in model.parameters()]
    assert all(map(torch.equal, before, after))


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "adamax"])
def test_memory_that_ends_where_models_are_stored_leaves_them_as_they_were(
    optimizer: str, digits: ImageSplits, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = [make("cae", seed, optimizer=optimizer) for seed in range(2)]
    others = [make("cae", seed, optimizer=optimizer) for seed in range(2)]
    orders = orders_of(2, digits.train)
    steps, left = FusedSteps(models[0], digits.train, count=2), iter(range(7))
    reserve = steps.optimizer.reserve

    def zeros_until_memory_ends(like: Tensor) -> Tensor:
        if next(left, None) is None:
            raise torch.OutOfMemoryError
        return torch.empty_like(like).zero_()

    def reserve_second_in_vain(given: torch.optim.Optimizer) -> None:
        if given is models[1].optimizers["all"]:
            with monkeypatch.context() as patch:
                patch.setattr("models.training.stacked_optimizers.torch.zeros_like",
                              zeros_until_memory_ends)  # fmt: skip
                reserve(given)
        reserve(given)

    monkeypatch.setattr(steps.optimizer, "reserve", reserve_second_in_vain)
    with pytest.raises(torch.OutOfMemoryError):
        steps.train(models, orders)
    for model, other, order in zip(models, others, orders, strict=True):
        assert distance(model, other) == 0
        train_alone(model, digits.train, order)
        train_alone(other, digits.train, order)
        assert distance(model, other) == 0


class WithoutMetrics(CAE):
    """Its step measures nothing."""

    fuses = True

    def loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        return F.mse_loss(self(batch.images), batch.images), {}


def test_models_that_measure_nothing_are_trained_once(digits: ImageSplits) -> None:
    config = CAEConfig(channels=2, latent=4, batch_size=BATCH)
    models = [build(WithoutMetrics, config, SHAPE, seed=0).to(torch.float64) for _ in range(3)]
    (order,) = orders_of(1, digits.train)
    train_alone(models[2], digits.train, order)
    steps = FusedSteps(models[0], digits.train, count=2)
    assert steps.train(models[:2], [order, order]) == [{}, {}]
    assert distance(models[0], models[2]) < 1e-9


def begin(digits: ImageSplits, seed: int, **options: Any) -> Training:
    model = make("cae", seed, torch.float32)
    return Training(model, digits, epochs=3, seed=seed, **options)


def test_trainings_that_share_their_epochs_have_the_values_of_fit(digits: ImageSplits) -> None:
    """One of them begins an epoch later than the others."""
    expected = [
        list(fit(make("cae", seed, torch.float32), digits, epochs=3, seed=seed))
        for seed in range(3)
    ]
    together = FusedEpochs()
    trainings = [begin(digits, seed) for seed in range(3)]
    first = trainings[2].begin_epoch()
    assert first is not None
    found = [[], [], [trainings[2].end_epoch(first.train())]]  # type: ignore[var-annotated]
    while tasks := {k: task for k, each in enumerate(trainings) if (task := each.begin_epoch())}:
        trained = together.train(list(tasks.values()))
        for k, epoch in zip(tasks, trained, strict=True):
            assert epoch is not None
            found[k].append(trainings[k].end_epoch(epoch))
    for results, singles in zip(found, expected, strict=True):
        assert [each.number for each in results] == [1, 2, 3]
        for result, single in zip(results, singles, strict=True):
            assert result.train == pytest.approx(single.train, rel=1e-4)
            assert result.valid == pytest.approx(single.valid, rel=1e-4)


def test_who_is_interrupted_is_left_out_and_the_others_end_their_epoch(
    digits: ImageSplits,
) -> None:
    stops, stays = begin(digits, 0, interrupted=lambda: True), begin(digits, 1)
    tasks = [stops.begin_epoch(), stays.begin_epoch()]
    left, trained = FusedEpochs().train([task for task in tasks if task is not None])
    assert left is None
    assert trained is not None
    assert trained.metrics.keys() == {"mse"}
    assert trained.seconds > 0


def test_nobody_waits_for_an_epoch_that_no_one_wants(digits: ImageSplits) -> None:
    trainings = [begin(digits, seed, interrupted=lambda: True) for seed in range(2)]
    before = [each.clone() for each in trainings[0].model.parameters()]
    tasks = [task for each in trainings if (task := each.begin_epoch()) is not None]
    assert FusedEpochs().train(tasks) == [None, None]
    assert all(map(torch.equal, before, trainings[0].model.parameters()))


def test_only_the_latest_programs_are_kept(digits: ImageSplits) -> None:
    together = FusedEpochs()
    for count in range(1, KEPT + 3):
        trainings = [begin(digits, seed, interrupted=lambda: True) for seed in range(count)]
        together.train([task for each in trainings if (task := each.begin_epoch()) is not None])
    assert [each.count for each in together._programs.values()] == [3, 4, 5, 6]
    together.forget()
    assert not together._programs


class Drawing(CAE):
    """Its loss draws at random, though it says that it does not."""

    fuses = True

    def loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        mse = F.mse_loss(self(batch.images + torch.randn_like(batch.images)), batch.images)
        return mse, {"mse": mse}


def test_random_numbers_in_a_fused_loss_are_an_error(digits: ImageSplits) -> None:
    config = CAEConfig(channels=2, latent=4, batch_size=BATCH)
    models = [build(Drawing, config, SHAPE, seed=seed) for seed in range(2)]
    with pytest.raises(RuntimeError, match="random"):
        FusedSteps(models[0], digits.train, count=2).train(models, orders_of(2, digits.train))


class WithDropout(CAE):
    fuses = True

    def __init__(self, config: CAEConfig, shape: tuple[int, int, int]) -> None:
        super().__init__(config, shape)
        self.drop = nn.Dropout()


class WithBatchNorm(CAE):
    fuses = True

    def __init__(self, config: CAEConfig, shape: tuple[int, int, int]) -> None:
        super().__init__(config, shape)
        self.norm = nn.BatchNorm2d(2, affine=False)


def test_what_must_agree_is_the_key() -> None:
    key = fusing_key(make("cae", 0))
    assert key is not None
    alike: dict[str, Any] = {"lr": 0.1, "weight_decay": 0.1, "schedule": "cosine"}
    for name, value in alike.items():
        assert fusing_key(make("cae", 5, **{name: value})) == key
    other: dict[str, Any] = {"latent": 5, "channels": 3, "batch_size": 32, "optimizer": "sgd"}
    keys = {fusing_key(make("cae", 0, **{name: value})) for name, value in other.items()}
    assert len(keys | {key}) == 5
    assert None not in keys
    assert fusing_key(make("cae", 0, torch.float32)) != key


@pytest.mark.parametrize("kind", [Diverging, WithDropout, WithBatchNorm])
def test_a_model_that_does_more_is_trained_alone(kind: type[CAE]) -> None:
    assert fusing_key(build(kind, CAEConfig(channels=2, latent=4), SHAPE, seed=0)) is None


def test_noise_and_several_optimisers_are_trained_alone() -> None:
    assert fusing_key(make("dense_ae", 0, noise="gaussian")) is None
    assert fusing_key(build(GAN, SMALL_GAN, SHAPE, seed=0)) is None


LAYERS = {
    "strided": nn.Conv2d(2, 3, 3, stride=2, padding=1),
    "oblong": nn.Conv2d(2, 3, (2, 3), stride=(1, 2), padding=(0, 1), bias=False),
    "back": nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1, output_padding=(1, 0)),
    "back, oblong": nn.ConvTranspose2d(2, 3, (2, 4), stride=(1, 3), bias=False),
    "dilated, as usual": nn.Conv2d(2, 3, 3, dilation=2),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("count", [1, 100])
def test_a_convolution_as_a_product_is_the_same(name: str, count: int) -> None:
    layer = LAYERS[name].double()
    images = torch.randn(
        6, 2, 9, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    seen = images.clone().requires_grad_()
    expected = layer(seen)
    weights = (seen, *layer.parameters())
    slopes = torch.autograd.grad(expected.square().sum(), weights)
    with product_convolutions(layer, count=count):
        found = layer(seen)
        found_slopes = torch.autograd.grad(found.square().sum(), weights)
    torch.testing.assert_close(found, expected)
    for slope, other in zip(found_slopes, slopes, strict=True):
        torch.testing.assert_close(slope, other)
    assert "forward" not in vars(layer)
