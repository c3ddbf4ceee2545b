"""Image sets by name: they are found, read, split, and kept in a file for the next process.

    splits = load_images("fashion_mnist", root=Path("data"), cache=Path("runs/cache"))

The file says which images it holds, and tells when it is damaged (`models/seals.py`). A
damaged one is set aside, and the images are read again. One of an older version, which cannot
tell, is taken as it is and sealed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol, TypeAlias

from models.data.binarised import BINARISED, DYNAMIC, BinarisedSource
from models.data.decoding import WHITE
from models.data.description import FolderDescription
from models.data.folders import FolderSource
from models.data.images import STACKED, CountProgress, ImagePool, Images, ImageSplits, Shape, split
from models.data.torchvision_sets import (
    TORCHVISION_SETS,
    DigitsSource,
    StackedSource,
    TorchvisionSource,
)
from models.errors import DataError, TensorFileError, unknown_name
from models.sealed_files import atomic_file, check_seal, set_aside
from models.tensor_files import read_tensors, write_tensors

Note: TypeAlias = Callable[[str], None]
"""A function that hears a line for a person."""

CACHE_FORMAT = 1  # raise it when the file's content changes its meaning
FALLBACK = "digits"  # needs no network: it lies inside scikit-learn


class Source(Protocol):
    """A place that the images of a set come from."""

    label: str  # becomes part of file names
    background: str  # shows through where images are transparent; empty: none can be

    def fingerprint(self) -> str:
        """Return, quickly, a word that changes when the content does."""

    def read(self, shape: Shape | None, progress: CountProgress) -> ImagePool:
        """Read all images, resized to ``shape`` (C, H, W) unless that is None."""


def find_source(name: str, root: Path, background: str = WHITE) -> Source:
    """Return the source called ``name``; a missing torchvision set is downloaded to ``root``.

    background: ``#rrggbb`` that shows through where a folder's images are transparent; ``none``
        shows the colours that are hidden there
    """
    if name in TORCHVISION_SETS:
        return TorchvisionSource(name, root)
    if name == "digits":
        return DigitsSource()
    if name == STACKED:
        return StackedSource(root)
    if name in (BINARISED, DYNAMIC):
        return BinarisedSource(root, name)
    kind, _, place = name.partition(":")
    if kind == "folder" and place:
        return FolderSource(Path(place), background)
    available = [*TORCHVISION_SETS, "digits", STACKED, BINARISED, DYNAMIC, "folder:PATH"]
    raise DataError(unknown_name("data", name, available))


def load_images(
    name: str,
    *,
    root: Path,
    cache: Path,
    shape: Shape | None = None,
    progress: CountProgress | None = None,
    background: str = WHITE,
) -> ImageSplits:
    """Return the splits of the set called ``name``, from the cache or made now.

    name: ``fashion_mnist``, ``mnist``, ``stacked_mnist``, ``binarized_mnist``,
        ``dynamic_mnist``, ``digits`` or ``folder:PATH``
    root: where downloaded sets lie, in torchvision's layout
    shape: (C, H, W) to resize and crop to; None keeps the set's own
    background: as `find_source` takes it

    Raises `DataMissing` when the set is not there and cannot be downloaded,
    `DataError` when it is there and cannot be used.
    """
    return open_images(
        prepare_images(
            name, root=root, cache=cache, shape=shape, progress=progress, background=background
        )
    )


def prepare_images(
    name: str,
    *,
    root: Path,
    cache: Path,
    shape: Shape | None = None,
    progress: CountProgress | None = None,
    background: str = WHITE,
    tell: Note = lambda line: None,
) -> Path:
    """Return the cached file of a set, which is made now if the set is new or has changed, or the
    file is damaged.

    `load_images` explains the other parameters; tell: hears of a damaged file. The background is
    part of the file's name where an image shows it: other images are the same on any.
    """
    source = find_source(name, root, background)
    key = f"{CACHE_FORMAT}|{name}|{source.fingerprint()}|{shape}"
    paths = {}
    for shown in ("", source.background):
        digest = hashlib.sha256(os.fsencode(key + (shown and f"|{shown}"))).hexdigest()[:16]
        paths[shown] = cache / f"{source.label}-{digest}.safetensors"
        if paths[shown].exists() and _is_usable(paths[shown], tell):
            return paths[shown]
    pool = source.read(shape, progress or (lambda done, total: None))
    write_images(paths[pool.background], split(pool, name=name))
    return paths[pool.background]


def _is_usable(path: Path, tell: Note) -> bool:
    """Whether a cached file can be read. A damaged one is set aside, an unsealed one is sealed."""
    try:
        if check_seal(path, of=identify_images(path)) is None:
            write_images(path, open_images(path))
    except (TensorFileError, DataError) as error:
        with suppress(FileNotFoundError):  # another process has done so
            kept = set_aside(path)
            tell(f"{path.name} is damaged ({error}): it is kept as {kept}, and made again")
        return False
    return True


def identify_images(path: Path) -> dict[str, str]:
    """Return what a cached file belongs to: its name follows from the set, its source, its size."""
    return {"kind of file": "images", "set": path.stem}


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
        "labelled": splits.labelled,
        "background": splits.background,
        "folder": splits.folder and splits.folder.to_plain(),
    }
    with atomic_file(path) as beside:
        write_tensors(beside, tensors, {"about": about}, of=identify_images(path))


def open_images(path: Path) -> ImageSplits:
    """Map a file of `prepare_images` into memory.

    Raises `DataError` for a file that is damaged, not there, or of other images.
    """
    try:
        about, tensors = read_tensors(path, "about", of=identify_images(path))
    except (TensorFileError, FileNotFoundError) as error:
        raise DataError(
            f"the cached images in {path} are damaged or gone ({error}); the same command makes "
            "them again"
        ) from error
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
        labelled=about.get("labelled", ""),  # files of older versions lack what follows
        background=about.get("background", ""),
        folder=FolderDescription.from_plain(about["folder"]) if about.get("folder") else None,
        **parts,
    )
