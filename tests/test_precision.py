"""Training steps in bfloat16: what computes in it, and what stays in float32."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from models.base import Metrics, Model, ModelConfig, build, evaluating
from models.cae import CAE, CAEConfig
from models.data.images import Batch, ImageSplits
from models.errors import ConfigError
from models.evaluation.feature_cache import _make_plan, content_digest
from models.evaluation.feature_net import FeatureNet
from models.export import load_export, write_export
from models.gan import GANConfig
from models.optimizers import make_optimizer
from models.programs import Program
from models.stargan import StarGANConfig
from models.tensor_files import read_tensors
from models.training.checkpoint import load_checkpoint, save_checkpoint
from models.training.fused_steps import fusing_key
from models.training.loop import Training, evaluate, fit
from models.training.precision import check_bfloat16, training_precision
from models.vae import VAEConfig
from search.setup.stored_study import read_identity
from search.trials.retraining_record import RetrainingRecord, read_record
from storage.paths import RunPaths
from tests.test_models import ADVERSARIAL, CONTRACT, case_name
from tests.user import User, WriteStudy

FEW_DIGITS = True
SHAPE = (1, 28, 28)
BATCH = 32
NEAR = 0.5  # relative; up to 0.27 was measured where a network's losses nearly cancel, else 0.13
STILL = 1e-12  # a rate of GANs: else Adam makes one step for G of what is left of D's gradient
RATE = 1.0 / 8  # a power of two, so that every weight below is exact in bfloat16


def make(family: type[Model], config: ModelConfig, precision: str) -> Model:
    still: dict[str, Any] = {name: STILL for name in ("lr_g", "lr_d") if hasattr(config, name)}
    return build(family, replace(config, precision=precision, **still), SHAPE, seed=0)


def gradients_after_a_step(model: Model, images: ImageSplits) -> list[Tensor]:
    """The gradients of the last update of each optimiser's weights, (P,), and types checked."""
    torch.manual_seed(0)
    model.train()
    with training_precision(model):
        measured = model.train_step(images.train.batch(slice(0, BATCH)))
    assert {value.dtype for value in measured.values()} <= {torch.float32, torch.float64}
    found = []
    for optimizer in model.optimizers.values():
        weights = [each for group in optimizer.param_groups for each in group["params"]]
        assert {each.dtype for each in weights} == {torch.float32}
        gradients = [each.grad for each in weights if each.grad is not None]
        found.append(torch.cat([gradient.flatten() for gradient in gradients]))
    return found


@pytest.mark.parametrize("case", CONTRACT + ADVERSARIAL, ids=case_name)
def test_gradients_of_bfloat16_are_near_and_are_others(
    case: tuple[type[Model], ModelConfig], digits: ImageSplits
) -> None:
    found = [gradients_after_a_step(make(*case, p), digits) for p in ("float32", "bfloat16")]
    for usual, rounded in zip(*found, strict=True):
        assert not torch.equal(usual, rounded), "nothing was computed in bfloat16"
        assert (rounded - usual).norm() < NEAR * usual.norm()


@pytest.mark.parametrize("case", [CONTRACT[0], CONTRACT[2], ADVERSARIAL[0]], ids=case_name)
def test_a_training_computes_in_the_precision_of_its_configuration(
    case: tuple[type[Model], ModelConfig], digits: ImageSplits
) -> None:
    ended = []
    for precision in ("float32", "bfloat16"):
        model = make(*case, precision)
        first = next(part for part in model.modules() if isinstance(part, nn.Conv2d | nn.Linear))
        seen: set[torch.dtype] = set()
        handle = first.register_forward_hook(lambda *of, seen=seen: seen.add(of[2].dtype))
        training = Training(model, digits, epochs=1, seed=0)
        task = training.begin_epoch()
        assert task is not None
        ended.append(task.train().metrics)
        handle.remove()
        assert seen == {getattr(torch, precision)}
        assert not any("forward" in vars(part) for part in model.modules()), (
            "it ends with the epoch"
        )
    assert ended[0] != ended[1]


@pytest.mark.parametrize("case", [CONTRACT[0], ADVERSARIAL[0]], ids=case_name)
def test_a_model_is_measured_and_exported_in_float32(
    case: tuple[type[Model], ModelConfig], digits: ImageSplits, tmp_path: Path
) -> None:
    model = make(*case, "bfloat16")
    for _ in fit(model, digits, epochs=1, seed=0):
        pass
    usual = make(*case, "float32")
    usual.load_state_dict(model.state_dict())
    assert evaluate(model, digits.valid) == evaluate(usual, digits.valid)
    write_export(model, tmp_path)
    loaded = load_export(tmp_path)
    assert {each.dtype for each in loaded.parameters()} == {torch.float32}


