"""What images must have so that something can be made of them.

    Classifier.needs(config).check(images)     # raises `DataError` in one line
    CAE.sides(config)                          # Sides(least=9, most=64): pixels

A family, a judge or a table may fail on few images, or on a class without images. Each states what
it needs here. A study checks all needs before its search: trials that cannot be exported would be
lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from models.errors import DataError

if TYPE_CHECKING:
    from models.data.images import ImageSplits

PARTS = {"train": "training", "valid": "validation", "test": "test"}


@dataclass(frozen=True, kw_only=True)
class Sides:
    """Which images a model takes.

    least, most: pixels a side. Larger images are made smaller, unless the study sets a shape
    channels: numbers of channels
    """

    least: int = 1
    most: int = 64
    channels: tuple[int, ...] = (1, 3)


@dataclass(frozen=True, kw_only=True)
class Needs:
    """The least that images must have.

    what: who needs it, as the subject of a message: ``a classifier``
    train, valid, test: images in each part
    classes: classes with a training image, 0: none are needed
    each_class: whether every class needs a training image
    or_attributes: whether attributes do as well as classes
    """

    what: str
    train: int = 1
    valid: int = 1
    test: int = 1
    classes: int = 0
    each_class: bool = False
    or_attributes: bool = False

    def check(self, images: ImageSplits) -> None:
        """Raise `DataError` unless ``images`` meet every need."""
        for part, word in PARTS.items():
            found, least = len(getattr(images, part)), getattr(self, part)
            if found < least:
                raise DataError(
                    f"{images.name} has {found} {word} {_images(found)}, but {self.what} needs "
                    f"{least} or more: add images"
                )
        if self.classes and not (self.or_attributes and images.train.attributes is not None):
            self._check_classes(images)

    def _check_classes(self, images: ImageSplits) -> None:
        counts = count_classes(images)
        seen = [name for name, found in counts.items() if found["train"]]
        other = ", or add an attributes.csv" if self.or_attributes else ""
        if len(counts) < self.classes:
            raise DataError(
                f"{images.name} has {_classes(len(counts))}, but {self.what} needs "
                f"{self.classes} or more: put the images in a folder a class{other}"
            )
        if len(seen) < (len(counts) if self.each_class else self.classes):
            name, found = next(pair for pair in counts.items() if not pair[1]["train"])
            where = " and ".join(
                f"{count} {PARTS[part]}" for part, count in found.items() if part != "train"
            )
            raise DataError(
                f"the class {name!r} of {images.name} has no training images, only {where}, but "
                f"{self.what} learns {_wanted(self)}: add images of it, or remove its folder"
            )


def count_classes(images: ImageSplits) -> dict[str, dict[str, int]]:
    """Return how many images of each class are in each part: class -> part -> images."""
    counts: dict[str, dict[str, int]] = {name: {} for name in images.classes}
    for part in PARTS:
        labels = getattr(images, part).labels
        found = [0] * len(counts)
        if labels is not None:
            found = labels.bincount(minlength=len(counts)).tolist()
        for name, count in zip(counts, found, strict=True):
            counts[name][part] = count
    return counts


def is_unclassed(images: ImageSplits) -> bool:
    """Whether the images have no classes: one folder in a folder is none."""
    return images.train.labels is None or len(images.classes) < 2


def _wanted(needs: Needs) -> str:
    return "every class from some" if needs.each_class else f"{needs.classes} classes from some"


def _images(count: int) -> str:
    return "image" if count == 1 else "images"


def _classes(count: int) -> str:
    return {0: "no classes", 1: "one class"}.get(count, f"{count} classes")
