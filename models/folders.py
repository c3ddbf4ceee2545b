"""A folder of one's own images, with or without classes.

    PATH/*.png                     no classes
    PATH/cats/*.jpg PATH/dogs/...  a class a folder (torchvision's ImageFolder layout)
    PATH/train/... PATH/test/...   the same, already split
    PATH/attributes.csv            optional: file,smiling,glasses,... with a number each

    make study NAME=cae DATA=folder:PATH

Without ``train`` and ``test`` folders a tenth of the images is held out as the
test set. Images are resized and cropped from the centre to the study's shape.

Shape legend: N images, C channels, H/W pixels, A attributes.
"""

from __future__ import annotations

import csv
import math
import os
import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from models.base import Shape
from models.images import DataError, ImagePool, Images, Progress
from models.sources import fingerprint_files, first_line, hold_out

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
TEST_SHARE = 0.1
ATTRIBUTES = "attributes.csv"
MODES = {1: "L", 3: "RGB"}


class FolderSource:
    """Reads ``folder``; see the module's first lines for the layouts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.expanduser().resolve()
        self.label = "folder-" + (re.sub(r"[^A-Za-z0-9]+", "-", self.folder.name).strip("-") or "_")
        if not self.folder.is_dir():
            raise DataError(f"no folder {self.folder}; DATA=folder:PATH takes a folder of images")

    def fingerprint(self) -> str:
        table = self.folder / ATTRIBUTES
        return fingerprint_files(self._paths(self.folder) + ([table] if table.exists() else []))

    def read(self, shape: Shape | None, progress: Progress) -> ImagePool:
        parts = [self.folder / "train", self.folder / "test"]
        if all(part.is_dir() for part in parts):
            classes = self._classes(parts[0])
            train, test = (self._read_part(part, classes, shape, progress) for part in parts)
            if train.pixels.shape[1:] != test.pixels.shape[1:]:
                raise DataError(f"{parts[0]} and {parts[1]} hold images of different sizes")
        else:
            classes = self._classes(self.folder)
            everything = self._read_part(self.folder, classes, shape, progress)
            train, test = hold_out(everything, TEST_SHARE)
        names = tuple(self._attributes()[0])
        return ImagePool(train=train, test=test, classes=classes, attribute_names=names)

    def _paths(self, folder: Path) -> list[Path]:
        """All images below ``folder``, sorted; links to folders are not followed."""
        found = [
            Path(place) / name
            for place, _, names in os.walk(folder, followlinks=False)
            for name in names
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")
        ]
        if not found:
            raise DataError(
                f"no images in {folder}; expected files ending in {', '.join(sorted(SUFFIXES))}"
            )
        return sorted(found)

    def _classes(self, folder: Path) -> tuple[str, ...]:
        """Names of the class folders; empty where the images lie in ``folder`` itself."""
        inside = {path.relative_to(folder).parts for path in self._paths(folder)}
        flat = [parts for parts in inside if len(parts) == 1]
        if flat and len(flat) < len(inside):
            raise DataError(
                f"{folder} holds images both directly ({sorted(flat)[0][0]}) and in folders; "
                "put every image in a class folder, or none"
            )
        return () if flat else tuple(sorted({parts[0] for parts in inside}))

    def _read_part(
        self, folder: Path, classes: tuple[str, ...], shape: Shape | None, progress: Progress
    ) -> Images:
        paths = self._paths(folder)
        return Images(
            pixels=read_pixels(paths, shape, progress),
            labels=self._labels(folder, paths, classes) if classes else None,
            attributes=self._attribute_rows(paths),
        )

    def _labels(self, folder: Path, paths: list[Path], classes: tuple[str, ...]) -> Tensor:
        names = [path.relative_to(folder).parts[0] for path in paths]
        unknown = sorted(set(names) - set(classes))
        if unknown:
            raise DataError(
                f"{folder} has the class {unknown[0]!r}, which the training images lack; "
                f"classes there: {', '.join(classes)}"
            )
        return torch.tensor([classes.index(name) for name in names])  # (N,)

    def _attributes(self) -> tuple[list[str], dict[str, list[float]]]:
        """Column names, and numbers by file name, of ``attributes.csv``; empty without one."""
        table = self.folder / ATTRIBUTES
        if not table.exists():
            return [], {}
        try:
            with table.open(newline="", encoding="utf-8") as file:
                header, *rows = list(csv.reader(file))
            values = {row[0]: [float(cell) for cell in row[1:]] for row in rows if row}
        except (ValueError, IndexError, OSError, csv.Error) as error:
            raise DataError(
                f"cannot read {table} ({first_line(error)}); its first line is "
                "file,NAME,NAME,... and every other a file name and a number for each NAME"
            ) from error
        if not all(math.isfinite(value) for row in values.values() for value in row):
            raise DataError(
                f"{table} holds values that are not finite; write a number in each cell"
            )
        if any(len(row) != len(header) - 1 for row in values.values()):
            raise DataError(f"{table} has rows that are not as long as its header")
        return header[1:], values

    def _attribute_rows(self, paths: list[Path]) -> Tensor | None:
        names, values = self._attributes()
        if not names:
            return None
        files = [path.relative_to(self.folder).as_posix() for path in paths]
        missing = [file for file in files if file not in values]
        if missing:
            raise DataError(
                f"{self.folder / ATTRIBUTES} lacks {len(missing)} of {len(files)} images, "
                f"such as {missing[0]!r}; add their rows"
            )
        return torch.tensor([values[file] for file in files])  # (N, A)


def read_pixels(paths: list[Path], shape: Shape | None, progress: Progress) -> Tensor:
    """Decode ``paths`` -> (N, C, H, W) uint8, each resized and cropped to ``shape``.

    Without a shape all must be as large as the first, whose colour decides too.
    """
    if shape is None:
        first = decode(paths[0], None, None)
        channels, height, width = first.shape
    else:
        channels, height, width = shape
    if channels not in MODES:
        raise DataError(f"images have 1 or 3 channels, not {channels}")
    pixels = torch.empty(len(paths), channels, height, width, dtype=torch.uint8)
    for position, path in enumerate(paths):
        array = decode(path, MODES[channels], None if shape is None else (width, height))
        if array.shape != (channels, height, width):
            raise DataError(
                f"{path} is {array.shape[2]}x{array.shape[1]}, {paths[0]} is {width}x{height}: "
                "set shape=(C, H, W) in the study to resize them"
            )
        pixels[position] = torch.from_numpy(array)
        progress(position + 1, len(paths))
    return pixels


def decode(path: Path, mode: str | None, size: tuple[int, int] | None) -> np.ndarray:
    """One image file -> (C, H, W) uint8. ``mode`` None: grey stays grey, the rest is RGB."""
    try:
        with Image.open(path) as opened:
            image: Image.Image = ImageOps.exif_transpose(opened)
            grey = image.mode in ("1", "L", "I", "I;16", "F")
            image = image.convert(mode or ("L" if grey else "RGB"))
            if size is not None and image.size != size:
                image = ImageOps.fit(image, size, Image.Resampling.BILINEAR)
            array = np.asarray(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(
            f"cannot decode {path} ({first_line(error)}); replace or remove that file"
        ) from error
    if array.ndim == 2:
        return np.array(array[None])  # (H, W) -> (1, H, W)
    return np.array(array.transpose(2, 0, 1))  # (H, W, 3) -> (3, H, W)
