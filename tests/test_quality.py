"""What judges samples: the Fréchet distance, neighbourhoods, modes, the floor of real images."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from torch.nn import functional as F

from models.cae import CAE, CAEConfig
from models.data.images import ImageSplits
from models.evaluation.feature_cache import make_extractor
from models.evaluation.features import Extractor, encoder_extractor
from models.evaluation.frechet import Floats, Moments, frechet_distance
from models.evaluation.measures import CLASS_MEASURES, MEASURES
from models.evaluation.prdc import neighbourhoods, radii
from models.evaluation.sample_evaluator import SampleEvaluator, class_divergence, open_evaluator
from tests.conftest import CAE_SHAPE
from tests.generators import black, memorised, noisy, of_classes, uniform_noise

SEEDS = st.integers(0, 2**31 - 1)


def _moments(seed: int, width: int, rank: int | None = None) -> Moments:
    random = np.random.default_rng(seed)
    root: Floats = random.normal(size=(width, rank or width))
    return Moments(random.normal(size=width), root @ root.T)


def test_the_distance_of_two_gaussians_on_a_line_has_a_closed_form() -> None:
    a = Moments(np.array([1.0]), np.array([[4.0]]))
    b = Moments(np.array([-2.0]), np.array([[9.0]]))
    assert frechet_distance(a, b) == pytest.approx(3**2 + (3 - 2) ** 2, rel=1e-12)


def test_covariances_that_commute_have_a_closed_form() -> None:
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))
    first, second = np.array([1.0, 2, 3, 4, 5]), np.array([9.0, 0, 1, 0.25, 16])
    a = Moments(np.zeros(5), rotation @ np.diag(first) @ rotation.T)
    b = Moments(np.ones(5), rotation @ np.diag(second) @ rotation.T)
    expected = 5 + ((np.sqrt(first) - np.sqrt(second)) ** 2).sum()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


@given(SEEDS, st.integers(2, 12))
@settings(max_examples=30, deadline=None)
def test_the_distance_agrees_with_the_matrix_square_root(seed: int, width: int) -> None:
    a, b = _moments(seed, width), _moments(seed + 1, width)
    root = sqrtm(a.covariance @ b.covariance)
    expected = ((a.mean - b.mean) ** 2).sum() + np.trace(
        a.covariance + b.covariance - 2 * root.real
    )
    assert frechet_distance(a, b) == pytest.approx(float(expected), rel=1e-5, abs=1e-6)


@given(SEEDS, st.integers(2, 12), st.integers(1, 12))
@settings(max_examples=30, deadline=None)
def test_the_distance_is_symmetric_and_zero_only_for_equal_moments(
    seed: int, width: int, rank: int
) -> None:
    a, b = _moments(seed, width, rank), _moments(seed + 1, width, rank)  # singular ones too
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)
    assert frechet_distance(a, b) > 1e-3
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9 * np.trace(a.covariance))


@given(SEEDS)
@settings(max_examples=10, deadline=None)
def test_moments_are_those_of_numpy_and_the_order_of_images_does_not_matter(seed: int) -> None:
    features = torch.randn(50, 4, generator=torch.Generator().manual_seed(seed)) + 100
    moments = Moments.of(features)
    assert moments.mean == pytest.approx(features.double().numpy().mean(0), rel=1e-12)
    expected = np.cov(features.double().numpy(), rowvar=False)
    assert moments.covariance == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(moments, Moments.of(features.flip(0))) < 1e-9


def test_moments_need_two_images() -> None:
    with pytest.raises(ValueError, match="1 images have no covariance; give at least 2"):
        Moments.of(torch.zeros(1, 3))


def test_radii_reach_to_the_kth_other_image() -> None:
    line = torch.tensor([[0.0], [1], [3], [7]])
    assert radii(line, 1).tolist() == [1, 1, 2, 4]
    assert radii(line, 3).tolist() == [7, 6, 4, 7]
    with pytest.raises(ValueError, match="4 images have no 4 neighbours"):
        radii(line, 4)


def test_neighbourhoods_are_counted_by_hand() -> None:
    real, made = torch.tensor([[0.0], [1], [10]]), torch.tensor([[0.5], [0.6], [4], [100]])
    reach, made_reach = torch.tensor([1.1, 1.1, 9]), torch.tensor([0.1, 0.7, 2.5, 0])
    found = neighbourhoods(real, reach, made, made_reach)
    assert float(found["precision"]) == pytest.approx(3 / 4)  # 4 lies in the ball of 10 alone
    assert float(found["realism"]) == pytest.approx(2 / 4)  # whose ball is wide
    assert float(found["recall"]) == pytest.approx(2 / 3)  # 0 and 1, in the ball of 0.6
    assert float(found["density"]) == pytest.approx((2 + 2 + 1 + 0) / 4 / 5)
    assert float(found["coverage"]) == pytest.approx(3 / 3)


def test_neighbourhoods_do_not_depend_on_the_rows_taken_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    made = torch.randn(70, 3, generator=torch.Generator().manual_seed(1))
    whole = neighbourhoods(real, radii(real), made, radii(made))
    monkeypatch.setattr("models.evaluation.prdc.ROWS", 7)
    parts = neighbourhoods(real, radii(real), made, radii(made))
    assert {n: float(v) for n, v in parts.items()} == pytest.approx(
        {n: float(v) for n, v in whole.items()}
    )


def test_the_floor_is_what_real_images_get(judge: SampleEvaluator, digits: ImageSplits) -> None:
    assert judge.count == len(digits.train)
    assert judge(digits.train.batch(slice(0, judge.count)).images) == pytest.approx(judge.floor)
    assert judge.floor["modes"] == 10
    assert judge.floor["diversity"] == 1
    assert min(judge.floor[name] for name in ("precision", "recall", "coverage")) > 0.9
    assert judge.floor["class_kl"] < 0.05


def test_real_images_come_closer_than_anything_else(
    judge: SampleEvaluator, digits: ImageSplits
) -> None:
    bad = [of_classes(3), of_classes(1, 3, 8), memorised(16), uniform_noise, black, noisy(0.2)]
    values = [judge(generate(digits.train, judge.count))["frechet"] for generate in bad]
    assert judge.floor["frechet"] < min(values) / 1.5


def test_the_distance_grows_with_noise_and_with_blur(
    judge: SampleEvaluator, digits: ImageSplits
) -> None:
    made = [judge(noisy(s)(digits.train, judge.count)) for s in (0.1, 0.2, 0.4, 0.8)]
    distances = [judge.floor["frechet"], *(found["frechet"] for found in made)]
    assert distances == sorted(distances)
    assert made[-1]["realism"] < made[0]["realism"] / 4
    clean = digits.train.batch(slice(0, judge.count)).images
    blurred = [judge(F.avg_pool2d(clean, k, 1, k // 2))["frechet"] for k in (3, 5, 7, 9)]
    assert [judge.floor["frechet"], *blurred] == sorted([judge.floor["frechet"], *blurred])


def test_missing_classes_are_counted(judge: SampleEvaluator, digits: ImageSplits) -> None:
    one = judge(of_classes(3)(digits.train, judge.count))
    three = judge(of_classes(1, 3, 8)(digits.train, judge.count))
    assert (one["modes"], three["modes"]) == (1, 3)
    assert one["class_kl"] == pytest.approx(math.log(10), abs=0.3)
    assert judge.floor["class_kl"] < three["class_kl"] < one["class_kl"]
    assert one["coverage"] < three["coverage"] < 0.5


@pytest.mark.parametrize("missing", [0, 1, 80])
def test_no_balance_of_classes_is_better_than_the_real_one(missing: int) -> None:
    real = torch.ones(100, dtype=torch.float64)
    real[:missing] = 0  # classes without any real image, as small sets of many classes have
    real /= real.sum()
    smallest, left = float(real[-1]), float(np.log1p(float(real[-1]) / 2)) if missing else 0.0
    assert float(class_divergence(real, real)) == pytest.approx(left, abs=1e-12)
    even = torch.full_like(real, 0.01)
    assert float(class_divergence(even, real)) >= (2 if missing > 1 else -1e-12)
    spread = torch.where(real > 0, real, smallest / 2 / max(missing, 1))
    assert float(class_divergence(spread / spread.sum(), real)) == pytest.approx(0, abs=1e-12)
    one = torch.eye(100, dtype=torch.float64)[99]
    assert float(class_divergence(one, real)) == pytest.approx(left - np.log(smallest))


def test_a_few_strays_are_no_mode(judge: SampleEvaluator, digits: ImageSplits) -> None:
    samples = of_classes(3)(digits.train, judge.count)
    samples[:8] = of_classes(0)(digits.train, 8)  # a tenth of its share would be 11
    assert judge(samples)["modes"] == 1


def test_a_memorised_batch_looks_real_and_covers_nothing(
    judge: SampleEvaluator, digits: ImageSplits
) -> None:
    for noise in (0.0, 0.02):
        found = judge(memorised(16, noise)(digits.train, judge.count))
        assert found["precision"] > 0.8
        assert found["recall"] < 0.05
        assert found["diversity"] < 0.1


def test_what_no_digit_is_fools_precision_but_not_realism(
    judge: SampleEvaluator, digits: ImageSplits
) -> None:
    for generate in (uniform_noise, black):
        assert judge(generate(digits.train, judge.count))["realism"] < 0.02


def test_values_do_not_depend_on_the_order_of_the_samples(
    judge: SampleEvaluator, digits: ImageSplits
) -> None:
    samples = noisy(0.2)(digits.train, judge.count)
    forwards, backwards = judge(samples), judge(samples.flip(0))
    deviation = forwards["kid_sd"]
    for name in ("kid", "kid_sd"):  # random subsets hold other samples then
        assert abs(forwards.pop(name) - backwards.pop(name)) < deviation / 2
    assert backwards == pytest.approx(forwards, rel=1e-4)


def test_samples_that_cannot_be_compared_are_refused(
    judge: SampleEvaluator, digits: ImageSplits
) -> None:
    samples = noisy(0)(digits.train, judge.count)
    with pytest.raises(ValueError, match=f"7 samples, but values of {judge.count} are comparable"):
        judge(samples[:7])
    with pytest.raises(ValueError, match=r"samples lie in \[-1, 1\], images in \[0, 1\]"):
        judge(samples * 2 - 1)


def test_samples_that_are_not_finite_give_no_numbers(
    judge: SampleEvaluator, digits: ImageSplits
) -> None:
    samples = noisy(0)(digits.train, judge.count).clone()
    samples[5, 0, 3, 3] = math.nan
    found = judge(samples)
    assert set(found) == {*MEASURES, *CLASS_MEASURES}
    assert all(math.isnan(value) for value in found.values())


def test_the_test_images_judge_the_winner(extractor: Extractor, digits: ImageSplits) -> None:
    valid = SampleEvaluator(extractor, digits, count=200)
    test = SampleEvaluator(extractor, digits, part="test", count=200)
    assert test.floor["frechet"] != valid.floor["frechet"]
    assert test.count == valid.count == 200


def test_images_without_classes_are_judged_by_an_encoder(digits: ImageSplits) -> None:
    model = CAE(CAEConfig(channels=2, latent=8), CAE_SHAPE)
    judge = SampleEvaluator(encoder_extractor(model), digits, count=300)
    assert set(judge.floor) == set(MEASURES) == set(judge.measures)
    noise = judge(uniform_noise(digits.train, 300))
    assert noise["frechet"] > 2 * judge.floor["frechet"]


def test_too_few_images_to_judge_with_are_refused(
    extractor: Extractor, digits: ImageSplits
) -> None:
    with pytest.raises(ValueError, match="more than 5 of both are needed"):
        SampleEvaluator(extractor, digits, count=5)


def test_a_process_looks_at_the_real_images_once(
    digits: ImageSplits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.evaluation.feature_cache.FEW_EPOCHS", 1)
    first, again = (make_extractor(digits, tmp_path) for _ in range(2))
    judge = open_evaluator(first, digits, count=100)
    assert open_evaluator(again, digits, count=100) is judge
    for other in (
        open_evaluator(first, digits, count=101),
        open_evaluator(first, digits, count=100, part="test"),
        open_evaluator(encoder_extractor(CAE(CAEConfig(), CAE_SHAPE)), digits, count=100),
    ):
        assert other is not judge
    assert json.loads(json.dumps(judge.record)) == {
        "extractor": "classifier",
        "hash": judge.extractor.hash,
        "accuracy": judge.extractor.accuracy,
        "part": "valid",
        "samples": 100,
        "floor": judge.floor,
    }
