"""Image sets as resident uint8 tensors, split once and shared by every process.

    splits = load_images("fashion_mnist", root=Path("data"), cache=Path("runs/cache"))
    splits.train.batch(torch.arange(256)).images        # (256, 1, 28, 28) in [0, 1]

The first call decodes and splits the set and writes one safetensors file; every
later call, in any process, maps that file into memory, so that the pixels lie
in a machine's memory once however many workers read them. On a GPU each worker
moves its splits over with `to(device)` and a batch never leaves the device.

The training images are cut at random into 80 % train and 20 % validation
(Fashion-MNIST: 48,000 and 12,000). The cut does not depend on a study's seed:
values of two studies are measured on the same images.

Shape legend: N images, C channels, H/W pixels, A attributes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from models.base import Batch, Shape
from models.seeds import derive_seed

VALIDATION_SHARE = 0.2
CACHE_FORMAT = 1  # raise when the file's content changes meaning

Progress = Callable[[int, int], None]
"""Called as ``progress(done, total)`` while images are read."""


class DataError(ValueError):
    """The image set cannot be used; the message names the place and what to change."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))  # one line, whatever a file is called


class DataMissing(DataError):
    """The image set is neither on this machine nor can it be downloaded."""


@dataclass(frozen=True, kw_only=True)
class Images:
    """pixels (N, C, H, W) uint8; labels (N,) int64 or None; attributes (N, A) float32 or None."""

    pixels: Tensor
    labels: Tensor | None = None
    attributes: Tensor | None = None

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, index: Tensor | slice) -> Batch:
        """The chosen images as floats in [0, 1]: (N, C, H, W) uint8 -> (n, C, H, W) float32."""
        pixels, labels, attributes = _rows(self.pixels, index), self.labels, self.attributes
        return Batch(
            images=pixels.to(torch.float32).div_(255),
            labels=None if labels is None else _rows(labels, index),
            attributes=None if attributes is None else _rows(attributes, index),
        )

    def to(self, device: str | torch.device) -> Images:
        return Images(
            pixels=self.pixels.to(device),
            labels=None if self.labels is None else self.labels.to(device),
            attributes=None if self.attributes is None else self.attributes.to(device),
        )

    def take(self, index: Tensor) -> Images:
        """A copy of the images at ``index`` (n,)."""
        return Images(
            pixels=self.pixels[index],
            labels=None if self.labels is None else self.labels[index],
            attributes=None if self.attributes is None else self.attributes[index],
        )


def _rows(tensor: Tensor, index: Tensor | slice) -> Tensor:
    """``tensor[index]``; where a list of rows is meant, in a twentieth of the time."""
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
    """A named set in three parts. `fingerprint` is that of the pixels, wherever they lie."""

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


def load_images(
    name: str,
    *,
    root: Path,
    cache: Path,
    shape: Shape | None = None,
    progress: Progress | None = None,
) -> ImageSplits:
    """The splits of the set called ``name``, from the cache or made now.

    name: ``fashion_mnist``, ``mnist``, ``stacked_mnist``, ``digits`` or ``folder:PATH``
    root: where downloaded sets lie, in torchvision's layout
    shape: (C, H, W) to resize and crop to; None keeps the set's own

    Raises `DataMissing` when the set is not there and cannot be downloaded,
    `DataError` when it is there and cannot be used.
    """
    return open_images(prepare_images(name, root=root, cache=cache, shape=shape, progress=progress))


def prepare_images(
    name: str,
    *,
    root: Path,
    cache: Path,
    shape: Shape | None = None,
    progress: Progress | None = None,
) -> Path:
    """The cached file of a set, made now if the set is new or has changed; see `load_images`."""
    from models.sources import find_source

    source = find_source(name, root)
    key = f"{CACHE_FORMAT}|{name}|{source.fingerprint()}|{shape}"
    short = hashlib.sha256(os.fsencode(key)).hexdigest()[:16]
    path = cache / f"{source.label}-{short}.safetensors"
    if not path.exists():
        pool = source.read(shape, progress or (lambda done, total: None))
        _write(path, split(pool, name=name))
    return path


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


def _write(path: Path, splits: ImageSplits) -> None:
    """Write beside and rename, so that a reader never meets half a file."""
    tensors = {}
    for part in ("train", "valid", "test"):
        images: Images = getattr(splits, part)
        for field in ("pixels", "labels", "attributes"):
            tensor = getattr(images, field)
            if tensor is not None:
                tensors[f"{part}.{field}"] = tensor.contiguous()
    about = {
        "name": splits.name,
        "fingerprint": splits.fingerprint,
        "classes": splits.classes,
        "attribute_names": splits.attribute_names,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        save_file(tensors, beside, metadata={"about": json.dumps(about)})
        beside.replace(path)
    except SafetensorError as error:  # the library's wrapper of a full disk, among others
        raise OSError(f"cannot write {path}: {error}") from error
    finally:
        beside.unlink(missing_ok=True)


def _fingerprint(pool: ImagePool) -> str:
    digest = hashlib.sha256()
    for images in (pool.train, pool.test):
        digest.update(str(tuple(images.pixels.shape)).encode())
        digest.update(images.pixels.contiguous().numpy().data)
    return digest.hexdigest()[:16]


def open_images(path: Path) -> ImageSplits:
    """Map a file of `prepare_images` into memory."""
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()["about"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, TypeError) as error:
        raise DataError(f"the cached images in {path} are damaged; delete that file") from error
    parts = {
        part: Images(
            pixels=tensors[f"{part}.pixels"],
            labels=tensors.get(f"{part}.labels"),
            attributes=tensors.get(f"{part}.attributes"),
        )
        for part in ("train", "valid", "test")
    }
    return ImageSplits(
        name=about["name"],
        fingerprint=about["fingerprint"],
        classes=tuple(about["classes"]),
        attribute_names=tuple(about["attribute_names"]),
        **parts,
    )
