"""Our measures beside the tools that papers use: torch-fidelity and torchmetrics.

They are test dependencies only. Parity means: the same features give the same numbers.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kernel_mmd
from torch_fidelity.metric_prc import calculate_precision_recall_full
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import poly_mmd

from models.evaluation import kid
from models.evaluation.frechet import Moments, frechet_distance
from models.evaluation.inception import load_inception
from models.evaluation.kid import KernelDistance
from models.evaluation.prdc import K, neighbourhoods, radii
from tests.test_inception import drawn_images, drawn_weights


@pytest.fixture(scope="module")
def real() -> Tensor:
    return torch.randn(300, 32, generator=torch.Generator().manual_seed(0)).relu() * 3


@pytest.fixture(scope="module")
def made() -> Tensor:
    return torch.randn(280, 32, generator=torch.Generator().manual_seed(1)).relu() * 3 + 0.3


class PixelsAsFeatures(torch.nn.Module):
    """Images (N, 1, 1, D) -> features (N, D)."""

    num_features = 32

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


def test_frechet_distance_is_the_one_of_torch_fidelity(real: Tensor, made: Tensor) -> None:
    theirs = fid_statistics_to_metric(
        fid_features_to_statistics(real.double()),
        fid_features_to_statistics(made.double()),
        False,
    )
    ours = frechet_distance(Moments.of(real), Moments.of(made))
    assert ours == pytest.approx(theirs["frechet_inception_distance"], rel=1e-6)


def test_frechet_distance_is_the_one_of_torchmetrics(real: Tensor, made: Tensor) -> None:
    metric = FrechetInceptionDistance(
        feature=PixelsAsFeatures(), normalize=True, input_img_size=(1, 1, 32)
    ).set_dtype(torch.float64)
    metric.update(real.double()[:, None, None], real=True)
    metric.update(made.double()[:, None, None], real=False)
    ours = frechet_distance(Moments.of(real), Moments.of(made))
    assert ours == pytest.approx(float(metric.compute()), rel=1e-6)


def test_kid_is_the_one_of_both(
    real: Tensor, made: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the same subsets: each tool draws its own."""
    monkeypatch.setattr(kid, "SUBSET", 100)
    monkeypatch.setattr(kid, "SUBSETS", 10)
    ours = KernelDistance(real)(made)
    of_real, of_made = (
        kid._choose(name, len(features), 100).bool()
        for name, features in (("real", real), ("made", made))
    )
    pairs = [(real.double()[x], made.double()[y]) for x, y in zip(of_real, of_made, strict=True)]
    kernel = {"kid_kernel": "poly", "kid_kernel_poly_degree": 3}
    kernel |= {"kid_kernel_poly_gamma": None, "kid_kernel_poly_coef0": 1.0}
    of_fidelity = [kernel_mmd(x.numpy(), y.numpy(), **kernel) for x, y in pairs]
    of_torchmetrics = [float(poly_mmd(x, y, 3, None, 1.0)) for x, y in pairs]
    np.testing.assert_allclose(of_fidelity, of_torchmetrics, rtol=1e-9)
    assert ours == pytest.approx((np.mean(of_fidelity), np.std(of_fidelity)), rel=1e-4)


def test_precision_and_recall_are_those_of_torch_fidelity(real: Tensor, made: Tensor) -> None:
    ours = neighbourhoods(real, radii(real), made, radii(made))
    theirs = calculate_precision_recall_full(made, real, neighborhood=K)
    assert 0.1 < min(theirs) < max(theirs) < 0.999  # neither is trivial here
    assert (float(ours["precision"]), float(ours["recall"])) == pytest.approx(theirs)


def test_inception_features_are_those_of_torch_fidelity(tmp_path: Path) -> None:
    weights, pickled = drawn_weights(), str(tmp_path / "weights.pth")
    torch.save(weights, pickled)
    save_file(weights, tmp_path / "weights.safetensors")
    theirs = FeatureExtractorInceptionV3("x", ["2048"], feature_extractor_weights_path=pickled)
    ours, images = load_inception(tmp_path / "weights.safetensors"), drawn_images()
    expected = theirs((images * 255).round().to(torch.uint8))[0]
    np.testing.assert_allclose(ours(images), expected, rtol=1e-4, atol=1e-5)
