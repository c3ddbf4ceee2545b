"""How much of its code an autoencoder uses."""

from __future__ import annotations

import torch

from models.analysis.code_usage import code_table, count_components
from models.analysis.latent_models import codes_of
from models.base import build, evaluating
from models.cae import CAE, CAEConfig
from models.data.images import ImageSplits
from tests.conftest import CAE_SHAPE


def test_units_that_died_are_counted(digits: ImageSplits) -> None:
    model = build(CAE, CAEConfig(channels=2, latent=6), CAE_SHAPE, seed=0)
    assert isinstance(model, CAE)
    with torch.no_grad():
        model.encoder[-2].bias[:4] = -1e3  # type: ignore[index]  # what a burst of the optimiser does to a ReLU
    with evaluating(model):
        alive = int((codes_of(model, digits.test).amax(0) > 0).sum())
        table = code_table(model, digits.test)
    assert alive <= 2
    assert table.rows[0] == ("numbers that differ between images", f"{alive} of 6")
    assert table.note.startswith(f"{6 - alive} have the same value for every image")


def test_a_code_that_is_alive_has_no_note(digits: ImageSplits) -> None:
    model = build(CAE, CAEConfig(channels=2, latent=3), CAE_SHAPE, seed=0)
    with evaluating(model):
        assert isinstance(model, CAE)
        table = code_table(model, digits.test)
    assert table.rows[0][1] == "3 of 3"
    assert table.note == ""


def test_principal_components_are_counted_by_their_share() -> None:
    generator = torch.Generator().manual_seed(0)
    codes = torch.randn(5000, 4, generator=generator).double() * torch.tensor([10.0, 3.0, 1.0, 0.0])
    assert count_components(codes) == [1, 1, 2]
    assert count_components(torch.ones(10, 3).double()) == [0, 0, 0]
    assert count_components(torch.randn(10, 1, generator=generator).double()) == [1, 1, 1]
