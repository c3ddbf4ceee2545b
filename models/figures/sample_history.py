"""Pictures of how a generator learned: for every epoch a row of samples of the same noise.

    row = model.fixed_samples(images, "valid", 10)         # after each epoch
    write_row(path, row)                                   # a small PNG, kept beside a checkpoint
    draw_learned(folder / "learned.png", {1: path, ...}, "gan_balance trial 7")
    write_animation(folder / "learned.gif", {1: path, ...})

Shape legend: N images of a row, C channels, H/W pixels.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from models.figures.canvas import as_picture
from models.figures.grids import draw_rows

if TYPE_CHECKING:
    from PIL.Image import Image

ROWS, COLUMNS = 10, 10  # of images in a picture, at most
LARGEST_TILE = 96  # pixels of an image in a row: as many as a picture shows of it
FRAME = 320  # pixels of an animation's longer side, about
SHOWN_FOR, LAST_FOR = 350, 2500  # milliseconds of a frame, of the last one
LARGEST_ANIMATION = 2_000_000  # bytes
HEADER = 18  # pixels above a frame's images, for its epoch
COLORS = 64
COUNT = "images"  # the word in a row's file that tells how many there are


def write_row(path: Path, images: Tensor) -> None:
    """Write samples (N, C, H, W) in [0, 1] side by side as PNG, whatever the suffix; large ones
    are made smaller."""
    from PIL import Image, PngImagePlugin

    shrink = LARGEST_TILE / max(images.shape[-2:])
    images = images.detach().float().cpu()
    if shrink < 1:
        images = F.interpolate(images, scale_factor=shrink, mode="area")
    strip = np.concatenate([as_picture(image) for image in images], axis=1)  # (H, N * W, 3)
    drawn = Image.fromarray((np.nan_to_num(strip) * 255).round().astype(np.uint8))
    if images.shape[1] == 1:
        drawn = drawn.convert("L")
    about = PngImagePlugin.PngInfo()
    about.add_text(COUNT, str(len(images)))
    drawn.save(path, format="PNG", pnginfo=about)


def read_row(path: Path) -> Tensor:
    """Read the samples that `write_row` wrote: (N, C, H, W) in [0, 1]."""
    from PIL import Image

    with Image.open(path, formats=("PNG",)) as file:
        pixels = np.asarray(file)
        count = int(file.info[COUNT])
    pixels = pixels.reshape(*pixels.shape[:2], -1)  # (H, N * W, C)
    tiles = np.stack(np.split(pixels, count, axis=1))  # (N, H, W, C)
    return torch.from_numpy(tiles).permute(0, 3, 1, 2).float() / 255


def draw_learned(
    path: Path, rows: Mapping[int, Path], title: str, *, best: int | None = None
) -> None:
    """Draw the rows of at most `ROWS` epochs, one under the other.

    best: the epoch whose weights were kept: it is always shown, and named
    """
    epochs = choose_epochs(sorted(rows), ROWS)
    if best in rows and best not in epochs:
        assert best is not None
        nearest = min(epochs[1:-1] or epochs, key=lambda epoch: abs(epoch - best))
        epochs = sorted({*epochs, best} - {nearest})
    names = {epoch: f"epoch {epoch}" + (" (best)" if epoch == best else "") for epoch in epochs}
    shown = {names[epoch]: read_row(rows[epoch])[:COLUMNS] for epoch in epochs}
    draw_rows(path, shown, title=f"{title}: the same noise, epoch after epoch")


def choose_epochs(epochs: Sequence[int], most: int) -> list[int]:
    """Choose ``most`` of ``epochs`` at even distances, with the first and the last; all where there
    are no more."""
    if len(epochs) <= most:
        return list(epochs)
    last = len(epochs) - 1
    return [epochs[round(place * last / (most - 1))] for place in range(most)]


def write_animation(path: Path, rows: Mapping[int, Path], *, most: int = LARGEST_ANIMATION) -> None:
    """Write a GIF that repeats for ever, with a frame an epoch: the row's samples as a grid.

    most: bytes; a larger one leaves out epochs, but never the first and the last
    """
    epochs = sorted(rows)
    while True:
        content = _gif_content([_draw_frame(read_row(rows[epoch]), epoch) for epoch in epochs])
        if len(content) <= most or len(epochs) <= 2:
            break
        fitting = int(len(epochs) * most / len(content))
        epochs = choose_epochs(epochs, max(2, min(fitting, len(epochs) - 1)))
    path.write_bytes(content)


def _draw_frame(images: Tensor, epoch: int) -> Image:
    """Return images (N, C, H, W) as a grid about as wide as high, under the epoch's number."""
    from PIL import Image, ImageDraw, ImageFont

    columns = math.ceil(math.sqrt(len(images)))
    while len(images) % columns:  # no gap in the last row
        columns += 1
    largest = FRAME / columns / max(images.shape[-2:])
    if largest < 0.75:  # an image that is only a little too large stays sharp
        images = F.interpolate(images, scale_factor=largest, mode="area")
    gap = ((0, 1), (0, 1), (0, 0))
    tiles = [np.pad(as_picture(image), gap, constant_values=0.5) for image in images]
    lines = [np.concatenate(tiles[i : i + columns], axis=1) for i in range(0, len(tiles), columns)]
    grid = np.concatenate(lines)
    scale = max(1, round(FRAME / max(grid.shape[:2])))
    pixels = (grid * 255).round().astype(np.uint8).repeat(scale, axis=0).repeat(scale, axis=1)
    height, width = pixels.shape[:2]
    frame = Image.new("RGB", (width, height + HEADER), "white")
    frame.paste(Image.fromarray(pixels), (0, HEADER))
    words = ImageDraw.Draw(frame)
    words.text((4, 2), f"epoch {epoch}", fill="black", font=ImageFont.load_default(13))
    if images.shape[1] == 1:
        return frame.convert("L").quantize(COLORS)
    return frame.quantize(COLORS, dither=Image.Dither.NONE)


def _gif_content(frames: Sequence[Image]) -> bytes:
    """Return the content of a GIF with these frames."""
    whole = io.BytesIO()
    first, *others = frames
    shown = [SHOWN_FOR] * len(others) + [LAST_FOR]
    if others:
        first.save(
            whole, format="GIF", save_all=True, append_images=others, duration=shown, loop=0,
            disposal=1, optimize=False,
        )  # fmt: skip
    else:
        first.save(whole, format="GIF")
    return whole.getvalue()
