"""Image sets by name: they are found, read, split, and kept in a file for the next process.

splits = load_images("fashion_mnist", root=Path("data"), cache=Path("runs/cache"))
"""

from __future__ import annotations

import difflib
import hashlib
import os
from pathlib import Path
from typing import Protocol

from models.data.folders import FolderSource
from models.data.images import STACKED, CountProgress, ImagePool, Images, ImageSplits, Shape, split
from models.data.torchvision_sets import (
    TORCHVISION_SETS,
    DigitsSource,
    StackedSource,
    TorchvisionSource,
)
from models.errors import DataError, TensorFileError, short
from models.tensor_files import atomic_file, read_tensors, write_tensors

CACHE_FORMAT = 1  # raise it when the file's content changes its meaning
FALLBACK = "digits"  # needs no network: it lies inside scikit-learn


class Source(Protocol):
    """A place that the images of a set come from."""

    label: str  # becomes part of file names

    def fingerprint(self) -> str:
        """Return, quickly, a word that changes when the content does."""

    def read(self, shape: Shape | None, progress: CountProgress) -> ImagePool:
        """Read all images, resized to ``shape`` (C, H, W) unless that is None."""


def find_source(name: str, root: Path) -> Source:
    """Return the source called ``name``; a missing torchvision set is downloaded to ``root``."""
    if name in TORCHVISION_SETS:
        return TorchvisionSource(name, root)
    if name == "digits":
        return DigitsSource()
    if name == STACKED:
        return StackedSource(root)
    kind, _, place = name.partition(":")
    if kind == "folder" and place:
        return FolderSource(Path(place))
    available = [*TORCHVISION_SETS, "digits", STACKED, "folder:PATH"]
    close = difflib.get_close_matches(name[:200], available, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    raise DataError(f"unknown data {short(repr(name))}; available: {', '.join(available)}{hint}")


def load_images(
    name: str,
    *,
    root: Path,
    cache: Path,
    shape: Shape | None = None,
    progress: CountProgress | None = None,
) -> ImageSplits:
    """Return the splits of the set called ``name``, from the cache or made now.

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
    progress: CountProgress | None = None,
) -> Path:
    """Return the cached file of a set, which is made now if the set is new or has changed.

    `load_images` explains the parameters.
    """
    source = find_source(name, root)
    key = f"{CACHE_FORMAT}|{name}|{source.fingerprint()}|{shape}"
    digest = hashlib.sha256(os.fsencode(key)).hexdigest()[:16]
    path = cache / f"{source.label}-{digest}.safetensors"
    if not path.exists():
        pool = source.read(shape, progress or (lambda done, total: None))
        write_images(path, split(pool, name=name))
    return path


def write_images(path: Path, splits: ImageSplits) -> None:
    """Write the file that `open_images` reads."""
    tensors = {}
    for part in ("train", "valid", "test"):
        images: Images = getattr(splits, part)
        for field in ("pixels", "labels", "attributes"):
            tensor = getattr(images, field)
            if tensor is not None:
                tensors[f"{part}.{field}"] = tensor
    about = {
        "name": splits.name,
        "fingerprint": splits.fingerprint,
        "classes": splits.classes,
        "attribute_names": splits.attribute_names,
    }
    with atomic_file(path) as beside:
        write_tensors(beside, tensors, {"about": about})


def open_images(path: Path) -> ImageSplits:
    """Map a file of `prepare_images` into memory."""
    try:
        about, tensors = read_tensors(path, "about")
    except TensorFileError as error:
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
