"""The evaluator of samples that were given labels: do they show them, as real images do?

    evaluator = LabelEvaluator(extractor, images, count=5000)
    evaluator.measure_model(model, images)   # {"label_frechet": 21.3, "label_accuracy": 0.97, ...}
    evaluator.floor                          # the measures of real images

Each class is a group, and so is each side of an attribute. An attribute is measured on both sides
or not at all: else a model that always shows the commoner side would look as if it heeded labels.
A model makes images with the labels of the held-out images of a group; a model that translates
images begins with training images that are not of it. What it makes is compared with the held-out
images of that group alone.

    label_frechet     mean over the groups of the Fréchet distance; lower is better
    label_accuracy    share of samples that show their group's label, mean over the groups
    label_worst       the smallest of these shares

The floor has the distance of real training images, and the shares of held-out images, which the
classifier was not trained on.

A generator that copies its input, ignores its label or knows one image for each label fails at
least one of them. A classifier that was trained on real images alone decides which labels an
image shows, and never the discriminator against which the generator was trained.

Shape legend: N images, L labels, D features, G groups.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from models.base import Model, evaluating
from models.conditional_gan import (
    LabelledConfig,
    LabelledGAN,
    Labels,
    fit_config_to_labels,
    label_names,
)
from models.data.images import PARTS, Batch, Images, ImageSplits
from models.data.mixed_rows import mixed_rows
from models.errors import DataError
from models.evaluation.features import ExtractedFeatures, Extractor
from models.evaluation.frechet import Moments, frechet_distance
from models.evaluation.measures import LABEL_MEASURES
from models.kernels.fast_convolution import fast_convolutions
from models.results import Table
from models.seeds import same_draws

FEWEST = 6  # held-out images of a group; fewer say nothing of how it looks
MOST_GROUPS = 40  # that are measured: of the labels whose rarest group has the most such images
LEAST = 32  # samples of a group
SHOWN = 8  # names of labels that are not measured

MakeImages = Callable[[Tensor, Tensor], Tensor]
"""``make(labels, rows)``: labels (N, L) in [0, 1] and N training images -> images (N, C, H, W)."""


@dataclass(frozen=True, kw_only=True)
class LabelGroup:
    """The images of one class, or of one side of an attribute.

    label: its number in L; upper: the side; classes are always the upper one
    wanted: labels of the held-out images of the group (N, L)
    rows: training images that are not of it, from which a translation begins (N,)
    own: training images of it (N,)
    moments: of the held-out images' features
    told: share of the held-out images that show the label to a classifier that has not learnt them
    """

    name: str
    label: int
    upper: bool
    wanted: Tensor
    rows: Tensor
    own: Tensor
    moments: Moments
    told: float

    def shown_by(self, seen: ExtractedFeatures) -> float:
        """Return the share of images that show the group's label."""
        return _share_showing(seen, self.label, upper=self.upper)


def _share_showing(seen: ExtractedFeatures, label: int, *, upper: bool) -> float:
    """Return the share of images that show a class, or an attribute's upper or lower side."""
    if seen.attributes is not None:
        return float((seen.attributes[:, label] == upper).double().mean())
    assert seen.classes is not None
    return float((seen.classes == label).double().mean())


def _shares(shown: Sequence[float]) -> dict[str, float]:
    """Return the measures that follow from the share of each group that shows its label."""
    return {"label_accuracy": sum(shown) / len(shown), "label_worst": min(shown)}


class LabelEvaluator:
    """Measures a model that makes images with labels, group by group.

    extractor: tells the classes of images, or their attributes
    count: samples that it takes in all, about: each group gets as many

    Raises `DataError` where no group has enough images.
    """

    def __init__(
        self, extractor: Extractor, images: ImageSplits, *, part: str = "valid", count: int
    ) -> None:
        self.extractor, self.part = extractor, part
        self.unmeasured = unmeasured_labels(images, part)
        self.groups = _make_groups(extractor, images, part, count)
        self._real = [extractor(images.train.pixels[group.own]) for group in self.groups]
        self.floor = self._measure(self._real) | _shares([group.told for group in self.groups])

    def measure_model(self, model: Model, images: ImageSplits) -> dict[str, float]:
        """Return the measures of a model's images, drawn with the same random numbers always."""
        assert isinstance(model, LabelledGAN)
        with same_draws(model.device), evaluating(model), fast_convolutions(model):
            return self.measure(lambda labels, rows: model.made_with(labels, images, rows))

    def measure(self, make: MakeImages) -> dict[str, float]:
        """Return the measures of what ``make`` makes; all are NaN where it is not finite."""
        return self._measure([seen for _, seen in self._see(make)])

    def measure_groups(self, make: MakeImages) -> list[tuple[str, float, float]]:
        """Return each group's name, Fréchet distance and share of samples that show its label."""
        return [
            (group.name, self._distance(group, seen), group.shown_by(seen))
            for group, seen in self._see(make)
        ]

    def table(self, model: Model, images: ImageSplits) -> Table:
        """Return a row for each label: what a model's images show, and what real ones do."""
        assert isinstance(model, LabelledGAN)
        with same_draws(model.device), evaluating(model), fast_convolutions(model):
            made = self.measure_groups(lambda labels, rows: model.made_with(labels, images, rows))
        real = [
            (self._distance(group, seen), group.told, len(seen))
            for group, seen in zip(self.groups, self._real, strict=True)
        ]
        accuracy, names = self.extractor.accuracy, ", ".join(self.unmeasured[:SHOWN])
        more = f" and {len(self.unmeasured) - SHOWN} more" if self.unmeasured[SHOWN:] else ""
        left = f" Not measured, as they have the fewest images: {names}{more}." if names else ""
        tells = "" if accuracy is None else f", which gets {accuracy:.1%} of them right"
        return Table(
            name="labels",
            title="Do samples show their labels?",
            columns=("label", "samples", "Fréchet", "training images", "shown", "held-out images"),
            rows=tuple(
                (name, count, round(distance, 2), round(floor, 2), f"{shown:.1%}", f"{told:.1%}")
                for (name, distance, shown), (floor, told, count) in zip(made, real, strict=True)
            ),
            note=f"Samples that were to have a label, beside {PARTS[self.part]} images that have "
            f"it. A classifier of real images ({self.extractor.hash[:16]}{tells}) decides which "
            "label a sample shows, and not the discriminator. The distance of training images and "
            "the share of held-out images, which the classifier was not trained on, stand beside "
            f"what samples have.{left}",
            seeds=1,
            measured_on="as many samples as the row says",
        )

    @property
    def record(self) -> dict[str, Any]:
        """What tells if two values can be compared, as JSON takes it."""
        counts = {group.name: len(group.wanted) for group in self.groups}
        return {"label_extractor": self.extractor.hash, "label_samples": counts}

    def _see(self, make: MakeImages) -> list[tuple[LabelGroup, ExtractedFeatures]]:
        return [(group, self.extractor(make(group.wanted, group.rows))) for group in self.groups]

    def _measure(self, seen: list[ExtractedFeatures]) -> dict[str, float]:
        pairs = list(zip(self.groups, seen, strict=True))
        distances = [self._distance(group, found) for group, found in pairs]
        shown = [group.shown_by(found) for group, found in pairs]
        if any(distance != distance for distance in distances):
            return dict.fromkeys(LABEL_MEASURES, float("nan"))
        return {"label_frechet": sum(distances) / len(distances)} | _shares(shown)

    def _distance(self, group: LabelGroup, seen: ExtractedFeatures) -> float:
        if not bool(seen.features.isfinite().all()):
            return float("nan")
        return frechet_distance(group.moments, Moments.of(seen.features))


