"""A folder of one's own images, with or without classes.

    make study NAME=cae DATA=folder:PATH
    make look DATA=folder:PATH           # what is there, and how it is used

`layout.py` says what the folders mean, `decoding.py` how a file is read, `attributes.py` what
stands in ``attributes.csv``. Images are resized and cropped from the centre to the study's shape.
Where a folder has no test images of its own a tenth is held out; where it has no validation images
a fifth of the training images is. Each class keeps a training image.

Shape legend: N images, C channels, H/W pixels, A attributes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.data.attributes import AttributeTable, find_table, read_table
from models.data.decoding import FULL, MODES, WHITE, Decoded, Decoder, Header, read_header
from models.data.description import FolderDescription
from models.data.images import (
    VALIDATION_SHARE,
    CountProgress,
    ImagePool,
    Images,
    Shape,
    check_memory,
    cut_rows,
    fingerprint_files,
    hold_out,
)
from models.data.layout import FolderLayout, ImageFile, read_layout
from models.errors import DataError, first_line, short

TEST_SHARE = 0.1
LONGEST_LABEL = 40  # characters: it becomes part of file and study names
READING = 2  # raise it when the same files become other pixels, or other parts
THREADS = 4  # look at files; much of the time goes by waiting for the disk
NOTHING = np.empty((0, 0, 0), np.uint8)


class FolderSource:
    """The images of ``folder``, what is transparent in them on ``background``."""

    def __init__(self, folder: Path, background: str = WHITE) -> None:
        self.background = background
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

    @cached_property
    def layout(self) -> FolderLayout:
        """What the folder holds. Raises `DataError`."""
        return read_layout(self.folder)

    @cached_property
    def table(self) -> AttributeTable | None:
        """``attributes.csv``, where there is one. Raises `DataError`."""
        found = find_table(self.folder, self.layout.inner)
        return None if found is None else read_table(*found)

    @cached_property
    def decoder(self) -> Decoder:
        """What decodes the files of this folder; broken ones do not count for it."""
        decoder = Decoder(background=self.background)
        headers = ((file.path, _try_header(file.path)) for file in self.layout.files)
        deep = [path for path, found in headers if isinstance(found, Header) and found.is_deep]
        return decoder.fitted(path for path in deep if can_be_read(path)) if deep else decoder

    def fingerprint(self) -> str:
        paths = [file.path for file in self.layout.files]
        table = find_table(self.folder, self.layout.inner)
        if table is not None and table[0].is_file():
            paths.append(table[0])
        return f"{READING}|{fingerprint_files(paths)}"

    def read(self, shape: Shape | None, progress: CountProgress) -> ImagePool:
        layout, reading = self.layout, _Reading(self, shape, progress)
        split = {part: reading.read_part(part) for part in layout.parts or ("",)}
        train = split["train" if layout.parts else ""]
        test = split.get("test")
        if test is None:
            train, test = hold_out(train, TEST_SHARE)
        return ImagePool(
            train=train,
            valid=split.get("valid"),
            test=test,
            classes=layout.classes,
            attribute_names=self.table.names if self.table else (),
            background=self.background if reading.transparent else "",
            folder=FolderDescription.of(
                reading.headers,
                layout,
                depth=reading.decoder.depth,
                transparent=reading.transparent,
            ),
        )

    def survey(self) -> FolderDescription:
        """Describe the folder from its files' headers, without their pixels; takes a second for
        some ten thousand files. What no header says, such as transparency, stays open."""
        return self._describe(_try_header, lambda done, total: None)

    def inspect(self, progress: CountProgress) -> FolderDescription:
        """Describe the folder from all its pixels: also what is transparent, and what is broken."""
        decoder = self.decoder
        return self._describe(lambda path: _try_pixels(path, decoder), progress, decoder.depth)

    def _describe(
        self,
        look_at: Callable[[Path], Header | Decoded | str],
        progress: CountProgress,
        depth: int = FULL,
    ) -> FolderDescription:
        headers: list[Header] = []
        broken: list[str] = []
        transparent = 0
        paths = [file.path for file in self.layout.files]
        with ThreadPoolExecutor(THREADS) as pool:
            for done, found in enumerate(pool.map(look_at, paths), 1):
                if isinstance(found, str):
                    broken.append(found)
                else:
                    headers.append(found.header if isinstance(found, Decoded) else found)
                    transparent += isinstance(found, Decoded) and found.transparent
                progress(done, len(paths))
        if not headers:
            raise DataError(f"no image of {self.folder} can be read; {broken[0]}")
        return FolderDescription.of(
            headers, self.layout, depth=depth, transparent=transparent, broken=broken
        )

    def plan_parts(self) -> dict[str, list[ImageFile]]:
        """Return the files of the training, validation and test images, as a study has them."""
        layout = self.layout
        train = layout.of_part("train" if layout.parts else "")
        parts = {part: layout.of_part(part) for part in layout.parts if part != "train"}
        shares = {"test": (TEST_SHARE, "test"), "valid": (VALIDATION_SHARE, "split")}
        for part, (share, purpose) in shares.items():
            if part not in parts:
                kept, held = cut_rows(len(train), share, purpose, _label_tensor(train))
                parts[part] = [train[row] for row in held]
                train = [train[row] for row in kept]
        return {"train": train, "valid": parts["valid"], "test": parts["test"]}


def _try_header(path: Path) -> Header | str:
    try:
        return read_header(path)
    except DataError as error:
        return str(error)


def _try_pixels(path: Path, decoder: Decoder) -> Decoded | str:
    """Return what a file is, without its pixels; they would take all memory."""
    try:
        return replace(decoder.decode(path), pixels=NOTHING)
    except DataError as error:
        return str(error)


def can_be_read(path: Path) -> bool:
    """Say whether a file is an image that can be decoded."""
    return isinstance(_try_pixels(path, Decoder()), Decoded)


def _label_tensor(files: Sequence[ImageFile]) -> Tensor | None:
    """Return the classes of images (N,), or None where they have none."""
    labels = [file.label for file in files if file.label is not None]
    return torch.tensor(labels) if labels else None


class _Reading:
    """Decodes the images of a folder, and keeps in mind what they are.

    Without a shape all must be as large as the first, which also decides on grey or colour.
    """

    def __init__(self, source: FolderSource, shape: Shape | None, progress: CountProgress) -> None:
        self.source, self.progress = source, progress
        self.paths = [file.path for file in source.layout.files]
        self.decoder = Decoder(background=source.background)
        self.knows_depth = False
        self.size = None if shape is None else (shape[2], shape[1])
        if shape is None:
            first = self._decode(self.paths[0], None).pixels
            shape = (first.shape[0], first.shape[1], first.shape[2])
        if shape[0] not in MODES:
            raise DataError(f"images have 1 or 3 channels, not {shape[0]}")
        check_memory(len(self.paths), shape)
        self.shape = shape
        self.headers: list[Header] = []
        self.transparent = 0

    def read_part(self, part: str) -> Images:
        """Return the images of one part, with what is known of them."""
        files = self.source.layout.of_part(part)
        table = self.source.table
        return Images(
            pixels=self._read_pixels([file.path for file in files]),
            labels=_label_tensor(files),
            attributes=table.select([file.names for file in files]) if table else None,
        )

    def _read_pixels(self, paths: Sequence[Path]) -> Tensor:
        """Decode ``paths`` -> (N, C, H, W) uint8, each resized and cropped to the shape."""
        pixels = torch.empty(len(paths), *self.shape, dtype=torch.uint8)
        for position, path in enumerate(paths):
            found = self._decode(path, self.shape[0])
            if found.pixels.shape != self.shape:
                (_, high, wide), (_, height, width) = found.pixels.shape, self.shape
                raise DataError(
                    f"{path} is {wide}x{high}, {self.paths[0]} is {width}x{height}: "
                    "set shape=(C, H, W) in the study to resize them"
                )
            pixels[position] = torch.from_numpy(found.pixels)
            self.headers.append(found.header)
            self.transparent += found.transparent
            self.progress(len(self.headers), len(self.paths))
        return pixels

    def _decode(self, path: Path, channels: int | None) -> Decoded:
        found = self.decoder.decode(path, channels, self.size)
        if found.header.is_deep and not self.knows_depth:
            # one depth for all, or a dark image would be as bright as others
            self.decoder = self.decoder.fitted(find_deep(self.paths))
            self.knows_depth = True
            found = self.decoder.decode(path, channels, self.size)
        return found


def find_deep(paths: Sequence[Path]) -> Iterator[Path]:
    """Yield the files of 16 bits."""
    return (path for path in paths if read_header(path).is_deep)
