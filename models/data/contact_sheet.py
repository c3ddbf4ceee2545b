"""A contact sheet: a few images of each class of a folder, as they are and as they are used.

    draw_contact_sheet(Path("pets.png"), FolderSource(Path("pets")), shape=(1, 28, 28))

Shape legend: N images, C channels, H/W pixels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from models.data.decoding import Decoder
from models.data.description import format_size
from models.data.folder_tree import printable
from models.data.folders import FolderSource, can_be_read
from models.data.images import Shape
from models.data.layout import ImageFile
from models.errors import DataError, format_count
from models.figures.grids import draw_rows, short_name

CLASSES, ACROSS = 12, 12  # rows and columns at most
ROWS = 5  # of a folder without classes
TILE = 96  # pixels
AROUND = "#e5e7eb"  # beside an image that is not square


def draw_contact_sheet(path: Path, source: FolderSource, shape: Shape | None = None) -> None:
    """Draw images of the largest classes, spread evenly over each; broken files are left out.

    shape: (C, H, W) of a study; a second row shows what it trains on
    """
    rows: list[tuple[str, Tensor]] = []
    for name, files in _choose_files(source):
        paths = [file.path for file in files if can_be_read(file.path)]
        if not paths:
            continue
        rows.append((name, torch.stack([_read_tile(path, source.decoder) for path in paths])))
        if shape is not None:
            size = (shape[2], shape[1])
            used = [source.decoder.decode(path, shape[0], size).pixels for path in paths]
            label = f"as {format_size(size)} {'grey' if shape[0] == 1 else 'RGB'}"
            rows.append((label, torch.from_numpy(np.stack(used)).float() / 255))
    if not rows:
        raise DataError(f"no image of {source.folder} can be read: there is nothing to draw")
    path.parent.mkdir(parents=True, exist_ok=True)
    title = f"{printable(source.folder.name)}: {format_count(len(source.layout.files), 'image')}"
    draw_rows(path, rows, title=title)


def _choose_files(source: FolderSource) -> list[tuple[str, list[ImageFile]]]:
    """Return the rows of a sheet: their names, and images at even distances."""
    files, classes = source.layout.files, source.layout.classes
    if not classes:
        chosen = _spread(files, ROWS * ACROSS)
        lines = [chosen[first : first + ACROSS] for first in range(0, len(chosen), ACROSS)]
        return [("", list(line)) for line in lines]
    sizes = Counter(file.label for file in files)
    largest = sorted(label for label, _ in sizes.most_common(CLASSES) if label is not None)
    return [
        (
            f"{short_name(classes[label])} ({sizes[label]})",
            list(_spread([file for file in files if file.label == label], ACROSS)),
        )
        for label in largest
    ]


def _spread(files: Sequence[ImageFile], most: int) -> Sequence[ImageFile]:
    """Return at most ``most`` of ``files``, at even distances."""
    if len(files) <= most:
        return files
    return [files[round(place * (len(files) - 1) / (most - 1))] for place in range(most)]


def _read_tile(path: Path, decoder: Decoder) -> Tensor:
    """Return a whole image (3, `TILE`, `TILE`) in [0, 1], small, in the middle of a square."""
    pixels = decoder.decode(path, 3).pixels  # (3, H, W)
    small = ImageOps.contain(Image.fromarray(pixels.transpose(1, 2, 0)), (TILE, TILE))
    tile = Image.new("RGB", (TILE, TILE), AROUND)
    tile.paste(small, ((TILE - small.width) // 2, (TILE - small.height) // 2))
    return torch.from_numpy(np.asarray(tile).transpose(2, 0, 1).copy()).float() / 255