def label_sides(images: ImageSplits, part: str) -> Tensor:
    """Return the labels of a part's images in [0, 1]: (N, L)."""
    config = fit_config_to_labels(LabelledConfig(), images)
    found: Images = getattr(images, part)
    labels = Labels(config).to(found.pixels.device)
    nothing = found.pixels[:0]  # labels need no pixels, which take seconds to read
    sides: Tensor = labels(Batch(images=nothing, labels=found.labels, attributes=found.attributes))
    return sides


class _Rows(NamedTuple):
    """Which images a group is made of: held-out ones, training images of it, and others."""

    name: str
    label: int
    upper: bool
    held: Tensor
    own: Tensor
    others: Tensor


def find_rows(images: ImageSplits, part: str) -> list[_Rows]:
    """Return the groups of the labels that are measured, those with the most held-out images first.

    Raises `DataError` where there is none.
    """
    labels = [rows for rows in _rows_of_labels(images, part) if all(map(_is_enough, rows))]
    if not labels:
        both = "" if images.train.attributes is None else " on both sides of its middle"
        raise DataError(
            f"no label of {images.name} has {FEWEST} {PARTS[part]} images or more{both}: whether "
            "samples show their labels is measured beside those; add images"
        )
    labels.sort(key=lambda rows: -min(len(side.held) for side in rows))
    most = max(MOST_GROUPS // len(labels[0]), 1)
    found = [side for rows in labels[:most] for side in rows]
    return sorted(found, key=lambda side: (-len(side.held), side.label, side.upper))


def unmeasured_labels(images: ImageSplits, part: str) -> list[str]:
    """Return the names of the labels that are not measured: their images are too few, or others
    have more."""
    measured = {rows.label for rows in find_rows(images, part)}
    return [name for label, name in enumerate(label_names(images)) if label not in measured]


def _rows_of_labels(images: ImageSplits, part: str) -> list[list[_Rows]]:
    """Return the groups of each label: of a class one, of an attribute both sides."""
    exclusive = images.train.attributes is None
    real, trained = label_sides(images, part) > 0.5, label_sides(images, "train") > 0.5
    return [
        [
            _Rows(
                name if upper else f"not {name}",
                label,
                upper,
                (real[:, label] == upper).nonzero()[:, 0],
                (trained[:, label] == upper).nonzero()[:, 0],
                (trained[:, label] != upper).nonzero()[:, 0],
            )
            for upper in ((True,) if exclusive else (False, True))
        ]
        for label, name in enumerate(label_names(images))
    ]


def _is_enough(rows: _Rows) -> bool:
    """Whether there are images enough to say how a group looks."""
    return min(len(rows.held), len(rows.own)) >= FEWEST and len(rows.others) > 0


def _make_groups(
    extractor: Extractor, images: ImageSplits, part: str, count: int
) -> list[LabelGroup]:
    found, labels = find_rows(images, part), label_sides(images, part)
    pixels = getattr(images, part).pixels
    groups = []
    for rows in found:
        held = extractor(pixels[rows.held])
        size = min(max(count // len(found), LEAST), len(rows.own))
        groups.append(
            LabelGroup(
                name=rows.name,
                label=rows.label,
                upper=rows.upper,
                wanted=labels[_repeat(mixed_rows(images, part, size, rows.held), size)],
                rows=_repeat(mixed_rows(images, "train", size, rows.others), size),
                own=mixed_rows(images, "train", size, rows.own),
                moments=Moments.of(held.features),
                told=_share_showing(held, rows.label, upper=rows.upper),
            )
        )
    return groups


def _repeat(rows: Tensor, count: int) -> Tensor:
    """Return ``count`` of the rows, from the first on again where there are fewer: (count,)."""
    return rows[torch.arange(count, device=rows.device) % len(rows)]
