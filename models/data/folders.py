"""A folder of one's own images, with or without classes.

    PATH/*.png                     no classes
    PATH/cats/*.jpg PATH/dogs/...  a folder for each class (torchvision's ImageFolder layout)
    PATH/train/... PATH/test/...   the same, already split
    PATH/attributes.csv            optional: file,smiling,glasses,... with a number each

    make study NAME=cae DATA=folder:PATH

Without ``train`` and ``test`` folders a tenth of the images is held out as the test set. Images are
resized and cropped from the centre to the study's shape. Links to files are followed, links to
folders are not.

Shape legend: N images, C channels, H/W pixels, A attributes.
"""

from __future__ import annotations

import csv
import math
import os
import re
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from models.data.images import (
    CountProgress,
    ImagePool,
    Images,
    Shape,
    check_memory,
    fingerprint_files,
    hold_out,
)
from models.errors import DataError, first_line, short

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
TEST_SHARE = 0.1
LONGEST_LABEL = 40  # characters: it becomes part of file and study names
ATTRIBUTES = "attributes.csv"
MODES = {1: "L", 3: "RGB"}


class FolderSource:
    """The images of ``folder``; the module's first lines show its layouts."""

    def __init__(self, folder: Path) -> None:
        try:
            self.folder = folder.expanduser().resolve()
            found = self.folder.is_dir()
        except (OSError, RuntimeError) as error:  # a long name, a loop of links, no such user
            raise DataError(
                f"no folder {short(str(folder))} ({short(first_line(error))}); "
                "DATA=folder:PATH takes a folder of images"
            ) from error
        if not found:
            raise DataError(f"no folder {self.folder}; DATA=folder:PATH takes a folder of images")
        words = re.sub(r"[^A-Za-z0-9]+", "-", self.folder.name)[:LONGEST_LABEL]
        self.label = "folder-" + (words.strip("-") or "_")

    def fingerprint(self) -> str:
        table = self.folder / ATTRIBUTES
        return fingerprint_files(
            self._find_images(self.folder) + ([table] if table.is_file() else [])
        )

    def read(self, shape: Shape | None, progress: CountProgress) -> ImagePool:
        parts = [self.folder / "train", self.folder / "test"]
        if all(part.is_dir() for part in parts):
            self._check_split(parts)
            classes = self._find_classes(parts[0])
            train, test = (self._read_part(part, classes, shape, progress) for part in parts)
            if train.pixels.shape[1:] != test.pixels.shape[1:]:
                raise DataError(f"{parts[0]} and {parts[1]} hold images of different sizes")
        else:
            classes = self._find_classes(self.folder)
            everything = self._read_part(self.folder, classes, shape, progress)
            train, test = hold_out(everything, TEST_SHARE)
        names = tuple(self._read_attributes()[0])
        return ImagePool(train=train, test=test, classes=classes, attribute_names=names)

    def _find_images(self, folder: Path) -> list[Path]:
        """Return all images below ``folder``, sorted; links to folders are not followed.

        Raises `DataError` for what is no file: reading a pipe, for one, would wait for ever.
        """
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
        for path in found:
            if not path.is_file():
                link = f" is a link to {path.readlink()}, which" if path.is_symlink() else ""
                raise DataError(f"{path}{link} is not a file; replace or remove it")
        return sorted(found)

    def _find_classes(self, folder: Path) -> tuple[str, ...]:
        """Return the names of the class folders; none where images lie in ``folder`` itself."""
        inside = {path.relative_to(folder).parts for path in self._find_images(folder)}
        flat = [parts for parts in inside if len(parts) == 1]
        if flat and len(flat) < len(inside):
            raise DataError(
                f"{folder} holds images both directly ({sorted(flat)[0][0]}) and in folders; "
                "put every image in a class folder, or none"
            )
        if flat:
            return ()
        classes = tuple(sorted({parts[0] for parts in inside}))
        for place in folder.iterdir():
            other = place.name not in (*classes, ATTRIBUTES) and not place.name.startswith(".")
            if other and place.is_dir():
                why = "is a link, which is not followed" if place.is_symlink() else "has no images"
                raise DataError(
                    f"{place} is a class folder among {len(classes)} others, but {why}; "
                    "put images there or take it away"
                )
        return classes

    def _read_part(
        self, folder: Path, classes: tuple[str, ...], shape: Shape | None, progress: CountProgress
    ) -> Images:
        paths = self._find_images(folder)
        return Images(
            pixels=read_pixels(paths, shape, progress),
            labels=self._read_labels(folder, paths, classes) if classes else None,
            attributes=self._read_attribute_rows(paths),
        )

    def _check_split(self, parts: list[Path]) -> None:
        """Raise `DataError` for images that would not be read."""
        for path in self._find_images(self.folder):
            if not any(path.is_relative_to(part) for part in parts):
                raise DataError(
                    f"{self.folder} holds images outside of train and test, such as "
                    f"{path.relative_to(self.folder)}; move them into train, or away "
                    "(validation images are cut off the training images)"
                )

    def _read_labels(self, folder: Path, paths: list[Path], classes: tuple[str, ...]) -> Tensor:
        names = [path.relative_to(folder).parts[0] for path in paths]
        unknown = sorted(set(names) - set(classes))
        if unknown:
            raise DataError(
                f"{folder} has the class {unknown[0]!r}, which the training images lack; "
                f"classes there: {', '.join(classes)}"
            )
        return torch.tensor([classes.index(name) for name in names])  # (N,)

    def _read_attributes(self) -> tuple[list[str], dict[str, list[float]]]:
        """Read the column names, and the numbers by file name, of ``attributes.csv``; none
        without one."""
        table = self.folder / ATTRIBUTES
        if not os.path.lexists(table):
            return [], {}
        if not table.is_file():  # reading a pipe would wait for ever
            raise DataError(f"{table} is not a file; replace or remove it")
        try:
            with table.open(newline="", encoding="utf-8-sig") as file:
                header, *rows = [row for row in csv.reader(file) if row]
            values = [(row[0], [float(cell) for cell in row[1:]]) for row in rows]
        except (ValueError, OSError, csv.Error) as error:
            raise DataError(
                f"cannot read {table} ({first_line(error)}); its first line is "
                "file,NAME,NAME,... and every other a file name and a number for each NAME"
            ) from error
        _check_table(table, header, values)
        return header[1:], dict(values)

    def _read_attribute_rows(self, paths: list[Path]) -> Tensor | None:
        names, values = self._read_attributes()
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


