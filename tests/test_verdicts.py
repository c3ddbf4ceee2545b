"""Verdicts on games that went wrong on purpose, and on real images."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.data.images import ImageSplits
from models.evaluation.features import Extractor
from models.evaluation.gan_diagnosis import (
    FULL_EPOCH,
    LASTING,
    STALLED,
    WARM_UP,
    Health,
    final_verdict,
    find_lost_game,
)
from models.evaluation.sample_evaluator import SampleEvaluator
from tests.generators import (
    Generator,
    black,
    memorised,
    noisy,
    of_classes,
    uniform_noise,
)

FLOOR = {
    "frechet": 1.0, "precision": 0.95, "realism": 0.6, "recall": 0.95, "coverage": 0.95,
    "diversity": 1.0, "modes": 10.0,
}  # fmt: skip
GOOD = {
    "frechet": 5.0, "precision": 0.9, "realism": 0.5, "recall": 0.7, "coverage": 0.8,
    "diversity": 0.9, "modes": 10.0,
}  # fmt: skip
NOISE = {
    "frechet": 400.0, "precision": 0.5, "realism": 0.0, "recall": 0.0, "coverage": 0.2,
    "diversity": 0.7, "modes": 6.0,
}  # fmt: skip


def game(
    *qualities: dict[str, float], real: float | None = 0.85, fake: float | None = 0.85
) -> list[Health]:
    """One epoch a quality, with D's accuracies."""
    return [
        Health(epoch=number, accuracy_real=real, accuracy_fake=fake, quality=quality)
        for number, quality in enumerate(qualities, 1)
    ]


def improving(epochs: int, start: dict[str, float] = GOOD) -> list[dict[str, float]]:
    return [{**start, "frechet": start["frechet"] * 0.8**epoch} for epoch in range(epochs)]


@pytest.mark.parametrize(
    ("generate", "kind", "modes"),
    [
        (of_classes(3), "collapsed", 1),
        (of_classes(1, 3, 8), "collapsed", 3),
        (memorised(16), "collapsed", None),
        (memorised(16, noise=0.02), "collapsed", None),
        (memorised(64), "collapsed", 10),
        (black, "collapsed", None),  # which class it is taken for is the classifier's own
        (uniform_noise, "collapsed", None),
        (noisy(0.0), "healthy", 10),
        (noisy(0.1), "healthy", 10),
    ],
)
def test_samples_alone_tell_a_collapse(
    judge: SampleEvaluator, digits: ImageSplits, generate: Generator, kind: str, modes: int | None
) -> None:
    quality = judge(generate(digits.train, judge.count))
    history = game(*[quality] * 6, real=None, fake=None)
    verdict = final_verdict(history, judge.floor)
    assert verdict.kind == kind, verdict
    assert verdict.epoch == 1
    assert modes is None or verdict.modes == modes
    early = find_lost_game(history, judge.floor)
    assert (early is not None) == (kind == "collapsed")


def test_held_out_images_are_healthy(extractor: Extractor, digits: ImageSplits) -> None:
    judge = SampleEvaluator(extractor, digits, count=len(digits.test))
    quality = judge(digits.test.batch(slice(None)).images)
    assert final_verdict(game(quality), judge.floor).kind == "healthy"


def test_noise_under_a_certain_discriminator_is_a_game_that_d_won(
    judge: SampleEvaluator, digits: ImageSplits
) -> None:
    quality = judge(uniform_noise(digits.train, judge.count))
    verdict = final_verdict(game(*[quality] * 6, real=1.0, fake=1.0), judge.floor)
    assert (verdict.kind, verdict.epoch) == ("d_won", 1 + STALLED)
    assert "D tells 100.0% of the real images and 100.0% of the samples" in verdict.reason


@pytest.mark.parametrize(("real", "fake"), [(0.97, 0.01), (0.5, 0.5), (0.0, 1.0)])
def test_noise_that_is_taken_for_real_is_a_game_that_g_won(
    judge: SampleEvaluator, digits: ImageSplits, real: float, fake: float
) -> None:
    quality = judge(uniform_noise(digits.train, judge.count))
    history = game(*[quality] * 6, real=real, fake=fake)
    assert final_verdict(history, judge.floor).kind == "g_won"
    pruned = find_lost_game(history, judge.floor)
    assert pruned is not None
    assert pruned.kind == "g_won"


def test_a_certain_discriminator_is_no_defeat_while_samples_get_better() -> None:
    history = game(*improving(10), real=1.0, fake=1.0)
    assert final_verdict(history, FLOOR).kind == "healthy"
    stalled = game(*[NOISE] * 10, real=1.0, fake=1.0)
    verdict = final_verdict(stalled, FLOOR)
    assert (verdict.kind, verdict.epoch) == ("d_won", 1 + STALLED)


