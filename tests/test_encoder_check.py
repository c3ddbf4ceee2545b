"""Encoders that are to measure samples: real images must look real in their codes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from models.base import build
from models.cae import CAE, CAEConfig
from models.data.images import ImageSplits
from models.errors import ExtractorError
from models.evaluation.encoder_check import check_encoder, measure_encoder
from models.evaluation.features import encoder_extractor
from models.evaluation.prdc import neighbourhoods, radii
from models.export import write_export
from search.errors import BadVariable
from search.setup.inputs import RunInputs, check_judge, describe_exports
from search.worker.evaluator import StudyEvaluators
from tests.conftest import CAE_SHAPE
from tests.trials import MakeContext

SMALL = CAEConfig(channels=2, latent=8)


def encoder(family: type[CAE] = CAE) -> CAE:
    model = build(family, SMALL, CAE_SHAPE, seed=0)
    assert isinstance(model, CAE)
    return model


def collapse(model: CAE) -> CAE:
    """Give every image the same code."""
    last = [layer for layer in model.encoder.modules() if isinstance(layer, nn.Linear)][-1]
    nn.init.zeros_(last.weight)
    nn.init.ones_(last.bias)
    return model


class FewCodes(CAE):
    """Knows four codes at most."""

    def encode(self, images: Tensor) -> Tensor:
        return (super().encode(images)[:, :2] > 1).float()


class HalfDead(CAE):
    """Gives most images one code, and the bright ones codes of their own."""

    def encode(self, images: Tensor) -> Tensor:
        bright = images.mean((1, 2, 3), keepdim=True).flatten(1) > 0.35
        return super().encode(images) * bright


class ThirdDead(CAE):
    """Gives the darkest third of the images one code."""

    def encode(self, images: Tensor) -> Tensor:
        means = images.mean((1, 2, 3), keepdim=True).flatten(1)
        return super().encode(images) * (means > means.quantile(1 / 3))


class Broken(CAE):
    def encode(self, images: Tensor) -> Tensor:
        return super().encode(images) * float("nan")


class Shrinking(CAE):
    """Has codes that are tiny, far from 0, and as good as any others."""

    def encode(self, images: Tensor) -> Tensor:
        return super().encode(images) * 1e-3 + 1


@pytest.mark.parametrize("family", [CAE, Shrinking])
@pytest.mark.parametrize(("train", "valid"), [(1150, 288), (60, 30)])
def test_a_sound_encoder_is_taken_whatever_its_scale(
    digits: ImageSplits, family: type[CAE], train: int, valid: int
) -> None:
    images = replace(
        digits,
        train=digits.train.take(torch.arange(train)),
        valid=digits.valid.take(torch.arange(valid)),
    )
    found = measure_encoder(encoder_extractor(encoder(family)), images)
    assert found.is_sound
    assert 0.6 < found.density < 1.5
    assert found.floor < 0.1 or valid < 100  # of few images it says little, and decides nothing
    assert found.distinct == found.images == valid


@pytest.mark.parametrize(
    ("model", "codes"),
    [
        (collapse(encoder()), "have 1 different code;"),
        (encoder(FewCodes), "[1-4] different codes"),
        (encoder(HalfDead), "different codes"),
        (encoder(ThirdDead), "288 different images have 193 different codes"),
        (encoder(Broken), "density is nan"),
    ],
    ids=["collapsed", "four codes", "half dead", "a third dead", "not finite"],
)
def test_an_encoder_that_does_not_tell_images_apart_is_refused_with_the_numbers(
    digits: ImageSplits, model: CAE, codes: str
) -> None:
    with pytest.raises(ExtractorError, match=codes) as error:
        check_encoder(encoder_extractor(model), digits)
    assert "(0.5 to 2 is sound)" in str(error.value)
    assert "give the export of an autoencoder that tells these images apart" in str(error.value)


def test_a_study_names_the_export_that_cannot_judge_and_the_way_out(
    digits: ImageSplits, tmp_path: Path, quick_onnx: None
) -> None:
    write_export(collapse(encoder()), tmp_path)
    with pytest.raises(BadVariable) as error:
        check_judge(tmp_path, "cae", digits)
    said = str(error.value)
    assert said.startswith(f"{tmp_path}: the codes of this CAE cannot measure samples")
    assert "density is 0.00" in said
    assert said.endswith("with FROM=folder, or search 'cae' anew on these images")
    assert "\n" not in said


def test_a_worker_measures_with_no_such_encoder(
    digits: ImageSplits, make_context: MakeContext
) -> None:
    context = make_context()
    with pytest.raises(ExtractorError, match="have 1 different code;"):
        StudyEvaluators(context.run, digits, context.queue, encoder=collapse(encoder()))


def test_copies_of_images_are_no_fault_of_the_encoder(digits: ImageSplits) -> None:
    rows = torch.arange(60).repeat_interleave(12)
    copied = replace(digits, train=digits.train.take(rows), valid=digits.valid.take(rows))
    check_encoder(encoder_extractor(encoder()), copied)


@pytest.mark.parametrize("offset", [0.0, 1.0, 300.0])
def test_an_image_on_the_edge_of_a_ball_is_not_in_it(offset: float) -> None:
    """Distances of equal features are not always 0: they are rounded."""
    torch.manual_seed(0)
    codes = torch.randn(1, 64).expand(400, 64) + offset
    found = neighbourhoods(codes, radii(codes), codes.clone(), radii(codes))
    assert {name: float(value) for name, value in found.items()} == dict.fromkeys(found, 0.0)
    several = torch.randn(40, 64).repeat(10, 1) + offset  # ten copies of each
    found = neighbourhoods(several, radii(several), several.clone(), radii(several))
    assert float(found["density"]) == 0
    grid = torch.cartesian_prod(torch.arange(20.0), torch.arange(20.0)) + offset
    reach = torch.ones(400)
    found = neighbourhoods(grid, reach, grid, reach)
    assert float(found["density"]) == pytest.approx(1 / 5)  # itself, and not its neighbours


@pytest.mark.parametrize(("value", "words"), [(0.0835, "learned next to nothing"), (0.02, "")])
def test_a_judge_that_has_learned_nothing_is_said_with_the_study(
    digits: ImageSplits, tmp_path: Path, value: float, words: str
) -> None:
    """Its codes may tell images apart, and still measure nothing that counts."""
    baseline = {"what": "the mean training image", "valid": 0.067, "test": 0.0668}
    about = {"metric": "mse", "direction": "minimize", "baseline": baseline}
    about |= {"valid": {"mse": value}, "test": {"mse": value}}
    (tmp_path / "provenance.json").write_text(json.dumps(about))
    inputs = RunInputs(data="digits", cached=tmp_path, images=digits, encoder=tmp_path)
    said = " ".join(describe_exports(inputs))
    assert bool(said) is bool(words)
    assert words in said
    if words:
        assert said.startswith("of the export that the study judges samples by: this model has")
        assert said.endswith("has 0.0668; search that for longer first")
