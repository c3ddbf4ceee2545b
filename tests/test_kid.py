"""KID against sums over all pairs of every subset, and what it must say of known sets."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from models.evaluation import kid
from models.evaluation.kid import KernelDistance


def draw(count: int, seed: int, *, shift: float = 0.0, width: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, width, generator=generator).relu() * 3 + shift


def by_hand(real: Tensor, made: Tensor, size: int) -> list[float]:
    """Each subset's unbiased estimate, pair by pair in float64."""
    rows = [kid._choose(name, len(x), size) for name, x in (("real", real), ("made", made))]
    found = []
    for of_x, of_y in zip(*rows, strict=True):
        x = real.double().numpy()[of_x.bool().numpy()]
        y = made.double().numpy()[of_y.bool().numpy()]

        def k(a: np.ndarray, b: np.ndarray) -> float:
            return float((a @ b / len(a) + 1) ** 3)

        same = sum(
            k(z[i], z[j]) for z in (x, y) for i in range(size) for j in range(size) if i != j
        )
        across = sum(k(a, b) for a in x for b in y)
        found.append(same / (size * (size - 1)) - 2 * across / size**2)
    return found


@pytest.mark.parametrize(("n", "m", "size"), [(9, 14, 6), (5, 7, 5)])
def test_mean_and_deviation_are_those_of_all_pairs_of_every_subset(
    n: int, m: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kid, "SUBSETS", 7)
    monkeypatch.setattr(kid, "SUBSET", 6)
    monkeypatch.setattr(kid, "ROWS", 4)  # so that kernels come in several parts
    real, made = draw(n, 0), draw(m, 1, shift=0.7)
    exact = by_hand(real, made, size)
    distance = KernelDistance(real)
    for _ in range(2):  # the second time with the sums of before
        mean, deviation = distance(made)
        assert mean == pytest.approx(np.mean(exact), rel=1e-4)
        assert deviation == pytest.approx(np.std(exact), rel=1e-3)


def test_it_is_unbiased_where_both_are_drawn_alike() -> None:
    """Over draws its mean is 0 within its error, however few there are."""
    for count in (20, 60):
        real = [KernelDistance(draw(count, seed)) for seed in range(60)]
        found = np.array([each(draw(count, 1000 + i))[0] for i, each in enumerate(real)])
        assert abs(found.mean()) < 3 * found.std() / math.sqrt(len(found))
        assert found.min() < 0 < found.max()


def test_it_grows_with_the_distance_and_does_not_depend_on_a_shift_of_the_kernel() -> None:
    real = draw(500, 0)
    distance = KernelDistance(real)
    near, far = distance(draw(500, 1, shift=0.1))[0], distance(draw(500, 1, shift=0.5))[0]
    assert 0 < near < far
    distance = KernelDistance(real)
    distance.shift = 0.0
    assert distance(draw(500, 1, shift=0.5))[0] == pytest.approx(far, rel=1e-3)


def test_subsets_have_equally_many_other_features_and_stay_the_same() -> None:
    rows = kid._choose("real", 50, 20)
    assert rows.shape == (kid.SUBSETS, 50)
    assert set(rows.sum(1).tolist()) == {20.0}
    assert len({tuple(row.tolist()) for row in rows}) == kid.SUBSETS
    assert torch.equal(rows, kid._choose("real", 50, 20))
    assert not torch.equal(rows, kid._choose("made", 50, 20))


def test_a_single_image_has_no_pairs() -> None:
    with pytest.raises(ValueError, match="1 images have no pairs; give at least 2"):
        KernelDistance(draw(5, 0))(draw(1, 1))