def test_a_certain_critic_before_good_samples_is_no_defeat() -> None:
    """Wasserstein's critic is to tell all apart, and goes on to teach."""
    history = game(*[GOOD] * 10, real=1.0, fake=1.0)
    assert final_verdict(history, FLOOR).kind == "healthy"
    assert find_lost_game(history, FLOOR) is None


def test_a_blind_discriminator_before_good_samples_is_the_aim_of_the_game() -> None:
    history = game(*[GOOD] * 10, real=0.5, fake=0.5)
    assert final_verdict(history, FLOOR).kind == "healthy"
    assert find_lost_game(history, FLOOR) is None


def test_a_healthy_game_names_its_best_epoch() -> None:
    qualities = [{**GOOD, "frechet": value} for value in (9.0, 4.0, 6.0)]
    verdict = final_verdict(game(*qualities), FLOOR)
    assert (verdict.kind, verdict.epoch, verdict.modes) == ("healthy", 2, 10)
    assert str(verdict).startswith("healthy in epoch 2: frechet 4, ")


def test_a_collapse_is_dated_to_where_it_began() -> None:
    collapsed = {**GOOD, "modes": 3.0, "frechet": 60.0}
    history = game(*improving(5), *[collapsed] * 4)
    verdict = final_verdict(history, FLOOR)
    assert (verdict.kind, verdict.epoch, verdict.modes) == ("collapsed", 6, 3)
    assert verdict.reason.startswith("3 of 10 modes left")


def test_a_game_that_recovers_is_healthy() -> None:
    collapsed = {**GOOD, "modes": 1.0}
    assert final_verdict(game(GOOD, collapsed, collapsed, GOOD), FLOOR).kind == "healthy"


def test_samples_that_come_to_show_their_labels_get_better() -> None:
    """Those of a StarGAN are as close to all real images at once as never again when it still
    copies them."""
    copies, unreal = {**GOOD, "frechet": 0.5, "label_frechet": 900.0}, {**NOISE, "modes": 10.0}
    falling = [{**unreal, "frechet": 9.0, "label_frechet": 800 * 0.8**epoch} for epoch in range(9)]
    assert find_lost_game(game(copies, *falling, real=0.99, fake=0.99), FLOOR) is None
    verdict = final_verdict(game(copies, *falling, real=0.9, fake=0.9), FLOOR)
    assert verdict.epoch == 10
    assert "label_frechet 134" in verdict.reason
    stuck = [{**each, "label_frechet": 800.0} for each in falling]
    lost = find_lost_game(game(copies, *stuck, real=0.99, fake=0.99), FLOOR)
    assert lost is not None
    assert lost.kind == "d_won"


def test_only_what_lasts_is_hopeless() -> None:
    collapsed = {**GOOD, "modes": 1.0, "frechet": 60.0}
    assert find_lost_game([], FLOOR) is None
    before = improving(WARM_UP)
    for epochs in range(1, LASTING):
        assert find_lost_game(game(*before, *[collapsed] * epochs), FLOOR) is None
    verdict = find_lost_game(game(*before, *[collapsed] * LASTING), FLOOR)
    assert verdict is not None
    assert (verdict.kind, verdict.epoch) == ("collapsed", WARM_UP + 1)


def test_a_lost_game_is_hopeless_in_whatever_way_it_is_lost() -> None:
    unreal = {**NOISE, "coverage": 0.0}
    history = [
        *game(*[unreal] * 4, real=0.9, fake=0.9),  # collapsed
        Health(epoch=5, accuracy_real=1.0, accuracy_fake=1.0, quality=unreal),
    ]
    verdict = find_lost_game(history, FLOOR)
    assert verdict is not None
    assert (verdict.kind, verdict.epoch) == ("d_won", 5)


def test_the_first_epochs_are_never_pruned() -> None:
    noise = {**GOOD, "modes": 0.0, "coverage": 0.0, "frechet": 500.0}
    assert find_lost_game(game(*[noise] * WARM_UP), FLOOR) is None
    assert find_lost_game(game(*[noise] * (WARM_UP + 1)), FLOOR) is not None


def test_a_set_of_few_steps_an_epoch_has_as_many_steps_before_anything_is_pruned() -> None:
    noise = {**GOOD, "modes": 0.0, "frechet": 500.0}
    first = WARM_UP * 4 + 1  # epochs of a quarter as many steps
    steps = FULL_EPOCH // 4
    assert find_lost_game(game(*[noise] * (first - 1)), FLOOR, steps=steps) is None
    assert find_lost_game(game(*[noise] * first), FLOOR, steps=steps) is not None
    longer = [*improving(first), *[noise] * (LASTING * 4 - 1)]
    assert find_lost_game(game(*longer), FLOOR, steps=steps) is None
    assert find_lost_game(game(*longer, noise), FLOOR, steps=steps) is not None
    assert find_lost_game(game(*longer), FLOOR, steps=FULL_EPOCH) is not None


