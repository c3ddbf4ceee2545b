"""What a folder of images holds, in numbers and in words: sizes, colours, what is left out.

    found = FolderDescription.of(headers, layout)
    describe_use(found, (1, 28, 28))         # ["20 colour images become grey", ...]

Numbers of one set fit into the header of its cached file, so that a study can say what it trains
on without opening an image again.

Shape legend: C channels, H/W pixels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from models.data.decoding import FULL, HIDDEN, Header
from models.data.layout import FolderLayout
from models.errors import format_count

Size = tuple[int, int]
"""(width, height) in pixels."""
Shape = tuple[int, int, int]

WORDS = {
    "1": "black and white", "L": "grey", "LA": "grey with alpha", "La": "grey with alpha",
    "P": "palette", "PA": "palette with alpha", "RGBA": "RGB with alpha", "RGBa": "RGB with alpha",
    "I": "grey of 16 bits",
}  # fmt: skip
LITTLE = 0.02  # share of an image: nobody misses less


@dataclass(frozen=True, kw_only=True)
class FolderDescription:
    """The images of a folder, as they are before anything is resized.

    counts: images of each class in each part, ``{"train": {"cats": 9}}``, before anything is held
        out; a folder without parts has the part ``all``, one without classes the class ``""``
    smallest, median, largest: sizes, ordered by area; common: the most frequent one
    sizes: how many different ones; aspects: lowest, median and highest width / height
    modes: how many images are ``RGB``, ``grey``, ...; colored: how many may have colours
    transparent, rotated, framed: images with transparency, turned by EXIF, with several pages
    depth: bits that count in files of 16 bits; 0: there are none
    skipped: lines on what is not read; broken: lines on what cannot be decoded
    """

    images: int
    counts: Mapping[str, Mapping[str, int]]
    smallest: Size
    median: Size
    largest: Size
    common: Size
    sizes: int
    aspects: tuple[float, float, float]
    modes: Mapping[str, int]
    colored: int
    transparent: int = 0
    rotated: int = 0
    framed: int = 0
    depth: int = 0
    skipped: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        headers: Sequence[Header],
        layout: FolderLayout,
        *,
        depth: int = FULL,
        transparent: int = 0,
        broken: Sequence[str] = (),
    ) -> FolderDescription:
        """Describe a folder of which ``headers`` could be read."""
        sizes = sorted((header.size for header in headers), key=lambda size: size[0] * size[1])
        ratios = sorted(width / height for width, height in sizes)
        middle = len(sizes) // 2
        modes = Counter(WORDS.get(header.mode, header.mode) for header in headers)
        deep = sum(header.is_deep for header in headers)
        if deep:
            modes = Counter(
                "grey of 16 bits" if header.is_deep else WORDS.get(header.mode, header.mode)
                for header in headers
            )
        return cls(
            images=len(layout.files),
            counts=count_files(layout),
            smallest=sizes[0],
            median=sizes[middle],
            largest=sizes[-1],
            common=Counter(sizes).most_common(1)[0][0],
            sizes=len(set(sizes)),
            aspects=(ratios[0], ratios[middle], ratios[-1]),
            modes=dict(modes.most_common()),
            colored=sum(not header.is_grey for header in headers),
            transparent=transparent,
            rotated=sum(header.rotated for header in headers),
            framed=sum(header.frames > 1 for header in headers),
            depth=depth if deep else 0,
            skipped=tuple(map(str, layout.skipped)),
            broken=tuple(broken),
        )

    def to_plain(self) -> dict[str, Any]:
        """Return the description as JSON takes it."""
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> FolderDescription:
        """Return the description that `to_plain` wrote."""
        values: dict[str, Any] = {
            each.name: tuple(plain[each.name])
            if isinstance(plain[each.name], list)
            else plain[each.name]
            for each in fields(cls)
            if each.name in plain
        }
        return cls(**values)


def count_files(layout: FolderLayout) -> dict[str, dict[str, int]]:
    """Return how many images each class has in each part of a folder."""
    counts: dict[str, dict[str, int]] = {}
    for part in layout.parts or ("",):
        files = layout.of_part(part)
        if not layout.classes:
            counts[part or "all"] = {"": len(files)}
            continue
        found = Counter(file.label for file in files)
        counts[part or "all"] = {name: found[index] for index, name in enumerate(layout.classes)}
    return counts


def describe_sizes(found: FolderDescription) -> str:
    """Return ``48x48``, or ``12x9 to 640x480, median 300x200 (12 sizes)``."""
    if found.sizes == 1:
        return format_size(found.median)
    smallest, largest = format_size(found.smallest), format_size(found.largest)
    median = format_size(found.median)
    return f"{smallest} to {largest}, median {median} ({found.sizes} sizes)"


def describe_colors(found: FolderDescription, background: str) -> list[str]:
    """Return what the pixels are, and what is done to those that are not plain grey or RGB."""
    lines = [", ".join(f"{count} {word}" for word, count in found.modes.items())]
    if found.transparent:
        hidden = "the colours hidden under it are shown"
        ground = hidden if background == HIDDEN else f"shown on {background}"
        lines.append(f"transparency in {_images(found.transparent)}: {ground}")
    if found.depth:
        of_16 = "" if found.depth == FULL else f", of which {found.depth} hold values"
        lines.append(f"files of 16 bits a pixel{of_16}: the upper 8 count")
    if found.rotated:
        lines.append(f"{_images(found.rotated)} turned upright, as EXIF data say")
    if found.framed:
        lines.append(f"{_images(found.framed)} with several pages: the first counts")
    return lines


def describe_use(found: FolderDescription, shape: Shape) -> list[str]:
    """Return what is done to the images of a folder so that all have ``shape`` (C, H, W)."""
    lines = describe_losses(found, shape)
    if shape[0] == 3 and not found.colored:
        lines.append("grey images get three equal channels")
    return lines


def describe_losses(found: FolderDescription, shape: Shape) -> list[str]:
    """Return what images lose, or seem to gain, when all are brought to ``shape`` (C, H, W)."""
    channels, height, width = shape
    lines = []
    if found.sizes > 1 or found.median != (width, height):
        whole = describe_sizes(found) if found.sizes == 1 else f"{found.sizes} sizes"
        lines.append(f"resized from {whole} to {format_size((width, height))}")
    enlarged = width * height / (found.median[0] * found.median[1])
    if enlarged > 1 + LITTLE:
        lines.append(f"enlarged: the median image has {1 / enlarged:.0%} of the pixels")
    lost = [_cut_share(aspect, width / height) for aspect in found.aspects]
    if max(lost) > LITTLE:
        lines.append(
            f"cropped from the centre: {lost[1]:.0%} of the median image is cut off, at most "
            f"{max(lost):.0%}"
        )
    if channels == 1 and found.colored:
        lines.append(f"colours are lost: {_images(found.colored)} in colour become grey")
    return lines


def _cut_share(aspect: float, wanted: float) -> float:
    """Return the share of an image that a crop to another width / height leaves out."""
    return 1 - min(aspect / wanted, wanted / aspect)


def format_size(size: Size) -> str:
    """Return ``640x480``: width and height."""
    return f"{size[0]}x{size[1]}"


def _images(count: int) -> str:
    return format_count(count, "image")
