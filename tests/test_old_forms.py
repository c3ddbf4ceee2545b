"""Exports of architectures that were mended later compute what they did.

`fixtures/old_forms` was written by revision b529ba2, before ``wide-64`` had ELUs in its decoder and
``dropout-28`` resized by nearest neighbours: of each a small model with random weights, and in
`outputs.safetensors` what it made of `inputs`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from models.augmentation import AugmentedGANConfig
from models.base import build, evaluating
from models.export import describe, load_export
from models.gan import GAN, GANConfig
from models.vae import VAE, VAEConfig

OLD = Path(__file__).parent / "fixtures" / "old_forms"


def made_by(model: Any, inputs: torch.Tensor) -> torch.Tensor:
    with evaluating(model):
        made: torch.Tensor = (model.decode if isinstance(model, VAE) else model.generate)(inputs)
    return made


@pytest.mark.parametrize("name", ["wide-64", "dropout-28"])
def test_an_old_export_computes_what_it_did(name: str) -> None:
    model = load_export(OLD / name)
    found = load_file(OLD / name / "outputs.safetensors")
    torch.testing.assert_close(made_by(model, found["inputs"]), found["made"])
    old = json.loads((OLD / name / "config.json").read_text())["config"]
    now = describe(model)["config"]
    assert {key: now[key] for key in old} == old
    added = {"wide-64": {"wide_decoder": "relu"}, "dropout-28": {"resize": "bilinear"}}[name]
    assert {key: now[key] for key in added} == added


@pytest.mark.parametrize("name", ["wide-64", "dropout-28"])
def test_the_old_form_is_not_what_is_built_today(name: str) -> None:
    """The same weights in today's form make other images: the field decides it."""
    old = load_export(OLD / name)
    values = {**describe(old)["config"], "wide_decoder": "elu", "resize": "nearest"}
    config = old.config
    family = type(old)
    ours = {key: value for key, value in values.items() if hasattr(config, key)}
    today = build(family, type(config)(**ours), old.shape, seed=0)
    today.load_state_dict(old.state_dict())
    found = load_file(OLD / name / "outputs.safetensors")
    assert (made_by(today, found["inputs"]) - found["made"]).abs().max() > 1e-3


def test_a_configuration_of_today_has_the_reported_form() -> None:
    assert VAEConfig(architecture="wide-64").wide_decoder == "elu"
    assert GANConfig(architecture="dropout-28").resize == "nearest"
    old = {"architecture": "dropout-28"}
    assert AugmentedGANConfig.from_export(old).resize == "bilinear"
    assert GANConfig.from_export({**old, "resize": "nearest"}).resize == "nearest"


def test_studies_of_other_architectures_are_the_same_studies_as_before() -> None:
    """What decides nothing does not tell a configuration from others."""
    assert "resize" not in GANConfig(architecture="32").to_plain()
    assert GANConfig(architecture="dropout-28").to_plain()["resize"] == "nearest"
    assert "wide_decoder" not in VAEConfig().to_plain()
    assert VAEConfig(architecture="wide-64").to_plain()["wide_decoder"] == "elu"


def test_wide_64_has_elus_after_both_linear_layers_of_its_decoder() -> None:
    """Reference system A6: ELU, ELU, then one ReLU after the first transposed convolution."""
    model = build(VAE, VAEConfig(architecture="wide-64", width=0.01), (3, 8, 8), seed=0)
    assert isinstance(model, VAE)
    body = list(model.decoder.body.children())
    kinds = [type(layer) for layer in body if isinstance(layer, nn.ELU | nn.ReLU)]
    assert kinds == [nn.ELU, nn.ELU, nn.ReLU]
    assert not any(isinstance(layer, nn.ReLU) for layer in model.encoder.modules())


def test_dropout_28_resizes_by_nearest_neighbours_and_begins_with_xaviers_weights() -> None:
    """Reference system B1: all weights uniform in +-sqrt(6 / (fan-in + fan-out))."""
    model = build(GAN, GANConfig(architecture="dropout-28", width=0.25), (1, 28, 28), seed=0)
    assert isinstance(model, GAN)
    modes = [layer.mode for layer in model.generator.modules() if isinstance(layer, nn.Upsample)]
    assert modes == ["nearest"]
    layers = [
        layer
        for layer in model.modules()
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)
    ]
    assert len(layers) == 4 + 4
    for layer in layers:
        kernel = layer.weight[0, 0].numel()
        fans = (layer.weight.shape[0] + layer.weight.shape[1]) * kernel
        most = (6 / fans) ** 0.5
        assert layer.weight.abs().max() <= most
        assert float(layer.weight.detach().std()) == pytest.approx(most / 3**0.5, rel=0.1)
        assert layer.bias is not None
        assert not layer.bias.any()
    assert all(
        bool((layer.weight == 1).all())
        for layer in model.modules()
        if isinstance(layer, nn.BatchNorm2d)
    )
