"""Checkerboards: what is measured is there when it is there, and not when it is not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from models.analysis import checkerboard
from models.analysis.checkerboard import (
    checkerboard_pictures,
    checkerboard_tables,
    grid_peak,
    line_power,
)
from models.base import build, evaluating
from models.data.images import ImageSplits
from models.upsample_ae import UpsampleAE, UpsampleAEConfig


def smooth(count: int = 200) -> Tensor:
    """Blurred noise: a spectrum that falls, without peaks."""
    rough = torch.randn(count, 1, 40, 40, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.avg_pool2d(rough, 5, stride=1, padding=2)[:, :, 6:34, 6:34]


def pattern(period: int) -> Tensor:
    """(28, 28): pixels of every ``period``-th row and column are brighter."""
    place = torch.arange(28) % period == 0
    return (place[:, None] & place[None, :]).float()


def test_white_noise_and_blurred_noise_have_no_peak() -> None:
    white = torch.randn(500, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    for period in (2, 4):
        assert grid_peak(white, period) == pytest.approx(1, abs=0.05)
        assert 0.4 < grid_peak(smooth(), period) < 2.5


@pytest.mark.parametrize("period", [2, 4])
def test_a_grid_is_a_peak_at_its_period_and_the_stronger_the_higher(period: int) -> None:
    images = smooth()
    faint, strong = (grid_peak(images + by * pattern(period), period) for by in (0.05, 0.5))
    assert strong > 5 * faint
    assert faint > 1.05 * grid_peak(images, period)


def test_a_grid_that_covers_half_the_image_is_still_found() -> None:
    half = pattern(2) * (torch.arange(28) < 14)
    assert grid_peak(smooth() + half, 2) > 3 * grid_peak(smooth(), 2)


@pytest.mark.parametrize(
    ("shape", "bins"), [((3, 1, 28, 28), 15), ((2, 3, 33, 47), 17), ((2, 1, 9, 64), 5)]
)
def test_sides_are_cut_so_that_periods_fall_on_frequencies(
    shape: tuple[int, ...], bins: int
) -> None:
    power = line_power(torch.rand(shape))
    assert power.shape == (bins,)
    assert bool(torch.isfinite(power).all())


def test_rows_and_columns_count_alike() -> None:
    images = smooth() + 0.3 * (torch.arange(28) % 2)
    for period in (2, 4):
        turned = grid_peak(images.transpose(2, 3), period)
        assert turned == pytest.approx(grid_peak(images, period))


def test_a_resizing_autoencoder_is_measured_beside_transposed_convolutions(
    digits: ImageSplits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkerboard, "EPOCHS", 1)
    config = UpsampleAEConfig(channels=(4, 4, 2), batch_size=64)
    model = build(UpsampleAE, config, (1, 28, 28), seed=0)
    assert isinstance(model, UpsampleAE)
    weights, other = set(model.state_dict()), model._untrained_cae
    said: list[str] = []
    with evaluating(model):
        (table,) = checkerboard_tables(model, other, digits, said.append)
        assert [row[0] for row in table.rows] == ["resized", "transposed", "test images"]
        assert len(said) == 1
        assert "1/1, 0 s left" in said[0]
        assert (table,) == tuple(checkerboard_tables(model, other, digits, said.append))
        assert len(said) == 1, "trained once"
        untrained = {str(row[0]): float(row[1]) for row in table.rows[:2]}
        assert untrained["transposed"] > 2 * untrained["resized"]
        for picture in checkerboard_pictures(model, other, digits):
            picture.draw(tmp_path / picture.file, "digits trial 3")
            with Image.open(tmp_path / picture.file) as drawn:
                assert drawn.width > 900
    assert set(model.state_dict()) == weights, "what stands beside it is no part of it"


def test_pictures_of_validation_images_train_nothing(
    digits: ImageSplits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkerboard, "fit", None)
    config = UpsampleAEConfig(channels=(4, 4, 2))
    model = build(UpsampleAE, config, (1, 28, 28), seed=0)
    with evaluating(model):
        names = [picture.name for picture in model.pictures(digits, "valid")]
    assert "checkerboard" not in names
