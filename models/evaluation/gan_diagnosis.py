"""The diagnosis of a GAN's training: whether its generator G and discriminator D still learn.

    history = [Health(epoch=1, ...), Health(epoch=2, ...), ...]
    verdict = find_lost_game(history, evaluator.floor)     # after each epoch: prune if there is one
    verdict = final_verdict(history, evaluator.floor)

    healthy    none of the others
    collapsed  the samples are images of few classes, or few images over and over
    d_won      D tells nearly all samples from real images, and the samples look unreal and no
               longer improve
    g_won      D takes nearly all samples for real, or sees no difference, while they look unreal
    diverged   a number is NaN or infinite

The losses alone are not enough. D's loss is small when training goes well, and also when D is too
strong for G to learn. So D or G has won only if D's accuracies say so and the samples look unreal
and do not improve. A collapse is seen in the samples. Accuracies alone are not enough either: with
Wasserstein's loss D is meant to tell all samples from real images, and still teaches G. One bad
epoch may be followed by a good one, so a training counts as lost only if it stays bad.

Samples improve if their Fréchet distance falls. For samples that are to show labels, it is the
distance label by label: a StarGAN begins with copies of real images, and no other samples are as
close to all images at once.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from typing import Any

from models.evaluation.measures import ALL_MEASURES, LABEL_MEASURES

KNOWN = (*ALL_MEASURES, *LABEL_MEASURES)


class Kind(StrEnum):
    """The verdicts; their values are the words that databases and checkpoints hold."""

    HEALTHY = "healthy"
    COLLAPSED = "collapsed"
    D_WON = "d_won"
    G_WON = "g_won"
    DIVERGED = "diverged"


WORDS: dict[str, str] = {  # for people
    Kind.HEALTHY: "healthy",
    Kind.COLLAPSED: "collapsed",
    Kind.D_WON: "D won",
    Kind.G_WON: "G won",
    Kind.DIVERGED: "diverged",
}

# Collapse, in the samples' measures; each relative to those of real images (the floor).
FEW_MODES = 0.5  # of the classes: half of the digits may be hard; more are not missing by chance
CROWDED = math.log(2)  # nats of class_kl above real images': as if half of the classes were gone
LITTLE_COVERAGE = 0.1  # of the real images' coverage: a good DCGAN has 0.7 of it
LITTLE_DIVERSITY = 0.2  # repeated images have 0; ten clean classes without strays about 0.8
# Training that D or G has won. A small DCGAN's D was measured to tell 0.99 of MNIST apart in its
# first two epochs and 0.92 to 0.95 from then on; with a hundred times G's rate it stayed at 0.98
# to 1.
D_CERTAIN = 0.97  # D gets this share of both kinds right: G learns from hardly any sample
D_FOOLED = 0.05  # D tells only this share of the samples: it is of no use to G
D_BLIND = 0.02  # D's mean accuracy is as near to 0.5: it could as well toss a coin
UNREAL = 0.25  # of the real images' realism: such samples should fool nobody
BETTER = 0.95  # of the best Fréchet distance before: a smaller gain is noise of the measure
STALLED = 3  # epochs without a better distance
# Pruning. Where an epoch has fewer than FULL_EPOCH steps, so many more epochs are waited for that
# they have as many steps. On 612 images with 61 steps an epoch, an ACGAN made noise for 1,000 steps
# (a distance of 103 in epoch 13), and then came from 60 in epoch 19 to 11 in epoch 60.
WARM_UP = 3  # epochs in which nothing is pruned: every generator begins with noise
LASTING = 3  # epochs in a row that must be bad
FULL_EPOCH = 400  # steps


@dataclass(frozen=True, kw_only=True)
class Health:
    """What an epoch of a GAN's training recorded; None means that it was not measured.

    accuracy_real, accuracy_fake: share of real images, and of samples, that D gets right
    loss_d, loss_g, gradient_d, gradient_g: means over steps; norms of the gradients
    quality: measures of the samples (`models.evaluation.sample_evaluator.SampleEvaluator`)
    """

    epoch: int
    accuracy_real: float | None = None
    accuracy_fake: float | None = None
    loss_d: float | None = None
    loss_g: float | None = None
    gradient_d: float | None = None
    gradient_g: float | None = None
    quality: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls, epoch: int, train: Mapping[str, float], valid: Mapping[str, float] | None = None
    ) -> Health:
        """Return the record of what an epoch measured, by name: in its training, and after it."""
        names = {item.name for item in fields(cls)} - {"epoch", "quality"}
        known = {name: value for name, value in train.items() if name in names}
        quality = {name: value for name, value in (valid or {}).items() if name in KNOWN}
        return cls(epoch=epoch, quality=quality, **known)

    def to_plain(self) -> dict[str, Any]:
        """Return the record as JSON takes it."""
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Health:
        """Return the record that `to_plain` made ``plain`` of."""
        return cls(**plain)

    @property
    def numbers(self) -> dict[str, float]:
        """Everything that was measured, by name."""
        own = {item.name: getattr(self, item.name) for item in fields(self)}
        own = {name: value for name, value in own.items() if isinstance(value, float)}
        return {**own, **self.quality}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The diagnosis of a training.

    epoch: since when it holds; of a healthy training the best epoch
    reason: one line; modes: classes left, where they can be counted
    """

    kind: Kind
    epoch: int
    reason: str
    modes: int | None = None

    def __str__(self) -> str:
        return f"{self.words} in epoch {self.epoch}: {self.reason}"

    @property
    def words(self) -> str:
        """The verdict as people read it."""
        return WORDS[self.kind]


