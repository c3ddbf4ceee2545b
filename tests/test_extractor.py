"""The pinned extractor: trained once, kept whole, and the same for everybody."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file

from models.base import build
from models.cae import CAE, CAEConfig
from models.data.images import Images, ImageSplits
from models.errors import ConfigError, ExtractorError, StopRequested
from models.evaluation.feature_cache import (
    FEW_BATCH,
    ExtractorRequest,
    extractor_content,
    make_extractor,
)
from models.evaluation.feature_net import FeatureNet, FeatureNetConfig
from models.evaluation.features import Extractor, encoder_extractor, weights_hash
from storage.database.extractors import keep_extractor, read_extractor
from tests.conftest import CAE_SHAPE, blank_images
from tests.preloaded import Preloaded
from tests.trials import MakeContext


@pytest.fixture
def few(digits: ImageSplits, monkeypatch: pytest.MonkeyPatch) -> ImageSplits:
    """Few enough digits, and epochs, to train on several times in a test."""
    monkeypatch.setattr("models.evaluation.feature_cache.FEW_EPOCHS", 1)
    return replace(digits, train=digits.train.take(torch.arange(300)))


def kept(cache: Path) -> Path:
    (path,) = cache.glob("*.safetensors")
    return path


def test_few_images_are_learnt_in_small_batches(
    digits: ImageSplits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.evaluation.feature_cache.FEW_EPOCHS", 30)  # 80 take longer
    few = replace(digits, train=digits.train.take(torch.arange(300)))
    extractor = make_extractor(few, tmp_path)
    assert extractor.model.config.batch_size == FEW_BATCH
    assert extractor.accuracy is not None
    assert extractor.accuracy > 0.93  # 0.90 of twenty epochs in batches of 128


def test_a_study_of_before_keeps_its_extractor_of_few_images(
    few: ImageSplits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr("models.evaluation.feature_cache._is_small", lambda config, images: False)
        earlier.setattr("models.evaluation.feature_cache.MOST_EPOCHS", 4)
        before = make_extractor(few, tmp_path / "a")
    content = extractor_content(before)
    for cache in (tmp_path / "a", tmp_path / "b"):
        found = make_extractor(
            few, cache, request=ExtractorRequest(expected=before.hash, kept=lambda _: content)
        )
        assert found.hash == before.hash
        assert found.model.config.batch_size > FEW_BATCH
    assert make_extractor(few, tmp_path / "b").hash != before.hash


def test_an_extractor_tells_the_classes_and_says_how_well(
    extractor: Extractor, digits: ImageSplits
) -> None:
    assert extractor.accuracy is not None
    assert 0.975 < extractor.accuracy < 1
    assert extractor.classes == 10
    seen = extractor(digits.test.pixels)
    assert seen.features.shape == (len(digits.test), 64)
    assert digits.test.labels is not None
    assert seen.classes is not None
    assert seen.confidence is not None
    right = seen.classes == digits.test.labels
    assert float(right.float().mean()) > 0.95
    assert float(seen.confidence[right].mean()) > float(seen.confidence[~right].mean()) + 0.1
    assert extractor.record == {
        "extractor": "classifier",
        "hash": extractor.hash,
        "accuracy": extractor.accuracy,
    }


def test_pixels_and_floats_are_seen_alike_and_nothing_changes(
    extractor: Extractor, digits: ImageSplits
) -> None:
    pixels = digits.valid.pixels[:70]
    again = extractor(digits.valid.batch(slice(0, 70)).images)
    assert torch.equal(extractor(pixels).features, again.features)
    assert weights_hash(extractor.model) == extractor.hash
    assert not again.features.requires_grad


def test_it_is_trained_once_and_then_read(few: ImageSplits, tmp_path: Path) -> None:
    said: list[str] = []
    first = make_extractor(few, tmp_path, request=ExtractorRequest(progress=said.append))
    assert len(said) == 1
    assert said[0].startswith("training the extractor of digits (once): epoch 1/1, accuracy ")
    second = make_extractor(
        few, tmp_path, request=ExtractorRequest(expected=first.hash, progress=said.append)
    )
    assert len(said) == 1
    assert second.record == first.record
    assert kept(tmp_path).name.startswith("extractor-")
    make_extractor(few, tmp_path, seed=1, request=ExtractorRequest(progress=said.append))
    assert said[1].startswith("training the second extractor of digits (once): ")


def test_the_same_images_and_seed_make_the_same_weights(few: ImageSplits, tmp_path: Path) -> None:
    torch.manual_seed(1)
    first = make_extractor(few, tmp_path / "a")
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert make_extractor(few, tmp_path / "b").hash == first.hash
    assert torch.equal(torch.get_rng_state(), state)  # the caller's random numbers go on


def test_another_seed_and_other_images_have_judges_of_their_own(
    few: ImageSplits, tmp_path: Path
) -> None:
    fewer = replace(few, train=few.train.take(torch.arange(299)))
    made = [make_extractor(few, tmp_path, seed=seed) for seed in (0, 1)]
    made.append(make_extractor(fewer, tmp_path))
    assert len({extractor.hash for extractor in made}) == 3
    assert len(list(tmp_path.glob("*.safetensors"))) == 3


TRAIN = """
import sys
from dataclasses import replace
from pathlib import Path

