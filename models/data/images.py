"""Image sets as resident uint8 tensors, split once and shared by every process.

    splits = load_images("mnist", root=Path("data"), cache=Path("cache"))     # models.data.loading
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

from models.data.description import FolderDescription
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

    def batches(self, size: int = EVALUATION_BATCH, *, least: int = 1) -> Iterator[Batch]:
        """Yield all images in their order, ``size`` at once; the last batch may be smaller.

        least: a rest of fewer images joins the batch before it
        """
        last = max(len(self) - least + 1, 1)
        for first in range(0, last, size):
            ends = first + size if first + size < last else len(self)
            yield self.batch(slice(first, ends))

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
    """Return ``tensor[index]``; for a list of rows, in a twentieth of the time.

    The list may lie on another device than the tensor.
    """
    if isinstance(index, slice):
        return tensor[index]
    return tensor.index_select(0, index.to(tensor.device))


@dataclass(frozen=True, kw_only=True)
class ImagePool:
    """A set as its source gives it, before the validation images are cut off.

    valid: of a set that has validation images of its own
    background: what shows through where images are transparent; empty: none is
    folder: what a folder of images holds
    """

    train: Images
    test: Images
    valid: Images | None = None
    classes: tuple[str, ...] = ()
    attribute_names: tuple[str, ...] = ()
    background: str = ""
    folder: FolderDescription | None = None


@dataclass(frozen=True, kw_only=True)
class ImageSplits:
    """A named set in three parts.

    fingerprint: of all pixels, wherever they lie; labelled: of all classes, attributes and names
    background: what shows through where images are transparent; empty: none is
    folder: what a folder of images holds
    """

    name: str
    fingerprint: str
    train: Images
    valid: Images
    test: Images
    classes: tuple[str, ...] = ()
    attribute_names: tuple[str, ...] = ()
    labelled: str = ""
    background: str = ""
    folder: FolderDescription | None = None

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
    """Cut the validation images off the training images, at random but always the same; where the
    set has its own these are taken."""
    count = len(pool.train)
    train, valid = (
        cut_off(pool.train, VALIDATION_SHARE, "split")
        if pool.valid is None
        else (pool.train, pool.valid)
    )
    if not (len(train) and len(valid) and len(pool.test)):
        raise DataError(
            f"{name} has {count} training and {len(pool.test)} test images: too few to split "
            "into train, validation and test; give it at least 10"
        )
    return ImageSplits(
        name=name,
        fingerprint=_fingerprint(pool),
        train=train,
        valid=valid,
        test=pool.test,
        classes=pool.classes,
        attribute_names=pool.attribute_names,
        labelled=_fingerprint_labels(pool),
        background=pool.background,
        folder=pool.folder,
    )


def _parts_of(pool: ImagePool) -> list[Images]:
    """Return the parts that a set has of its own."""
    return [images for images in (pool.train, pool.test, pool.valid) if images is not None]


def _fingerprint(pool: ImagePool) -> str:
    """Return a digest of all pixels."""
    digest = hashlib.sha256()
    for images in _parts_of(pool):
        digest.update(str(tuple(images.pixels.shape)).encode())
        digest.update(images.pixels.contiguous().numpy().data)
    return digest.hexdigest()[:16]


def _fingerprint_labels(pool: ImagePool) -> str:
    """Return a digest of the classes, attributes and their names; empty if there are none."""
    digest = hashlib.sha256(repr((pool.classes, pool.attribute_names)).encode())
    known = [
        tensor
        for images in _parts_of(pool)
        for tensor in (images.labels, images.attributes)
        if tensor is not None
    ]
    for tensor in known:
        digest.update(str(tuple(tensor.shape)).encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()[:16] if known else ""


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
    return cut_off(images, share, "test")


def cut_off(images: Images, share: float, purpose: str) -> tuple[Images, Images]:
    """Return what is left of ``images``, and the share that is cut off at random."""
    kept, held = cut_rows(len(images), share, purpose, images.labels)
    return images.take(kept), images.take(held)


def cut_rows(
    count: int, share: float, purpose: str, labels: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the rows that are left of ``count`` images, and those that are cut off.

    They are always the same for a purpose. A class (labels (N,)) of which none would be left gives
    up one fewer: it takes the place of an image of the largest class.
    """
    generator = torch.Generator().manual_seed(derive_seed(0, purpose))
    order = torch.randperm(count, generator=generator)
    held = round(count * share)
    if labels is not None and held:
        _leave_each_class(order, held, labels)
    return order[held:], order[:held]


def _leave_each_class(order: Tensor, held: int, labels: Tensor) -> None:
    """Swap entries of ``order`` so that each class has an image after the first ``held``."""
    ordered = labels[order]  # (N,)
    left = torch.bincount(ordered[held:], minlength=int(labels.max()) + 1)
    for label in sorted(set(ordered[:held].tolist())):
        largest = int(left.argmax())
        if left[label] or left[largest] < 2:
            continue
        taken = int((ordered[:held] == label).nonzero()[0])
        given = held + int((ordered[held:] == largest).nonzero()[0])
        order[[taken, given]] = order[[given, taken]]
        ordered[[taken, given]] = ordered[[given, taken]]
        left[label] += 1
        left[largest] -= 1


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