def final_verdict(history: Sequence[Health], floor: Mapping[str, float]) -> Verdict:
    """Return the verdict on a training that has ended, by the state it ended in.

    history: one epoch or more

    floor: the measures of real images, `models.evaluation.sample_evaluator.SampleEvaluator.floor`
    """
    if not history:
        raise ValueError("no epoch has ended: there is nothing to diagnose")
    verdict, _ = _lasting_verdict(history, floor)
    if verdict is not None:
        return verdict
    best = min(history, key=_distance_of)
    measures = ("frechet", *LABEL_MEASURES, "realism", "recall", "coverage")
    shown = _in_words(best, measures)
    if _looks_unreal(best, floor):
        shown = f"neither side has won, but few samples look real yet; {shown}"
    return Verdict(
        kind=Kind.HEALTHY, epoch=best.epoch, reason=shown, modes=_mode_count(history[-1])
    )


def find_lost_game(
    history: Sequence[Health], floor: Mapping[str, float], *, steps: int = FULL_EPOCH
) -> Verdict | None:
    """Return why a training need not go on, or None.

    It is lost when what is bad has lasted and the samples do not get better.

    steps: of an epoch, >= 1
    """
    if not history:
        return None
    verdict, bad = _lasting_verdict(history, floor)
    if verdict is None or verdict.kind == Kind.DIVERGED:
        return verdict
    longer = math.ceil(FULL_EPOCH / steps)
    if history[-1].epoch <= WARM_UP * longer or bad < LASTING * longer:
        return None
    return verdict if _has_stalled(history, STALLED * longer) else None


def epoch_verdicts(history: Sequence[Health], floor: Mapping[str, float]) -> list[Kind]:
    """Return the verdict of each epoch, from what was known then.

    Poor samples at the beginning that got better were no collapse: every generator begins with
    noise.
    """
    found = [_last_epoch_verdict(history[: end + 1], floor) for end in range(len(history))]
    kinds: list[Kind] = [Kind.HEALTHY if verdict is None else verdict.kind for verdict in found]
    poor = len(list(itertools.takewhile(lambda kind: kind == Kind.COLLAPSED, kinds)))
    if kinds[poor : poor + 1] == [Kind.HEALTHY]:
        kinds[:poor] = [Kind.HEALTHY] * poor
    return kinds


def _lasting_verdict(
    history: Sequence[Health], floor: Mapping[str, float]
) -> tuple[Verdict | None, int]:
    """Return the verdict of the last epoch, dated back to where that kind began, and how many
    epochs in a row have been bad in any way: a lost training may go from one way to another."""
    verdicts = [_last_epoch_verdict(history[: end + 1], floor) for end in range(len(history))]
    bad = [v for v in itertools.takewhile(lambda v: v is not None, reversed(verdicts)) if v]
    if not bad:
        return None, 0
    same = list(itertools.takewhile(lambda v: v.kind == bad[0].kind, bad))
    if bad[0].kind == Kind.DIVERGED:
        return same[-1], len(bad)  # what broke first says more than what broke after it
    return replace(bad[0], epoch=same[-1].epoch), len(bad)


