"""Inception's features: its weights read without pickle, its poolings, and what a card says."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.linalg import sqrtm
from torch import Tensor

from models.base import build
from models.data.images import ImageSplits
from models.errors import ExtractorError
from models.evaluation import inception_table
from models.evaluation.inception import Inception, load_inception, resize_as_tensorflow_1
from models.vae import VAE, VAEConfig
from tests.conftest import CAE_SHAPE


def drawn_weights() -> dict[str, Tensor]:
    """Weights that keep activations alive, the same everywhere."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, value in sorted(Inception().layers.state_dict().items()):
        if value.dim() == 4:
            drawn = torch.randn(value.shape, generator=generator)
            value = drawn * (2 / value[0].numel()) ** 0.5
        elif value.is_floating_point():
            value = value + 0.1 * torch.rand(value.shape, generator=generator)
        weights[name] = value.contiguous()
    return weights


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return drawn_weights()


def drawn_images() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (2, 3, 40, 33), generator=generator).float() / 255


def test_a_state_dictionary_is_read_as_the_same(weights: dict[str, Tensor], tmp_path: Path) -> None:
    known = {name: v for name, v in weights.items() if not name.endswith("num_batches_tracked")}
    torch.save({**known, "AuxLogits.fc.bias": torch.zeros(3)}, tmp_path / "weights.pth")
    found = load_inception(tmp_path / "weights.pth").layers.state_dict()
    assert all(torch.equal(found[name], value) for name, value in known.items())


class Trap:
    """A pickle that leaves a folder behind when it is loaded."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("sprung",)


def test_another_file_is_refused_in_one_line_and_runs_nothing(
    weights: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(Trap(), tmp_path / "trap.pth")
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps(Trap()))
    (tmp_path / "text.safetensors").write_text("no weights")
    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    lacking = {name: value for name, value in weights.items() if "Mixed_7c" not in name}
    save_file(lacking, tmp_path / "lacking.safetensors")
    of_torchvision = {**weights, "fc.bias": torch.zeros(1000)}
    save_file(of_torchvision, tmp_path / "torchvision.safetensors")
    for file, why in {
        "trap.pth": "", "pickle.pth": "", "text.safetensors": "", "nothing.pth": "",
        "other.safetensors": "lacks", "lacking.safetensors": "lacks Mixed_7c",
        "torchvision.safetensors": "",
    }.items():  # fmt: skip
        with pytest.raises(ExtractorError, match="does not hold the weights of Inception") as error:
            load_inception(Path(file))
        assert why in str(error.value)
        assert "\n" not in str(error.value)
        assert "or leave INCEPTION out" in str(error.value)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("side", [3, 7, 12])
def test_images_are_resized_between_the_pixels_at_their_corners(side: int) -> None:
    image = torch.rand(5, 8, generator=torch.Generator().manual_seed(0))
    found = resize_as_tensorflow_1(image[None, None], side)[0, 0]
    for i in range(side):
        for j in range(side):
            y, x = i * 5 / side, j * 8 / side
            top, left = int(y), int(x)
            low, right = min(top + 1, 4), min(left + 1, 7)
            upper = image[top, left] + (image[top, right] - image[top, left]) * (x - left)
            lower = image[low, left] + (image[low, right] - image[low, left]) * (x - left)
            assert float(found[i, j]) == pytest.approx(float(upper + (lower - upper) * (y - top)))


def first_pixels(images: Tensor) -> Tensor:
    """Stands for Inception where its own features do not matter: (N, 6)."""
    return images.flatten(1)[:, 300:306] * 3


def test_the_table_of_a_card_has_the_distances_of_papers(
    digits: ImageSplits, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []

    def load(path: Path) -> torch.nn.Module:
        asked.append(path)
        network = torch.nn.Module()
        network.forward = first_pixels
        return network

    monkeypatch.setattr(inception_table, "load_inception", load)
    monkeypatch.setattr(inception_table, "SAMPLES", 300)
    model = build(VAE, VAEConfig(width=0.05), CAE_SHAPE, seed=0)
    said: list[str] = []
    table = inception_table.inception_table(model, digits, Path("w.pth"), say=said.append)
    assert asked == [Path("w.pth")]
    assert said[0] == "Inception's features of 0 of 359 test images"
    assert [row[0] for row in table.rows] == ["FID", "KID", "its deviation over subsets"]
    assert "300 samples beside 359 test images, by the weights in w.pth" in table.note

    def moments(pixels: Tensor) -> Iterator[np.ndarray]:
        features = first_pixels(pixels.double() / 255).numpy()
        yield features.mean(0)
        yield np.cov(features, rowvar=False)

    (m1, c1), (m2, c2) = (moments(digits.test.pixels), moments(digits.train.pixels[:300]))
    root = sqrtm(c1 @ c2).real
    fid = ((m1 - m2) ** 2).sum() + np.trace(c1 + c2 - 2 * root)
    assert table.rows[0][2] == pytest.approx(fid, rel=1e-3)
    (_, of_model, _), (_, kid, floor), _ = table.rows
    assert of_model > 10 * fid  # type: ignore[operator]
    assert abs(floor) < 0.1 * kid  # type: ignore[arg-type,operator]