import torch

from models.data.loading import load_images
from models.evaluation import feature_cache

feature_cache.FEW_EPOCHS = 3
place = Path(sys.argv[1])
digits = load_images("digits", root=place, cache=place / "images", shape=(1, 28, 28))
few = replace(digits, train=digits.train.take(torch.arange(300)))
request = feature_cache.ExtractorRequest(progress=print)
print(feature_cache.make_extractor(few, place, request=request).hash)
"""


def test_processes_that_come_together_train_it_once(tmp_path: Path, preloaded: Preloaded) -> None:
    workers = [preloaded.run_program(TRAIN, tmp_path) for _ in range(2)]
    lines: list[list[str]] = []
    for worker in workers:
        out, error = worker.communicate(timeout=120)
        assert worker.returncode == 0, error
        lines.append(out.splitlines())
    assert lines[0][-1] == lines[1][-1]
    assert sum("epoch 1/3" in line for line in lines[0] + lines[1]) == 1


def test_who_waits_for_another_worker_says_so_and_can_be_stopped(
    few: ImageSplits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.evaluation.feature_cache.LOCK_POLL", 0.01)
    path = kept_after(make_extractor, few, tmp_path)
    path.unlink()
    said: list[str] = []
    request = ExtractorRequest(progress=said.append, interrupted=lambda: len(said) > 0)
    with FileLock(f"{path}.lock"), pytest.raises(StopRequested):
        make_extractor(few, tmp_path, request=request)
    assert said == ["waiting for the extractor that another worker trains"]


def kept_after(make: Callable[..., Extractor], images: ImageSplits, cache: Path) -> Path:
    make(images, cache)
    return kept(cache)


def test_who_is_stopped_in_training_leaves_nothing_behind(few: ImageSplits, tmp_path: Path) -> None:
    asked: list[int] = []

    def interrupted() -> bool:
        asked.append(1)
        return len(asked) > 2

    with pytest.raises(StopRequested):
        make_extractor(few, tmp_path, request=ExtractorRequest(interrupted=interrupted))
    assert not list(tmp_path.glob("*.safetensors"))
    make_extractor(few, tmp_path)  # the lock is free


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)


def _strip(path: Path) -> None:
    save_file(load_file(path), path)  # without a header


def _other_weights(path: Path) -> None:
    about = {"about": json.dumps({"hash": "0" * 64, "accuracy": 1.0})}
    save_file({"weight": torch.zeros(3)}, path, metadata=about)


@pytest.mark.parametrize("damage", [_cut, _empty, _flip, _strip, _other_weights])
def test_a_damaged_file_is_made_again(
    few: ImageSplits, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    whole = make_extractor(few, tmp_path).hash
    damage(kept(tmp_path))
    said: list[str] = []
    request = ExtractorRequest(expected=whole, progress=said.append)
    assert make_extractor(few, tmp_path, request=request).hash == whole
    assert len(said) == 1


def test_another_extractor_than_that_of_earlier_values_is_refused(
    few: ImageSplits, tmp_path: Path
) -> None:
    found = make_extractor(few, tmp_path)
    message = rf"that of extractor-.* \({found.hash[:12]}\); .* measured with abababababab "
    with pytest.raises(ExtractorError, match=message):
        make_extractor(few, tmp_path, request=ExtractorRequest(expected="ab" * 32))
    model = build(CAE, CAEConfig(), CAE_SHAPE, seed=0)
    assert encoder_extractor(model, expected=weights_hash(model)).hash == weights_hash(model)
    with pytest.raises(ExtractorError, match=r"the export of another CAE .* measured with abab"):
        encoder_extractor(model, expected="ab" * 32)


def test_what_another_machine_has_is_read_and_ones_own_is_left(
    few: ImageSplits, tmp_path: Path
) -> None:
    theirs = make_extractor(few, tmp_path / "there", seed=1)  # as if its processor rounded so
    ours = make_extractor(few, tmp_path)
    asked: list[str] = []

    def kept(digest: str) -> bytes:
        asked.append(digest)
        return extractor_content(replace(theirs, key=ours.key))

    for _ in range(2):  # the second one reads the file
        found = make_extractor(
            few, tmp_path, request=ExtractorRequest(expected=theirs.hash, kept=kept)
        )
        assert found.record == theirs.record
    assert asked == [theirs.hash]
    assert make_extractor(few, tmp_path).hash == ours.hash
    make_extractor(few, tmp_path, request=ExtractorRequest(expected=ours.hash, kept=kept))
    assert asked == [theirs.hash]
    with pytest.raises(ExtractorError, match="measured with abab"):  # what came is another
        make_extractor(few, tmp_path, request=ExtractorRequest(expected="ab" * 32, kept=kept))
    with pytest.raises(ExtractorError, match="measured with cdcd"):
        make_extractor(
            few,
            tmp_path,
            request=ExtractorRequest(expected="cd" * 32, kept=lambda _: b"nothing of the sort"),
        )


def test_images_without_classes_need_an_autoencoder(digits: ImageSplits, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"digits has 0 classes.*or export an autoencoder"):
        make_extractor(replace(digits, classes=()), tmp_path)
    classifier = build(FeatureNet, FeatureNetConfig(), CAE_SHAPE, seed=0)
    with pytest.raises(ExtractorError, match="a FeatureNet has no encoder"):
        encoder_extractor(classifier)


def test_an_encoder_gives_its_codes(digits: ImageSplits) -> None:
    model = build(CAE, CAEConfig(channels=2, latent=8), CAE_SHAPE, seed=0)
    assert isinstance(model, CAE)
    extractor = encoder_extractor(model)
    seen = extractor(digits.valid.pixels[:9])
    assert seen.classes is None
    with torch.no_grad():
        expected = model.eval().encode(digits.valid.batch(slice(0, 9)).images)
    assert torch.allclose(seen.features, expected, atol=1e-5)
    assert extractor.record["accuracy"] is None
    assert extractor.hash == weights_hash(model)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 28, 28), (1, 5, 40), (3, 64, 64), (3, 130, 100)])
def test_images_of_every_size_become_as_many_features(shape: tuple[int, int, int]) -> None:
    images = blank_images(shape, classes=3)
    config = FeatureNet.fitted(FeatureNetConfig(features=16), images)
    model = build(FeatureNet, config, shape, seed=0)
    assert isinstance(model, FeatureNet)
    features, scores = model.features_and_scores(torch.rand(2, *shape))
    assert (features.shape, scores.shape) == ((2, 16), (2, 3))


def test_stacked_digits_are_seen_channel_by_channel(
    extractor: Extractor, digits: ImageSplits
) -> None:
    stacked = replace(extractor, by_channel=True, classes=1000)
    parts = [extractor(digits.test.pixels[first : first + 50]) for first in (0, 50, 100)]
    pixels = [digits.test.pixels[first : first + 50] for first in (0, 50, 100)]
    seen = stacked(torch.cat(pixels, dim=1))
    assert torch.allclose(seen.features, torch.cat([p.features for p in parts], 1), atol=1e-4)
    hundreds, tens, ones = (part.classes for part in parts)
    assert hundreds is not None
    assert tens is not None
    assert ones is not None
    assert seen.classes is not None
    assert torch.equal(seen.classes, hundreds * 100 + tens * 10 + ones)
    assert seen.confidence is not None
    products = torch.stack([p.confidence for p in parts if p.confidence is not None]).prod(0)
    assert torch.allclose(seen.confidence, products, atol=1e-5)


def test_the_extractor_of_stacked_digits_is_trained_on_single_ones(
    few: ImageSplits, tmp_path: Path
) -> None:
    def stacked(part: Images) -> Images:
        assert part.labels is not None
        pixels, labels = part.pixels.expand(-1, 3, -1, -1).contiguous(), part.labels * 111
        return Images(pixels=pixels, labels=labels)

    parts: dict[str, Any] = {
        part: stacked(getattr(few, part)) for part in ("train", "valid", "test")
    }
    classes = tuple(f"{number:03}" for number in range(1000))
    images = replace(few, name="stacked_mnist", classes=classes, **parts)
    found = make_extractor(images, tmp_path)
    assert (found.by_channel, found.classes) == (True, 1000)
    assert found.hash == make_extractor(few, tmp_path).hash
    seen = found(images.valid.pixels)
    assert seen.features.shape == (len(images.valid), 3 * 64)
    assert seen.classes is not None
    assert torch.equal(seen.classes % 111, torch.zeros_like(seen.classes))


def test_a_damaged_extractor_in_the_database_is_replaced(make_context: MakeContext) -> None:
    engine = make_context().queue.engine

    def is_sound(content: bytes) -> bool:
        return content.startswith(b"whole")

    keep_extractor(engine, "ab", b"damaged", is_whole=is_sound)
    keep_extractor(engine, "ab", b"whole 1", is_whole=is_sound)
    assert read_extractor(engine, "ab") == b"whole 1"
    keep_extractor(engine, "ab", b"whole 2", is_whole=is_sound)
    assert read_extractor(engine, "ab") == b"whole 1"
