"""Denoisers: the tables of what was trained on what, and the pictures."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from models.analysis.denoising import measure_fidelity, noise_kinds, noise_picture, noise_tables
from models.base import Model, build, evaluating
from models.cae import CAE, CAEConfig
from models.data.images import Images, ImageSplits
from models.dense_ae import DenseAE, DenseAEConfig
from models.results import Table
from models.seeds import derive_seed
from models.training.loop import evaluate, fit

CONFIG = CAEConfig(channels=2, latent=6, lr=1e-2, batch_size=32, noise="all", strength=0.3)
COLUMNS = ("clean", "gaussian", "salt & pepper", "poisson", "gaussian + salt & pepper", "all")


class Brief(CAE):
    noise_epochs = 2


@pytest.fixture(scope="module")
def few(digits: ImageSplits) -> ImageSplits:
    """960 training, 60 validation and 60 test images."""
    train, rest = digits.train.take(torch.arange(960)), torch.arange(60)
    return ImageSplits(
        name="few",
        fingerprint="",
        train=train,
        valid=digits.valid.take(rest),
        test=digits.test.take(rest),
    )


@pytest.fixture(scope="module")
def model(few: ImageSplits) -> Model:
    made = build(Brief, CONFIG, (1, 28, 28), seed=0)
    list(fit(made, few, epochs=2, seed=0))
    return made


@pytest.fixture(scope="module")
def said() -> list[str]:
    return []


@pytest.fixture(scope="module")
def tables(model: Model, few: ImageSplits, said: list[str]) -> dict[str, Table]:
    with evaluating(model):
        return {table.name: table for table in model.tables(few, said.append)}


def rows(table: Table) -> dict[str, list[float]]:
    return {
        str(name): [float(str(cell).replace("∞", "inf")) for cell in cells]
        for name, *cells in table.rows
    }


def test_the_tables_have_a_row_for_each_training_and_a_column_for_each_test(
    tables: dict[str, Table],
) -> None:
    for table in (tables["noise_mse"], tables["noise_psnr"]):
        assert table.columns == ("trained on", *COLUMNS)
        assert [row[0] for row in table.rows] == ["untouched", "this model (all)", *COLUMNS]
        assert "2 epochs" in table.note
        assert "Strength 0.3" in table.note
        json.dumps(table.to_plain(), allow_nan=False)


def test_the_models_entry_for_its_own_noise_is_its_test_error(
    model: Model, few: ImageSplits, tables: dict[str, Table]
) -> None:
    own = rows(tables["noise_mse"])["this model (all)"][COLUMNS.index("all")]
    assert own == pytest.approx(evaluate(model, few.test)["mse"], rel=1e-6)


def test_untouched_images_have_the_error_that_their_noise_has(tables: dict[str, Table]) -> None:
    untouched = dict(zip(COLUMNS, tables["noise_mse"].rows[0][1:], strict=True))
    assert untouched["clean"] == 0
    # salt and pepper replace 30 % of the pixels x, half by 1 and half by 0
    assert 0.3 * 0.25 < float(untouched["salt & pepper"]) < 0.3 * 0.5
    thirds = [float(untouched[kind]) for kind in ("gaussian", "salt & pepper", "poisson")]
    assert float(untouched["all"]) == pytest.approx(sum(thirds) / 3, rel=0.1)
    assert tables["noise_psnr"].rows[0][1] == "∞"
    assert float(untouched["gaussian + salt & pepper"]) > max(map(float, thirds[:2])), (
        "both at once"
    )


def test_each_row_is_the_configuration_trained_on_that_noise(
    few: ImageSplits, tables: dict[str, Table]
) -> None:
    measured = rows(tables["noise_mse"])
    assert len({tuple(row) for row in measured.values()}) == 8
    seed = derive_seed(0, "noise")
    for kind, label in (
        ("none", "clean"),
        ("salt_pepper", "salt & pepper"),
        ("gaussian+salt_pepper", "gaussian + salt & pepper"),
    ):
        config = replace(CONFIG, noise=kind, schedule="cosine")
        alone = build(Brief, config, (1, 28, 28), seed=seed)
        list(fit(alone, few, epochs=2, seed=seed))
        expected = evaluate(alone, few.test)["mse"]
        assert measured[label][COLUMNS.index(label)] == pytest.approx(expected, rel=1e-6)


def test_a_training_removes_more_of_strong_noise_than_it_blurs(tables: dict[str, Table]) -> None:
    measured = rows(tables["noise_mse"])
    salted = COLUMNS.index("salt & pepper")
    assert measured["salt & pepper"][salted] < measured["untouched"][salted]


def test_better_mse_and_psnr_go_together(tables: dict[str, Table]) -> None:
    """A mean of logarithms is at least the logarithm of the mean: never less than from the MSE."""
    psnr = rows(tables["noise_psnr"])
    for name, row in rows(tables["noise_mse"]).items():
        for mse, decibels in zip(row, psnr[name], strict=True):
            if mse > 0:
                assert decibels >= -10 * math.log10(mse) - 1e-6
                assert decibels < -10 * math.log10(mse) + 3


def test_the_trainings_tell_how_far_they_are_and_how_long_it_takes(
    tables: dict[str, Table], said: list[str]
) -> None:
    assert len(said) == 6 * 2
    assert said[0].startswith("training on clean (1/6): epoch 1/2, ")
    assert said[-1] == "training on all (6/6): epoch 2/2, 0 s left"


def test_the_tables_are_the_same_again_and_leave_the_model_as_it_was(
    model: Model, few: ImageSplits, tables: dict[str, Table]
) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(123)
    with evaluating(model):
        again = {table.name: table for table in model.tables(few, lambda _: None)}
    assert again == tables
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_model_of_clean_images_has_no_tables_of_noise(few: ImageSplits) -> None:
    clean = build(Brief, CAEConfig(channels=2, latent=3), (1, 28, 28), seed=0)
    with evaluating(clean):
        assert [table.name for table in clean.tables(few, lambda _: None)] == ["code"]


def test_a_family_without_epochs_for_it_is_only_tested(few: ImageSplits) -> None:
    dense = build(DenseAE, DenseAEConfig(widths=(8,), batch_size=64), (1, 28, 28), seed=0)
    assert isinstance(dense, DenseAE)
    with evaluating(dense):
        (mse, _) = noise_tables(dense, few, lambda _: None)
    assert [row[0] for row in mse.rows] == ["untouched", "this model (salt & pepper)"]
    own = float(mse.rows[1][1 + COLUMNS.index("salt & pepper")])
    assert own == pytest.approx(evaluate(dense, few.test)["mse"], rel=1e-6)


def test_a_noise_of_its_own_is_tested_too() -> None:
    usual = ("none", "gaussian", "salt_pepper", "poisson", "gaussian+salt_pepper", "all")
    assert noise_kinds("gaussian") == noise_kinds("gaussian+salt_pepper") == usual
    assert noise_kinds("poisson+gaussian") == (*usual, "poisson+gaussian")


def test_a_training_that_diverges_is_a_row_that_says_so(few: ImageSplits) -> None:
    config = CAEConfig(
        channels=2, latent=6, batch_size=32, noise="gaussian", optimizer="sgd", lr=10.0
    )

    class Explosive(Brief):
        def decode(self, codes: Tensor) -> Tensor:
            return self.decoder[:-1](codes) * 1e30  # type: ignore[index,no-any-return]

    wild = build(Explosive, config, (1, 28, 28), seed=0)
    assert isinstance(wild, CAE)
    with evaluating(wild):
        (mse, _) = noise_tables(wild, few, lambda _: None)
    assert mse.rows[2:] == tuple((kind, *["diverged"] * 6) for kind in COLUMNS)


def test_psnr_is_the_mean_over_images_of_each_images_own(few: ImageSplits) -> None:
    """Half of the images off by 0.1 (20 dB), half by 0.01 (40 dB): 30 dB, not the 23 of the MSE."""
    grey = Images(pixels=torch.full((10, 1, 28, 28), 102, dtype=torch.uint8))  # 0.4

    def off(images: Tensor) -> Tensor:
        return images + torch.tensor([0.1, 0.01]).repeat(5).view(-1, 1, 1, 1)

    judged = build(CAE, CONFIG, (1, 28, 28), seed=0)
    assert isinstance(judged, CAE)
    found = measure_fidelity(judged, grey, "none", 0.3, off)
    assert found.psnr == pytest.approx(30, abs=1e-3)
    assert found.mse == pytest.approx((0.01 + 0.0001) / 2, rel=1e-4)


def test_the_picture_shows_each_noise_above_what_is_made_of_it(
    model: Model, few: ImageSplits, tmp_path: Path
) -> None:
    assert isinstance(model, CAE)
    with evaluating(model):
        names = [picture.name for picture in model.pictures(few, "test")]
        assert names[:2] == ["reconstructions", "denoising"]
        drawn = []
        for file in ("once.png", "again.png"):
            noise_picture(model, few, "test").draw(tmp_path / file, "few trial 1")
            drawn.append(np.asarray(Image.open(tmp_path / file).convert("L")))
    assert np.array_equal(drawn[0], drawn[1])
    assert drawn[0].shape[0] > 12 * 60  # twelve rows of images
    assert drawn[0].shape[1] > 10 * 60
