"""Which network of a GAN is updated when: fixed ratios, the adaptive rule, and what is refused."""

from __future__ import annotations

import pytest
import torch

from models.base import build
from models.data.images import Batch, ImageSplits
from models.errors import ConfigError
from models.gan import GAN, GANConfig
from models.training.gan_balance import AdaptiveSteps, BalanceConfig
from models.training.loop import fit
from tests.conftest import CAE_SHAPE

SMALL = {"width": 0.02, "latent": 4, "batch_size": 16}


def updates(config: GANConfig, images: ImageSplits, steps: int) -> str:
    """One letter an update, in their order: D or G; a dot ends a step."""
    model = build(GAN, config, CAE_SHAPE, seed=0)
    done: list[str] = []
    for name, optimizer in model.optimizers.items():
        letter = name[0].upper()
        optimizer.register_step_post_hook(lambda *_, letter=letter: done.append(letter))
    for step in range(steps):
        size = model.images_per_step
        model.train_step(images.train.batch(slice(step * size, (step + 1) * size)))
        done.append(".")
    return "".join(done)


@pytest.mark.parametrize(
    ("d_steps", "g_steps", "expected"),
    [
        (1, 1, "DG.DG.DG."),
        (2, 1, "DDG.DDG.DDG."),
        (1, 4, "DGGGG.DGGGG.DGGGG."),
        (4, 1, "DDDDG." * 3),
    ],
)
def test_updates_come_in_the_ratio_that_is_asked_for(
    d_steps: int, g_steps: int, expected: str, digits: ImageSplits
) -> None:
    config = GANConfig(**SMALL, d_steps=d_steps, g_steps=g_steps)  # type: ignore[arg-type]
    assert updates(config, digits, 3) == expected


def test_the_generator_gets_more_updates_while_it_loses(digits: ImageSplits) -> None:
    losing = GANConfig(**SMALL, extra_g_steps=2, threshold=-1e6)  # type: ignore[arg-type]
    winning = GANConfig(**SMALL, extra_g_steps=2, threshold=1e6)  # type: ignore[arg-type]
    assert updates(losing, digits, 4) == "DG.DG.DGGG.DGGG."
    assert updates(winning, digits, 4) == "DG.DG.DG.DG."


def test_the_rule_follows_from_the_losses_of_the_step_before_last() -> None:
    rule = AdaptiveSteps(BalanceConfig(g_steps=2, extra_g_steps=3, threshold=1.0))
    losses = [(4.0, 1.0), (0.5, 1.0), (2.5, 1.0), (2.0, 1.0), (9.0, 1.0), (0.0, 0.0)]
    turns = []
    for loss_g, loss_d in losses:
        turns.append(rule.g_steps())
        rule.observe(torch.tensor(loss_g), torch.tensor(loss_d))
    assert turns == [2, 2, 5, 2, 5, 2]  # 2.0 is not more than 1.0 above 1.0
    assert rule.g_steps() == 5
    rule.reset()
    assert rule.g_steps() == 2


def test_the_rule_looks_at_no_loss_unless_it_is_adaptive() -> None:
    rule = AdaptiveSteps(BalanceConfig(g_steps=3))
    rule.observe(torch.tensor(9.0), torch.tensor(0.0))
    assert not rule.seen
    assert rule.g_steps() == 3


def test_only_an_adaptive_step_decides_on_the_host() -> None:
    assert build(GAN, GANConfig(**SMALL), CAE_SHAPE, seed=0).static_step  # type: ignore[arg-type]
    config = GANConfig(**SMALL, extra_g_steps=1)  # type: ignore[arg-type]
    assert not build(GAN, config, CAE_SHAPE, seed=0).static_step


def test_an_epoch_decides_without_the_losses_of_the_one_before(digits: ImageSplits) -> None:
    config = GANConfig(**SMALL, extra_g_steps=1, threshold=-1e6)  # type: ignore[arg-type]
    model = build(GAN, config, CAE_SHAPE, seed=0)
    steps = len(digits.train) // 16
    for epoch in fit(model, digits, epochs=2, seed=0):
        assert epoch.train["g_steps"] == pytest.approx(2 - 2 / steps)
        assert epoch.train["g_behind"] == pytest.approx(1 - 2 / steps)


def test_every_update_of_the_discriminator_sees_other_images(
    digits: ImageSplits, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(GAN, GANConfig(**SMALL, d_steps=3), CAE_SHAPE, seed=0)  # type: ignore[arg-type]
    assert isinstance(model, GAN)
    seen: list[torch.Tensor] = []
    update = model._update_discriminator

    def remember(batch: Batch, given: torch.Tensor, fakes: torch.Tensor) -> object:
        seen.append(batch.images)
        return update(batch, given, fakes)

    monkeypatch.setattr(model, "_update_discriminator", remember)
    images = digits.train.batch(slice(0, model.images_per_step))
    model.train_step(images)
    assert [len(part) for part in seen] == [16, 16, 16]
    assert torch.equal(torch.cat(seen), images.images)


def test_instance_noise_falls_from_epoch_to_epoch() -> None:
    config = GANConfig(**SMALL, instance_noise=0.4)  # type: ignore[arg-type]
    model = build(GAN, config, CAE_SHAPE, seed=0)
    found = []
    for epoch in (1, 2, 3, 4):
        model.begin_epoch(epoch, 4)
        found.append(float(model.noise))  # type: ignore[arg-type]
    assert found == pytest.approx([0.4, 0.3, 0.2, 0.1])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch_size": 1}, r"batch_size=1 is outside \[2"),
        ({"lr_g": -1.0}, "lr_g=-1.0 is outside"),
        ({"lr_d": float("nan")}, "lr_d=nan"),
        ({"beta1": 1.0}, "beta1=1.0 is outside"),
        ({"ema": 1.0}, "ema=1.0 is outside"),
        ({"d_steps": 0}, "d_steps=0 is outside"),
        ({"g_steps": 0}, "g_steps=0 is outside"),
        ({"extra_g_steps": -1}, "extra_g_steps=-1"),
        ({"threshold": float("inf")}, "threshold=inf"),
        ({"smoothing": 0.6}, "smoothing=0.6"),
        ({"instance_noise": -0.1}, "instance_noise=-0.1"),
        ({"r1": -1.0}, "r1=-1.0"),
        ({"normalization": "batsh"}, r"unknown normalization 'batsh'; did you mean 'batch'\?"),
    ],
)
def test_a_balance_names_the_value_and_its_range(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BalanceConfig(**values)  # type: ignore[arg-type]


def test_more_updates_than_images_for_them_are_refused(digits: ImageSplits) -> None:
    model = build(GAN, GANConfig(**SMALL, d_steps=700), CAE_SHAPE, seed=0)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"d_steps=700 leaves 1 of 1150 images.*lower d_steps"):
        next(fit(model, digits, epochs=1, seed=0))