def _last_epoch_verdict(history: Sequence[Health], floor: Mapping[str, float]) -> Verdict | None:
    """Return what is bad in the last epoch of ``history``, or None."""
    health = history[-1]
    broken = [name for name, value in health.numbers.items() if not math.isfinite(value)]
    if broken:
        reason = f"{', '.join(broken)} not finite"
        return Verdict(kind=Kind.DIVERGED, epoch=health.epoch, reason=reason)
    winner = None
    if _looks_unreal(health, floor) and _has_stalled(history):
        winner = _find_winner(health)  # it explains samples of noise better than a collapse
    return winner or _find_collapse(health, floor)


def _find_collapse(health: Health, floor: Mapping[str, float]) -> Verdict | None:
    """Return the verdict if the samples are few kinds of images, or None."""
    found, quality = [], health.quality
    modes, all_modes = quality.get("modes"), floor.get("modes", 0.0)
    if modes is not None and modes <= FEW_MODES * all_modes:
        found.append(f"{modes:.0f} of {all_modes:.0f} modes left")
    elif quality.get("class_kl", 0.0) > CROWDED + floor.get("class_kl", 0.0):
        found.append(f"most samples in few classes: class_kl {quality['class_kl']:.2f} nats")
    for name, share in (("coverage", LITTLE_COVERAGE), ("diversity", LITTLE_DIVERSITY)):
        if name in quality and quality[name] < share * floor[name]:
            found.append(f"{name} {quality[name]:.3f}, real images {floor[name]:.3f}")
    if not found:
        return None
    reason = "; ".join([*found, _in_words(health, ("realism", "recall"))])
    return Verdict(
        kind=Kind.COLLAPSED, epoch=health.epoch, reason=reason, modes=_mode_count(health)
    )


def _find_winner(health: Health) -> Verdict | None:
    """Return the verdict if D or G has won while samples look unreal and do not improve."""
    real, fake = health.accuracy_real, health.accuracy_fake
    if real is None or fake is None:
        return None
    accuracies = f"D tells {real:.1%} of the real images and {fake:.1%} of the samples"
    shown = _in_words(health, ("loss_d", "loss_g", "frechet", "label_frechet", "realism"))
    reason = f"{accuracies}, and no better samples for {STALLED} epochs; {shown}"
    if min(real, fake) >= D_CERTAIN:
        return Verdict(
            kind=Kind.D_WON, epoch=health.epoch, reason=reason, modes=_mode_count(health)
        )
    blind = abs((real + fake) / 2 - 0.5) <= D_BLIND
    if fake <= D_FOOLED or blind:
        return Verdict(
            kind=Kind.G_WON, epoch=health.epoch, reason=reason, modes=_mode_count(health)
        )
    return None


def _looks_unreal(health: Health, floor: Mapping[str, float]) -> bool:
    """Return True if few samples look real; where that is unknown, False."""
    realism = health.quality.get("realism")
    return realism is not None and realism < UNREAL * floor["realism"]


def _has_stalled(history: Sequence[Health], epochs: int = STALLED) -> bool:
    """Return True if the last ``epochs`` brought no clearly better Fréchet distance."""
    values = [_distance_of(health) for health in history]
    before, recent = values[:-epochs], values[-epochs:]
    return bool(before) and min(recent) > BETTER * min(before)


def _distance_of(health: Health) -> float:
    """Return the Fréchet distance by which samples get better; infinity where there is none."""
    quality = health.quality
    return quality.get("label_frechet", quality.get("frechet", math.inf))


def _mode_count(health: Health) -> int | None:
    """Return how many modes were counted, or None."""
    modes = health.quality.get("modes")
    return None if modes is None or not math.isfinite(modes) else round(modes)


def _in_words(health: Health, names: Sequence[str]) -> str:
    """Return the named numbers of an epoch for a reason."""
    numbers = health.numbers
    return ", ".join(f"{name} {numbers[name]:.3g}" for name in names if name in numbers)
