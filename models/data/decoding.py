"""One image file becomes pixels of 8 bits, grey or RGB, as a person sees it.

    Decoder(background="#ffffff").decode(Path("cat.png"), channels=3, size=(64, 64)).pixels

- A photo is turned as its EXIF data say.
- What is transparent shows the background; without one (`HIDDEN`) it shows the colours that are
  hidden there, which are often noise.
- Of 16 bits the upper 8 count. Where a folder's values need only 10, 12 or 14 bits, as cameras
  for science write them, the upper 8 of those.
- Pixels of 32 bits, signed ones and fractions are refused, for nobody knows their white.
- A file is what its content says, whatever its name; of Pillow's formats only `KINDS` are read.

Shape legend: C channels, H/W pixels.
"""

from __future__ import annotations

import errno
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageColor, ImageOps, UnidentifiedImageError

from models.errors import DataError, first_line, short

Array = np.ndarray[Any, np.dtype[Any]]

MODES = {1: "L", 3: "RGB"}  # Pillow's name, by number of channels
WHITE, HIDDEN = "#ffffff", "none"
DEPTHS = (8, 10, 12, 14, 16)  # bits that cameras and scanners have
FULL = 16  # bits of a deep file where nothing else is known
GREYS = {"1", "L", "LA", "La", "I;16", "I;16L", "I;16B", "I;16N", "I"}
ALPHAS = {"RGBA", "LA", "PA", "RGBa", "La"}
SAMPLES = {1: "whole numbers", 2: "signed numbers", 3: "fractions"}  # TIFF's SampleFormat
ROTATED = 0x0112  # EXIF's orientation: 1 is upright
# Pillow knows forty more, and some are programs: it hands PostScript to Ghostscript. GIF and AVIF
# are here since photos from the web often are one of them, whatever their suffix says.
KINDS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "PPM", "GIF", "AVIF")


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a file says of itself.

    size: (width, height) as it will be seen; mode: Pillow's name; kind: ``PNG``, ``JPEG``, ...
    is_deep: grey values of 16 bits; rotated: EXIF data turn it; frames: pages or frames, all but
    the first of which are left out
    """

    size: tuple[int, int]
    mode: str
    kind: str
    is_deep: bool = False
    rotated: bool = False
    frames: int = 1

    @property
    def is_grey(self) -> bool:
        return self.mode in GREYS


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """pixels (C, H, W) uint8; header; transparent: whether anything shows through."""

    pixels: Array
    header: Header
    transparent: bool


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """How the files of one folder are read.

    background: what shows through, as ``#rrggbb``, or `HIDDEN`
    depth: bits of the files of 16 bits that count
    """

    background: str = WHITE
    depth: int = FULL

    def fitted(self, deep: Iterable[Path]) -> Decoder:
        """Return a decoder for a folder whose files of 16 bits are ``deep``."""
        return replace(self, depth=measure_depth(deep))

    def decode(
        self, path: Path, channels: int | None = None, size: tuple[int, int] | None = None
    ) -> Decoded:
        """Decode one file, resized and cropped from the centre to ``size`` (width, height).

        channels: 1 or 3; None: grey stays grey, all else is RGB

        Raises `DataError` for whatever cannot be decoded.
        """
        with _naming(path), open_image(path) as opened:
            header = _read_header(opened)
            image: Image.Image = ImageOps.exif_transpose(opened)
            if header.is_deep:
                image = self._to_eight_bits(image)
            elif opened.mode.startswith(("I", "F")):
                raise DataError(_explain_bits(path, opened))
            shown, transparent = self._on_background(image)
            if channels is None:
                channels = 1 if shown.mode in GREYS else 3
            shown = shown.convert(MODES[channels])
            if size is not None and shown.size != size:
                shown = ImageOps.fit(shown, size, Image.Resampling.BILINEAR)
            pixels = np.asarray(shown)
        pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)  # (C, H, W)
        return Decoded(pixels=np.array(pixels), header=header, transparent=transparent)

    def _to_eight_bits(self, image: Image.Image) -> Image.Image:
        """Keep the upper 8 of `depth` bits; Pillow would make all values above 255 white."""
        values = np.asarray(image).astype(np.int64)
        pixels = np.minimum(values >> (self.depth - 8), 255).astype(np.uint8)  # (H, W)
        clear = image.info.get("transparency")
        if not isinstance(clear, int):
            return Image.fromarray(pixels)
        alpha = np.where(values == clear, 0, 255).astype(np.uint8)  # one grey value is no colour
        return Image.merge("LA", (Image.fromarray(pixels), Image.fromarray(alpha)))

    def _on_background(self, image: Image.Image) -> tuple[Image.Image, bool]:
        """Return the image on the background, and whether it is transparent anywhere."""
        if image.mode not in ALPHAS and "transparency" not in image.info:
            return image, False
        colors = image.convert("LA" if image.mode == "La" else "RGBA").convert("RGBA")
        is_clear = colors.getchannel("A").getextrema()[0] < 255  # type: ignore[operator]
        if self.background == HIDDEN or not is_clear:
            return image, is_clear
        ground = Image.new("RGBA", colors.size, ImageColor.getrgb(self.background))
        ground.alpha_composite(colors)
        red, green, blue = ImageColor.getrgb(self.background)[:3]
        is_grey = image.mode in GREYS and red == green == blue
        return ground.convert("L" if is_grey else "RGB"), True


def open_image(file: Path | BinaryIO) -> Image.Image:
    """Open an image of one of `KINDS`; Pillow raises its `UnidentifiedImageError` for all else."""
    return Image.open(file, formats=KINDS)


def read_header(path: Path) -> Header:
    """Read what a file says of itself, without its pixels. Raises `DataError`."""
    with _naming(path), open_image(path) as opened:
        return _read_header(opened)


def measure_depth(paths: Iterable[Path]) -> int:
    """Return how many bits the values of files of 16 bits need, as cameras have them."""
    largest = -1
    for path in paths:
        with _naming(path), open_image(path) as opened:
            if not _knows_its_white(opened):
                largest = max(largest, int(np.asarray(opened).max()))
            else:
                largest = 2**FULL - 1
        if largest >= 2 ** DEPTHS[-2]:
            break
    return next(bits for bits in DEPTHS if largest < 2**bits) if largest >= 0 else FULL


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Name the file in whatever goes wrong in the block, and hide Pillow's remarks."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on odd files that can be read
            yield
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise DataError(
            f"cannot decode {path} (it is none of {', '.join(KINDS)}); replace or remove that file"
        ) from error
    except Exception as error:  # damaged files make Pillow's readers raise errors of all kinds
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            raise  # which says nothing of the file
        raise DataError(
            f"cannot decode {path} ({short(first_line(error))}); replace or remove that file"
        ) from error


def _read_header(opened: Image.Image) -> Header:
    kind = opened.format or ""
    has_tags = kind != "PNG" or "exif" in opened.info  # else Pillow would read all pixels for them
    orientation = opened.getexif().get(ROTATED, 1) if has_tags else 1
    width, height = opened.size
    return Header(
        size=(height, width) if orientation in (5, 6, 7, 8) else (width, height),
        mode=opened.mode,
        kind=kind,
        is_deep=opened.mode.startswith("I;16") or (opened.mode == "I" and kind == "PPM"),
        rotated=orientation in range(2, 9),
        frames=getattr(opened, "n_frames", 1),
    )


def _knows_its_white(opened: Image.Image) -> bool:
    """Say whether the file names its largest value, as Netpbm's do; Pillow then stretches it."""
    tiles: list[Any] = getattr(opened, "tile", [])
    return opened.format == "PPM" and any(tile[0] != "raw" for tile in tiles)


def _explain_bits(path: Path, opened: Image.Image) -> str:
    bits, numbers = 32, "fractions" if opened.mode == "F" else "whole numbers"
    tags = getattr(opened, "tag_v2", None)
    if tags is not None:  # a TIFF file
        found = tags.get(258, bits)
        bits = int(found[0] if isinstance(found, tuple) else found)
        sample = tags.get(339, 1)
        numbers = SAMPLES.get(sample[0] if isinstance(sample, tuple) else sample, numbers)
    return (
        f"{path} has pixels of {bits} bits ({numbers}), whose value of white is unknown; save it "
        "with 8 or 16 bits a channel, from 0 for black"
    )
