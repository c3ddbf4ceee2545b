"""Image sets as resident uint8 tensors, split once and shared by every process.

    splits = load_images("fashion_mnist", root=Path("data"), cache=Path("runs/cache"))
    splits.train.batch(torch.arange(256)).images        # (256, 1, 28, 28) in [0, 1]

The first call decodes and splits the set and writes one safetensors file. Every later call, in any
process, maps that file into memory, so that the pixels lie in a machine's memory once however many
workers read them. On a GPU each worker moves its splits there with `to(device)`, and a batch never
leaves the device.

The training images are cut at random into 80 % train and 20 % validation (Fashion-MNIST: 48,000 and
12,000). The cut does not depend on a study's seed: values of two studies are measured on the same
images.

Shape legend: N images, C channels, H/W pixels, A attributes.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import torch
from torch import Tensor
from torch.nn import functional as F

from models.errors import DataError
from models.seeds import derive_seed

Shape = tuple[int, int, int]
"""(C, H, W) of one image."""
STACKED = "stacked_mnist"
EVALUATION_BATCH = 1024  # images; bounds memory, does not change the metric
PARTS = {"valid": "validation", "test": "test"}
VALIDATION_SHARE = 0.2

CountProgress = Callable[[int, int], None]
"""A function that is called as ``progress(done, total)`` while images are read."""


@dataclass(frozen=True, kw_only=True)
class Images:
    """pixels (N, C, H, W) uint8; labels (N,) int64 or None; attributes (N, A) float32 or None."""

    pixels: Tensor
    labels: Tensor | None = None
    attributes: Tensor | None = None

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, index: Tensor | slice) -> Batch:
        """Return the chosen images as floats in [0, 1]: (n, C, H, W) float32."""
        pixels, labels, attributes = _select_rows(self.pixels, index), self.labels, self.attributes
        return Batch(
            images=pixels.to(torch.float32).div_(255),
            labels=None if labels is None else _select_rows(labels, index),
            attributes=None if attributes is None else _select_rows(attributes, index),
        )

    def batches(self, size: int = EVALUATION_BATCH) -> Iterator[Batch]:
        """Yield all images in their order, ``size`` at once; the last batch may be smaller."""
        for first in range(0, len(self), size):
            yield self.batch(slice(first, first + size))

    def to(self, device: str | torch.device) -> Images:
        return Images(
            pixels=self.pixels.to(device),
            labels=None if self.labels is None else self.labels.to(device),
            attributes=None if self.attributes is None else self.attributes.to(device),
        )

    def take(self, index: Tensor) -> Images:
        """Return a copy of the images at ``index`` (n,)."""
        return Images(
            pixels=self.pixels[index],
            labels=None if self.labels is None else self.labels[index],
            attributes=None if self.attributes is None else self.attributes[index],
        )


def _select_rows(tensor: Tensor, index: Tensor | slice) -> Tensor:
    """Return ``tensor[index]``; for a list of rows, in a twentieth of the time."""
    return tensor[index] if isinstance(index, slice) else tensor.index_select(0, index)


@dataclass(frozen=True, kw_only=True)
class ImagePool:
    """A set as its source gives it, before the validation images are cut off."""

    train: Images
    test: Images
    classes: tuple[str, ...] = ()
    attribute_names: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ImageSplits:
    """A named set in three parts. `fingerprint` depends on the pixels, not on where they lie."""

    name: str
    fingerprint: str
    train: Images
    valid: Images
    test: Images
    classes: tuple[str, ...] = ()
    attribute_names: tuple[str, ...] = ()

    @property
    def shape(self) -> Shape:
        """(C, H, W) of one image."""
        channels, height, width = self.train.pixels.shape[1:]
        return channels, height, width

    def to(self, device: str | torch.device) -> ImageSplits:
        return replace(
            self,
            train=self.train.to(device),
            valid=self.valid.to(device),
            test=self.test.to(device),
        )


def split(pool: ImagePool, *, name: str) -> ImageSplits:
    """Cut the validation images off the training images, at random but always the same."""
    count = len(pool.train)
    held_out = round(count * VALIDATION_SHARE)
    if held_out < 1 or held_out == count or len(pool.test) < 1:
        raise DataError(
            f"{name} has {count} training and {len(pool.test)} test images: too few to split "
            "into train, validation and test; give it at least 10"
        )
    generator = torch.Generator().manual_seed(derive_seed(0, "split"))
    order = torch.randperm(count, generator=generator)
    return ImageSplits(
        name=name,
        fingerprint=_fingerprint(pool),
        train=pool.train.take(order[held_out:]),
        valid=pool.train.take(order[:held_out]),
        test=pool.test,
        classes=pool.classes,
        attribute_names=pool.attribute_names,
    )


def _fingerprint(pool: ImagePool) -> str:
    """Return a digest of all pixels."""
    digest = hashlib.sha256()
    for images in (pool.train, pool.test):
        digest.update(str(tuple(images.pixels.shape)).encode())
        digest.update(images.pixels.contiguous().numpy().data)
    return digest.hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The images of one step.

    images: (N, C, H, W) float32 in [0, 1], on the model's device
    labels: (N,) int64, or None where the set has no classes
    attributes: (N, A) float32, or None where the set has none
    """

    images: Tensor
    labels: Tensor | None = None
    attributes: Tensor | None = None

    def rows(self, chosen: slice) -> Batch:
        """Return the chosen images with their labels and attributes."""
        return Batch(
            images=self.images[chosen],
            labels=None if self.labels is None else self.labels[chosen],
            attributes=None if self.attributes is None else self.attributes[chosen],
        )


def hold_out(images: Images, share: float) -> tuple[Images, Images]:
    """Cut test images off a set that has none; return training and test images, always the same."""
    generator = torch.Generator().manual_seed(derive_seed(0, "test"))
    order = torch.randperm(len(images), generator=generator)
    count = round(len(images) * share)
    return images.take(order[count:]), images.take(order[:count])


def resize(pixels: Tensor, shape: Shape | None) -> Tensor:
    """(N, c, h, w) uint8 -> (N, C, H, W) uint8: colours are added or averaged, pixels
    interpolated."""
    if shape is None or tuple(pixels.shape[1:]) == shape:
        return pixels
    check_memory(len(pixels), shape, each=10)  # as floats, before and after rounding
    channels, height, width = shape
    floats = pixels.to(torch.float32)
    if channels != floats.shape[1]:
        grey = floats.mean(1, keepdim=True)  # (N, 1, h, w)
        floats = grey.expand(-1, channels, -1, -1)
    if tuple(floats.shape[2:]) != (height, width):
        floats = F.interpolate(floats, (height, width), mode="bilinear", antialias=True)
    return floats.round().clamp(0, 255).to(torch.uint8)


def check_memory(count: int, shape: Shape, each: int = 1) -> None:
    """Raise `DataError` for images of ``each`` bytes a pixel that free memory does not hold."""
    needed = count * math.prod(shape) * each
    free = psutil.virtual_memory().available
    if needed > free:
        channels, height, width = shape
        raise DataError(
            f"{count} images of {channels}x{height}x{width} need {needed / 2**30:.1f} GiB of "
            f"memory, and {free / 2**30:.1f} are free; set a smaller shape=(C, H, W) in the study"
        )


def fingerprint_files(paths: list[Path]) -> str:
    """Return a digest that changes when a file is added, removed, renamed, resized or rewritten."""
    digest = hashlib.sha256()
    for path in paths:
        status = path.stat()
        digest.update(os.fsencode(path))  # names may be any bytes
        digest.update(f"|{status.st_size}|{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()
