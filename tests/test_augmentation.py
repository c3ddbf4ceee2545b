"""What a GAN on few images trains on: which images, how many, and the same each time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models.augmentation import AugmentedGAN, AugmentedGANConfig
from models.base import build
from models.data.images import Images, ImageSplits
from models.data.noise import KINDS
from models.errors import ConfigError, StopRequested
from models.training.checkpoint import load_checkpoint, save_checkpoint
from models.training.loop import fit

SHAPE = (1, 28, 28)
SMALL: dict[str, Any] = {"architecture": "dropout-28", "width": 0.02, "batch_size": 50}


def small(**changes: Any) -> AugmentedGAN:
    config = AugmentedGANConfig(**{**SMALL, **changes})
    model = build(AugmentedGAN, config, SHAPE, seed=0)
    assert isinstance(model, AugmentedGAN)
    return model


def test_nothing_added_are_the_first_images_with_their_classes(digits: ImageSplits) -> None:
    seen = small(real=200).training_set(digits, seed=0)
    assert digits.train.labels is not None
    assert torch.equal(seen.pixels, digits.train.pixels[:200])
    assert seen.labels is not None
    assert torch.equal(seen.labels, digits.train.labels[:200])


@pytest.mark.parametrize("real", [0, 1150, 5000])
def test_all_images_are_trained_on_where_no_fewer_are_asked_for(
    digits: ImageSplits, real: int
) -> None:
    assert torch.equal(small(real=real).training_set(digits, seed=0).pixels, digits.train.pixels)


def nearest(images: Tensor, others: Tensor) -> Tensor:
    """Root mean square difference, in [0, 1], of each from the most alike of ``others``."""
    first, second = (part.flatten(1).float() / 255 for part in (images, others))
    return torch.cdist(first, second).min(1).values / first.shape[1] ** 0.5


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_drawn_images_are_new_ones_like_those_that_were_learnt(
    digits: ImageSplits, layers: int
) -> None:
    model = small(real=300, extra="autoencoder", layers=layers, drawn=120)
    pixels = model.training_set(digits, seed=0).pixels
    real, drawn = pixels[:300], pixels[300:]
    assert (len(pixels), pixels.dtype) == (420, torch.uint8)
    assert torch.equal(real, digits.train.pixels[:300])
    assert nearest(drawn, digits.train.pixels).min() > 0.02, "none is a copy"
    noise = torch.randint(0, 256, drawn.shape, generator=torch.Generator().manual_seed(0))
    assert nearest(drawn, real).mean() < nearest(noise.to(torch.uint8), real).mean() / 2
    brightness = drawn.float().mean() / real.float().mean()
    assert 0.8 < brightness < 1.25, "they are drawn where the codes lie"
    assert len(drawn.flatten(1).unique(dim=0)) == 120


def test_drawn_images_know_no_others_than_the_real_ones(digits: ImageSplits) -> None:
    black = Images(pixels=digits.train.pixels.clone(), labels=digits.train.labels)
    black.pixels[60:] = 0
    model = small(real=60, extra="autoencoder", drawn=20)
    ours, same = (model.training_set(s, seed=0) for s in (digits, replace(digits, train=black)))
    assert torch.equal(ours.pixels, same.pixels)


@pytest.mark.parametrize("layers", [1, 3])
def test_reconstructions_are_what_an_autoencoder_makes_of_each_image(
    digits: ImageSplits, layers: int
) -> None:
    """They are in the order of the images, and nearer to them than draws from the codes are."""
    values = {"real": 300, "layers": layers}
    pixels = small(**values, extra="reconstructions").training_set(digits, seed=0).pixels
    real, made = pixels[:300], pixels[300:]
    assert (len(pixels), pixels.dtype) == (600, torch.uint8)
    assert torch.equal(real, digits.train.pixels[:300])
    own = (made.float() - real.float()).square().mean().sqrt() / 255
    others = (made.float() - real.roll(1, 0).float()).square().mean().sqrt() / 255
    assert 0 < own < 0.75 * others
    drawn = small(**values, extra="autoencoder", drawn=300).training_set(digits, seed=0).pixels
    assert nearest(made, real).mean() < nearest(drawn[300:], real).mean()


def test_noisy_copies_are_each_image_under_each_kind(digits: ImageSplits) -> None:
    pixels = small(real=200, extra="noise").training_set(digits, seed=0).pixels
    assert len(KINDS) == 3
    real, gaussian, salted, photons = pixels.split(200)
    assert torch.equal(real, digits.train.pixels[:200])
    hit = (salted != real) & ((salted == 0) | (salted == 255))
    assert torch.equal(salted[~hit], real[~hit])
    assert 0.1 < hit.float().mean() < 0.21
    assert photons[real == 0].max() == 0, "no photon comes from black"
    assert photons[real > 0].float().std() > 0
    added = (gaussian.float() - real.float())[(real > 100) & (real < 155)] / 255
    assert float(added.std()) == pytest.approx(0.2, abs=0.02)


EXTRAS = [
    {"extra": "none"},
    {"extra": "noise"},
    {"extra": "reconstructions"},
    {"extra": "autoencoder", "drawn": 10},
]


@pytest.mark.parametrize("extra", EXTRAS)
def test_what_is_trained_on_follows_from_the_seed_and_disturbs_no_random_numbers(
    digits: ImageSplits, extra: dict[str, Any]
) -> None:
    model = small(real=40, **extra)
    torch.manual_seed(5)
    first = model.training_set(digits, seed=1).pixels
    after = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(3))
    assert torch.equal(first, model.training_set(digits, seed=1).pixels)
    assert torch.equal(first, small(real=40, lr_g=1.0, **extra).training_set(digits, seed=1).pixels)
    other = model.training_set(digits, seed=2).pixels
    assert torch.equal(first, other) == (extra["extra"] == "none")


@pytest.mark.parametrize("extra", EXTRAS)
def test_a_training_taken_up_again_ends_alike(
    digits: ImageSplits, tmp_path: Path, extra: dict[str, Any]
) -> None:
    whole, first, second = (small(real=60, epoch_images=100, **extra) for _ in range(3))
    curve = [(e.train, e.valid) for e in fit(whole, digits, epochs=3, seed=3)]
    for epoch in fit(first, digits, epochs=3, seed=3):
        save_checkpoint(tmp_path / "kept", first, epoch=epoch.number, note={})
        break
    load_checkpoint(tmp_path / "kept", second)
    rest = [(e.train, e.valid) for e in fit(second, digits, epochs=3, seed=3, start=1)]
    assert rest == curve[1:]
    ours, theirs = whole.state_dict(), second.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_an_epoch_shows_as_many_images_as_it_is_told_to() -> None:
    torch.manual_seed(0)
    longer = small(epoch_images=250).order(100)
    assert longer.bincount(minlength=100).tolist().count(3) == 50
    assert all(len(part.unique()) == len(part) for part in longer.split(100))
    part = small(epoch_images=30)
    first, second = part.order(100), part.order(100)
    assert len(first.unique()) == len(second.unique()) == 30
    assert set(first.tolist()) != set(second.tolist()), "other ones each epoch"
    assert sorted(small().order(100).tolist()) == list(range(100))


@pytest.mark.parametrize("row", [{"real": 0}, {"real": 60}, {"real": 60, "extra": "noise"}])
def test_rows_of_any_size_make_as_many_steps(digits: ImageSplits, row: dict[str, Any]) -> None:
    model = small(epoch_images=200, **row)
    assert len(list(fit(model, digits, epochs=2, seed=0))) == 2
    counts = {int(state["step"]) for state in model.optimizers["generator"].state.values()}
    assert counts == {2 * 200 // 50}


def test_a_long_preparation_can_be_interrupted(digits: ImageSplits) -> None:
    asked: list[bool] = []

    def interrupted() -> bool:
        asked.append(True)
        return len(asked) > 3

    with pytest.raises(StopRequested):
        next(fit(small(extra="autoencoder"), digits, epochs=1, seed=0, interrupted=interrupted))
    assert len(asked) == 4


def test_nothing_is_prepared_for_a_training_that_is_over(
    digits: ImageSplits, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small(extra="autoencoder")
    monkeypatch.setattr(model, "training_set", lambda *_, **__: pytest.fail("prepared"))
    assert list(fit(model, digits, epochs=2, seed=0, start=2)) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"real": -1}, "real=-1"),
        (
            {"extra": "flips"},
            "unknown extra 'flips'; available: none, autoencoder, reconstr",
        ),
        ({"layers": 4}, "layers=4 is outside [1, 3]"),
        ({"drawn": 0}, "drawn=0"),
        ({"epoch_images": -5}, "epoch_images=-5"),
    ],
)
def test_a_value_that_does_not_fit_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        AugmentedGANConfig(**change)
    assert said in str(error.value)