def test_a_training_in_bfloat16_goes_on_bit_for_bit(digits: ImageSplits, tmp_path: Path) -> None:
    config = CAEConfig(channels=2, latent=4, batch_size=BATCH)
    whole, first, second = (make(CAE, config, "bfloat16") for _ in range(3))
    expected = list(fit(whole, digits, epochs=2, seed=0))[-1]
    next(fit(first, digits, epochs=2, seed=0))
    save_checkpoint(tmp_path / "state", first, epoch=1, note={})
    load_checkpoint(tmp_path / "state", second)
    assert next(fit(second, digits, epochs=2, seed=0, start=1)).valid == expected.valid


class _Config(ModelConfig):
    """Nothing of its own."""


class TwoUpdates(Model):
    """Its step updates a weight, and goes through it again, as the two networks of a GAN do."""

    metrics = ("after",)
    config_type = _Config

    def __init__(self, config: ModelConfig, shape: tuple[int, int, int]) -> None:
        super().__init__(config, shape)
        self.network = nn.Linear(1, 1, bias=False)
        nn.init.ones_(self.network.weight)
        parameters = self.network.parameters()
        self.optimizers = {"all": make_optimizer("sgd", parameters, lr=RATE, momentum=0.0)}

    def train_step(self, batch: Batch) -> Metrics:
        self.network(torch.ones(1, 1)).sum().backward()
        self.optimizers["all"].step()
        return {"after": self.network(torch.ones(1, 1)).sum().detach()}

    def evaluate(self, batch: Batch) -> Metrics:
        return {"after": self.network(torch.ones(1, 1)).sum()}

    def programs(self) -> dict[str, Program]:
        return {}


def test_a_step_sees_what_its_own_update_has_made_of_a_network() -> None:
    model = build(TwoUpdates, _Config(precision="bfloat16"), SHAPE, seed=0)
    with training_precision(model):
        measured = model.train_step(Batch(images=torch.zeros(1, *SHAPE)))
    assert float(measured["after"]) == 1 - RATE


class Parts(Model):
    """Calls networks in all ways in which a family of somebody's own may."""

    metrics = ("bce",)
    config_type = _Config
    normed: nn.Linear
    seen: dict[str, torch.dtype]

    def __init__(self, config: ModelConfig, shape: tuple[int, int, int]) -> None:
        super().__init__(config, shape)
        self.listed = nn.ModuleList([nn.Linear(4, 4)])
        self.heads = TwoHeads()
        self.last = nn.Sequential(nn.Linear(4, 4), nn.Sigmoid())
        self.normed = nn.Linear(4, 4)
        spectral_norm(self.normed)
        self.loss = nn.BCELoss()
        self.seen = {}
        parameters = self.parameters()
        self.optimizers = {"all": make_optimizer("sgd", parameters, lr=RATE)}

    def train_step(self, batch: Batch) -> Metrics:
        given = torch.full((2, 4), 0.3)
        mean, scale = self.heads(given)
        made = self.last(self.listed[0](given))
        self.seen = {
            "listed": self.listed[0](given).dtype, "mean": mean.dtype, "scale": scale.dtype,
            "product": (mean @ scale.t()).dtype, "last": made.dtype,
            "norm": self.normed.weight.dtype,
        }  # fmt: skip
        loss: Tensor = self.loss(made, torch.ones_like(made)) + self.normed(mean + scale).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizers["all"].step()
        return {"bce": loss.detach()}

    def evaluate(self, batch: Batch) -> Metrics:
        return {"bce": torch.zeros(())}

    def programs(self) -> dict[str, Program]:
        return {}