def test_strays_in_every_class_do_not_hide_that_one_has_nearly_all() -> None:
    crowded = {**GOOD, "class_kl": 1.5}
    verdict = final_verdict(game(crowded), {**FLOOR, "class_kl": 0.01})
    assert (verdict.kind, verdict.modes) == ("collapsed", 10)
    assert verdict.reason.startswith("most samples in few classes: class_kl 1.50 nats")
    balanced = {**GOOD, "class_kl": 0.5}
    assert final_verdict(game(balanced), {**FLOOR, "class_kl": 0.01}).kind == "healthy"


def test_a_game_that_goes_on_before_it_makes_anything_real_says_so() -> None:
    young = {**NOISE, "modes": 8.0}
    verdict = final_verdict(game(young), FLOOR)
    assert verdict.kind == "healthy"
    assert verdict.reason.startswith("neither side has won, but few samples look real yet")


def test_a_collapse_that_mends_goes_on() -> None:
    collapsed = {**GOOD, "modes": 4.0}
    assert find_lost_game(game(*improving(10, collapsed)), FLOOR) is None


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("make", [
    lambda value: Health(epoch=3, loss_g=value, quality=GOOD),
    lambda value: Health(epoch=3, gradient_d=value, quality=GOOD),
    lambda value: Health(epoch=3, quality={name: float(value) for name in GOOD}),
])  # fmt: skip
def test_what_is_not_finite_has_diverged_at_once(
    make: Callable[[float], Health], value: float
) -> None:
    history = [*game(GOOD, GOOD), make(value)]
    verdict = find_lost_game(history, FLOOR)
    assert verdict is not None
    assert (verdict.kind, verdict.epoch) == ("diverged", 3)
    assert "not finite" in verdict.reason
    assert final_verdict(history, FLOOR) == verdict


def test_health_is_read_from_an_epochs_metrics() -> None:
    health = Health.of(
        4,
        {"loss_d": 0.5, "accuracy_fake": 0.9, "spread": 0.3},
        {"loss_d": 0.7, "frechet": 3.0, "modes": 10.0},
    )
    assert (health.epoch, health.loss_d, health.accuracy_fake) == (4, 0.5, 0.9)
    assert health.quality == {"frechet": 3.0, "modes": 10.0}
    assert health.accuracy_real is None
    assert health.numbers == {
        "loss_d": 0.5, "accuracy_fake": 0.9, "frechet": 3.0, "modes": 10.0
    }  # fmt: skip


def test_a_set_without_classes_is_judged_by_what_is_covered() -> None:
    floor = {name: value for name, value in FLOOR.items() if name != "modes"}
    good = {name: value for name, value in GOOD.items() if name != "modes"}
    assert final_verdict(game(good), floor).modes is None
    verdict = final_verdict(game({**good, "coverage": 0.01}), floor)
    assert (verdict.kind, verdict.modes) == ("collapsed", None)
    assert verdict.reason.startswith("coverage 0.010, real images 0.950")


def test_a_record_comes_back_from_plain_values() -> None:
    health = Health.of(3, {"loss_g": 0.5, "seconds": 1.0}, {"frechet": 2.0})
    assert Health.from_plain(json.loads(json.dumps(health.to_plain()))) == health


def test_nothing_cannot_be_judged() -> None:
    with pytest.raises(ValueError, match="no epoch has ended"):
        final_verdict([], FLOOR)


SHARES = st.floats(0, 1)
QUALITIES = st.fixed_dictionaries(
    {
        "frechet": st.floats(0, 1e6), "precision": SHARES, "realism": SHARES, "recall": SHARES,
        "coverage": SHARES, "diversity": st.floats(0, 5), "modes": st.integers(0, 10).map(float),
    }
)  # fmt: skip
EPOCHS = st.lists(st.tuples(QUALITIES, SHARES, SHARES), min_size=1, max_size=12)


@given(EPOCHS)
def test_every_game_ends_with_one_verdict_and_what_is_hopeless_is_never_healthy(
    epochs: list[tuple[dict[str, float], float, float]],
) -> None:
    history = [
        Health(epoch=number, accuracy_real=real, accuracy_fake=fake, quality=quality)
        for number, (quality, real, fake) in enumerate(epochs, 1)
    ]
    verdict = final_verdict(history, FLOOR)
    assert 1 <= verdict.epoch <= len(history)
    assert verdict.reason
    pruned = find_lost_game(history, FLOOR)
    assert pruned is None or pruned == verdict
    assert pruned is None or pruned.kind != "healthy"
