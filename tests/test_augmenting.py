"""Augmentation of what a discriminator sees: each kind by hand, gradients, the adaptive rule."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.training.augmenting import (
    INTERVAL,
    Augmentation,
    change_brightness,
    change_contrast,
    change_saturation,
    cut_out,
    read_policy,
    shift_images,
)

ALL = "flip,colour,translation,cutout"


def random_images(count: int = 6, channels: int = 3, height: int = 8, width: int = 12) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, channels, height, width, generator=generator) * 2 - 1


def always(policy: str) -> Augmentation:
    return Augmentation(policy, target=0.0, images=1)


def test_colours_change_as_in_the_formulas() -> None:
    images, drawn = random_images(2), torch.tensor([0.25, 1.0])
    for i, u in enumerate(drawn.tolist()):
        image = images[i]
        torch.testing.assert_close(change_brightness(images, drawn)[i], image + u - 0.5)
        grey = (image[0] + image[1] + image[2]) / 3
        wanted = torch.stack([(channel - grey) * 2 * u + grey for channel in image])
        torch.testing.assert_close(change_saturation(images, drawn)[i], wanted)
        middle = image.sum() / image.numel()
        wanted = (image - middle) * (u + 0.5) + middle
        torch.testing.assert_close(change_contrast(images, drawn)[i], wanted)
    grey_images = images[:, :1]
    torch.testing.assert_close(change_saturation(grey_images, drawn), grey_images)


def test_images_move_by_whole_pixels_and_zeros_come_in() -> None:
    images = random_images(3)
    moved = shift_images(images, torch.tensor([0, 1, -1]), torch.tensor([0, -2, 1]))
    expected = torch.zeros_like(images)
    expected[0] = images[0]
    expected[1, :, 1:, :-2] = images[1, :, :-1, 2:]
    expected[2, :, :-1, 1:] = images[2, :, 1:, :-1]
    assert torch.equal(moved, expected)


def test_a_square_of_half_of_each_side_is_cut_out_and_may_hang_over_the_edge() -> None:
    images = torch.ones(3, 2, 8, 12)
    cut = cut_out(images, torch.tensor([0.0, 0.5, 0.999]), torch.tensor([0.0, 0.5, 0.999]))
    expected = images.clone()
    expected[0, :, :2, :3] = 0  # 4 x 6 around the first corner: a quarter of it is inside
    expected[1, :, 2:6, 3:9] = 0  # around (4, 6)
    expected[2, :, 6:, 9:] = 0  # around (8, 12), the far corner
    assert torch.equal(cut, expected)


def test_each_image_is_varied_its_own_way_within_bounds() -> None:
    torch.manual_seed(0)
    images = torch.ones(400, 1, 16, 16)
    moved = always("translation")(images)
    rows = (moved[:, 0].amax(2) == 0).sum(1)  # that came in
    assert set(rows.tolist()) == {0, 1, 2}  # an eighth of 16
    cut = always("cutout")(images)
    share = (cut == 0).float().mean((1, 2, 3))
    assert 1 / 16 <= float(share.min()) < float(share.max()) == 1 / 4
    sides = torch.ones(400, 1, 2, 2)
    sides[..., 0] = -1
    mirrored = always("flip")(sides)[:, 0, :, 0] == 1
    assert 0.4 < float(mirrored.float().mean()) < 0.6
    light = always("colour")(images)[:, 0, 0, 0]  # brightness alone changes what is all alike
    assert -0.5 <= float(light.min()) - 1 < -0.4
    assert 0.4 < float(light.max()) - 1 <= 0.5


@pytest.mark.parametrize("policy", ["flip", "colour", "translation", "cutout", ALL])
def test_gradients_flow_to_the_images_as_finite_differences_say(policy: str) -> None:
    augmentation = always(policy)
    images = random_images(2, 2, 4, 4).double().requires_grad_()

    def varied(images: Tensor) -> Tensor:
        torch.manual_seed(3)  # the same variations each time
        return augmentation(images)

    assert torch.autograd.gradcheck(varied, (images,))
    assert torch.autograd.gradgradcheck(varied, (images,))


def test_what_is_real_and_what_is_fake_is_varied_alike() -> None:
    augmentation, images = always(ALL), random_images()
    torch.manual_seed(5)
    real = augmentation(images)
    torch.manual_seed(5)
    assert torch.equal(real, augmentation(images.clone()))
    assert not torch.equal(real, augmentation(images))


def adaptive(chance: float, *, target: float = 0.6, images: int = 1000) -> Augmentation:
    augmentation = Augmentation(ALL, target=target, images=images)
    augmentation.chance.fill_(chance)
    return augmentation


def test_images_are_varied_with_the_chance_of_the_time() -> None:
    torch.manual_seed(0)
    images = random_images(4000, 1, 4, 4)
    assert torch.equal(adaptive(0.0)(images), images)
    for policy, chance in (("cutout", 0.3), ("cutout", 1.0)):
        augmentation = Augmentation(policy, target=0.6, images=1)
        augmentation.chance.fill_(chance)
        changed = (augmentation(images) != images).flatten(1).any(1).float().mean()
        assert float(changed) == pytest.approx(chance, abs=0.03)


def test_the_chance_follows_the_mean_sign_of_four_updates() -> None:
    augmentation = adaptive(0.5)
    sure, unsure = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.1], [-3.0]])  # r = 1 and 0
    chances = []
    for real in [sure] * 4 + [unsure] * 4 + [sure, sure, unsure, unsure] + [sure] * 3:
        augmentation.observe(real, 50)
        chances.append(round(float(augmentation.chance), 6))
    step = 50 * INTERVAL / 1000
    assert chances[:3] == [0.5] * 3
    assert chances[3:7] == pytest.approx([0.5 + step] * 4)
    assert chances[7:11] == pytest.approx([0.5] * 4)
    assert chances[11:] == pytest.approx([0.5 - step] * 4)  # 0.5 is below the target of 0.6
    assert (float(augmentation.signs), float(augmentation.updates)) == (3.0, 3.0)


def test_the_chance_stays_a_chance() -> None:
    for sign, end in ((1.0, 1.0), (-1.0, 0.0)):
        augmentation = adaptive(0.5, images=10)
        for _ in range(2 * INTERVAL):
            augmentation.observe(torch.full((3, 1), sign), 100)
        assert float(augmentation.chance) == end


def test_what_does_not_adapt_has_no_state() -> None:
    augmentation = always(ALL)
    augmentation.observe(torch.ones(2, 1), 2)
    assert not augmentation.state_dict()


def test_a_policy_names_kinds_in_any_order() -> None:
    assert read_policy("none") == ()
    assert read_policy("cutout,colour") == ("colour", "cutout")
