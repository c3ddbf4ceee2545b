"""The images of a folder as tensors: every file is decoded once, in the order of the layout.

    reading = FolderReading(layout, table, (3, 64, 64), "#ffffff", progress)
    reading.read_part("train")       # Images
    reading.headers                  # what each file said of itself

Shape legend: N images, C channels, H/W pixels, A attributes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from models.data.attributes import AttributeTable
from models.data.decoding import MODES, Decoded, Decoder, Header, read_header
from models.data.images import CountProgress, Images, Shape, check_memory
from models.data.layout import FolderLayout, ImageFile
from models.errors import DataError


def label_tensor(files: Sequence[ImageFile]) -> Tensor | None:
    """Return the classes of images (N,), or None where they have none."""
    labels = [file.label for file in files if file.label is not None]
    return torch.tensor(labels) if labels else None


class FolderReading:
    """Decodes the images of a folder, and keeps their headers.

    Without a shape, all images must be as large as the first, which also decides on grey or colour.
    """

    def __init__(
        self,
        layout: FolderLayout,
        table: AttributeTable | None,
        shape: Shape | None,
        background: str,
        progress: CountProgress,
    ) -> None:
        self.layout, self.table, self.progress = layout, table, progress
        self.paths = [file.path for file in layout.files]
        self.decoder = Decoder(background=background)
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
        files, table = self.layout.of_part(part), self.table
        return Images(
            pixels=self._read_pixels([file.path for file in files]),
            labels=label_tensor(files),
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
