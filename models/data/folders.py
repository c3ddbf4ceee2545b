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
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np

from models.data.attributes import AttributeTable, find_table, read_table
from models.data.decoding import FULL, WHITE, Decoded, Decoder, Header, read_header
from models.data.description import FolderDescription
from models.data.images import (
    VALIDATION_SHARE,
    CountProgress,
    ImagePool,
    Shape,
    cut_rows,
    fingerprint_files,
    hold_out,
)
from models.data.layout import FolderLayout, ImageFile, read_layout
from models.data.reading import FolderReading, label_tensor
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
        layout = self.layout
        reading = FolderReading(layout, self.table, shape, self.background, progress)
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
                kept, held = cut_rows(len(train), share, purpose, label_tensor(train))
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