def _check_table(table: Path, header: list[str], rows: list[tuple[str, list[float]]]) -> None:
    """Raise `DataError` for a table whose numbers may not be those that were meant."""
    if len(header) < 2 or "" in header or len(set(header)) < len(header):
        raise DataError(
            f"{table} begins with {short(','.join(header))!r}, not with file,NAME,NAME,...; "
            "give each column a name of its own"
        )
    seen = set()
    for file, values in rows:
        if len(values) != len(header) - 1:
            raise DataError(
                f"{table} has rows that are not as long as its header: {short(file)!r} has "
                f"{len(values)} numbers for {len(header) - 1} names"
            )
        if not all(math.isfinite(value) for value in values):
            raise DataError(
                f"{table} holds values that are not finite, for {short(file)!r}; "
                "write a number in each cell"
            )
        if file in seen:
            raise DataError(f"{table} has two rows for {short(file)!r}; keep one")
        seen.add(file)


def read_pixels(paths: list[Path], shape: Shape | None, progress: CountProgress) -> Tensor:
    """Decode ``paths`` -> (N, C, H, W) uint8, each resized and cropped to ``shape``.

    Without a shape all must be as large as the first, which also decides on grey or colour.
    """
    if shape is None:
        first = decode(paths[0], None, None)
        channels, height, width = first.shape
    else:
        channels, height, width = shape
    if channels not in MODES:
        raise DataError(f"images have 1 or 3 channels, not {channels}")
    check_memory(len(paths), (channels, height, width))
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
    """Decode one image file -> (C, H, W) uint8. With ``mode`` None grey stays grey, others are RGB.

    Pixels of 16 bits lose their lower 8. Raises `DataError` for whatever cannot be decoded.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on odd files that it can read
            array = _decode_file(path, mode, size)
    except DataError:
        raise
    except Exception as error:  # damaged files make Pillow's readers raise errors of all kinds
        raise DataError(
            f"cannot decode {path} ({short(first_line(error))}); replace or remove that file"
        ) from error
    if array.ndim == 2:
        return np.array(array[None])  # (H, W) -> (1, H, W)
    return np.array(array.transpose(2, 0, 1))  # (H, W, 3) -> (3, H, W)


def _decode_file(path: Path, mode: str | None, size: tuple[int, int] | None) -> np.ndarray:
    with Image.open(path) as opened:
        image: Image.Image = ImageOps.exif_transpose(opened)
        if image.mode in ("I", "F"):
            raise DataError(
                f"{path} has pixels of 32 bits, whose white is unknown; "
                "save it with 8 or 16 bits a channel"
            )
        if image.mode.startswith("I;16"):  # Pillow would make all values above 255 white
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        grey = image.mode in ("1", "L")
        image = image.convert(mode or ("L" if grey else "RGB"))
        if size is not None and image.size != size:
            image = ImageOps.fit(image, size, Image.Resampling.BILINEAR)
        return np.asarray(image)