class TwoHeads(nn.Module):
    """Returns two results at once."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, given: Tensor) -> tuple[Tensor, Tensor]:
        return self.one(given), self.other(given)


def test_whatever_a_network_returns_is_float32() -> None:
    model = Parts(_Config(precision="bfloat16"), SHAPE)
    with training_precision(model):
        model.train_step(Batch(images=torch.zeros(1, *SHAPE)))
    assert set(model.seen.values()) == {torch.float32}


@pytest.mark.parametrize(("last", "at"), [(nn.Tanh(), 4.0), (nn.Sigmoid(), 7.0)])
def test_the_last_tanh_or_sigmoid_keeps_its_gradient(last: nn.Module, at: float) -> None:
    model = Parts(_Config(precision="bfloat16"), SHAPE)
    model.last = nn.Sequential(nn.Identity(), last)
    given = torch.full((1,), at, dtype=torch.bfloat16, requires_grad=True)
    with training_precision(model):
        model.last(given).sum().backward()
    assert given.grad is not None
    assert float(given.grad) > 0, "in bfloat16 the result would be 1, and the gradient 0"


def test_a_spectral_norm_is_that_of_float32() -> None:
    torch.manual_seed(0)
    model = Parts(_Config(precision="bfloat16"), SHAPE)
    with evaluating(model):  # the norm is not estimated anew each time
        expected = model.normed.weight
        with training_precision(model):
            found = model.normed(torch.eye(4)) - model.normed.bias
            assert torch.equal(model.normed.weight, expected)
    assert not torch.equal(found, expected.t()), "the product itself is in bfloat16"


def test_models_in_bfloat16_are_trained_alone() -> None:
    config = CAEConfig(channels=2, latent=4)
    assert fusing_key(make(CAE, config, "float32")) is not None
    assert fusing_key(make(CAE, config, "bfloat16")) is None


def test_a_gpu_without_bfloat16_is_told_what_to_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7 + device.index, 0))
    check_bfloat16(torch.device("cpu"))
    check_bfloat16(torch.device("cuda:1"))
    with pytest.raises(ConfigError, match="cuda:0 does not: take precision='float32'"):
        check_bfloat16(torch.device("cuda:0"))


def test_an_unknown_precision_names_those_that_there_are() -> None:
    with pytest.raises(ConfigError, match="float32, bfloat16"):
        CAEConfig(precision="bf16")


def test_a_stored_configuration_is_what_it_was() -> None:
    values: dict[str, Any] = CAEConfig().to_plain()
    assert "precision" not in values
    assert CAEConfig(precision="bfloat16").to_plain()["precision"] == "bfloat16"


def test_files_of_an_older_version_belong_to_their_configuration_still(
    user: User, study_file: WriteStudy
) -> None:
    call: dict[str, Any] = {"NAME": study_file(), "WORKERS": 1, "TRIALS": 1, "SEEDS": 1}
    assert user.run(**call, TOP=1, KEEP="checkpoints")[::2] == (0, "")
    study = optuna.load_study(study_name="small", storage=user.url)
    identity = read_identity(study)
    assert identity is not None
    parameters = study.trials[0].params
    record = read_record(
        RunPaths(user.runs).retraining("small", 0).record, token=identity.token, trial=0
    )
    assert isinstance(record, RetrainingRecord)
    known = {
        "batch_size": record.config["batch_size"], "schedule": "constant", "noise": "none",
        "strength": 0.2, "optimizer": "adam", "weight_decay": 3.96e-6, **parameters,
    }  # fmt: skip
    assert record.config == known, "a version before had no other field"
    own = {"study": identity.token, "trial": 0, "parameters": parameters}
    seed = study.trials[0].user_attrs["seed"]
    of = {**own, "kind of file": "trial", "configuration": known, "seed": seed}
    read_tensors(RunPaths(user.runs).trial_checkpoint("small", 0), "checkpoint", of=of)


# What files of the version before `precision` were sealed with, beside what their studies set.
OLDER: dict[type[ModelConfig], dict[str, Any]] = {
    GANConfig: {"loss": "non_saturating", "r2": 0.0, "augment": "none", "resize": "nearest"},
    StarGANConfig: {"loss": "non_saturating", "projection": 0.0, "ada_images": 500_000},
    VAEConfig: {"redraw": False, "importance_samples": 0, "wide_decoder": "elu"},
}


@pytest.mark.parametrize("kind", OLDER)
def test_fields_that_files_were_sealed_with_stay_in_their_seal(kind: type[ModelConfig]) -> None:
    sealed = kind().sealed()
    assert OLDER[kind].items() <= sealed.items()
    assert "precision" not in sealed
    assert kind(precision="bfloat16").sealed() == {**sealed, "precision": "bfloat16"}


def test_an_extractor_of_an_older_version_is_found_under_its_name(
    digits: ImageSplits, tmp_path: Path
) -> None:
    known = {
        "format": 1,
        "images": [content_digest(digits.train), content_digest(digits.valid)],
        "config": {
            "batch_size": 32, "schedule": "cosine", "dropout": 0.2, "lr": 0.002, "classes": 10,
            "features": 64,
        },
        "seed": 0,
    }  # fmt: skip
    key = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]
    assert _make_plan(digits, tmp_path, 0, FeatureNet).key == key
