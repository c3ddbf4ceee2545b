"""What a study says of a folder of images before it starts, in one to four lines.

folder:/pets: 24 images of 48x48, 20 RGB, 4 grey; 2 classes of 12 images; 18 to train, ...
  used as 1x28x28: resized from 48x48 to 28x28; colours are lost: 20 images in colour become grey
  not read: 3 files: .gif is not read
"""

from __future__ import annotations

from models.data.description import (
    FolderDescription,
    describe_colors,
    describe_sizes,
    describe_use,
)
from models.data.images import ImageSplits
from search.spelling import spell

SKIPPED = 3  # lines of what is not read; `make look` shows all


def study_lines(images: ImageSplits) -> list[str]:
    """Return what a study says of its images; nothing where they are a set with a name."""
    found = images.folder
    if found is None:
        return []
    colors, *others = describe_colors(found, images.background)
    parts = (
        f"{len(images.train)} to train, {len(images.valid)} to validate, {len(images.test)} to test"
    )
    lines = [
        f"{images.name}: {found.images} images of {describe_sizes(found)}, {colors}"
        f"{_describe_classes(found)}; {parts}"
    ]
    used = [*describe_use(found, images.shape), *others]
    shape = "x".join(map(str, images.shape))
    lines.append(f"  used as {shape}: {'; '.join(used) or 'as they are'}")
    if found.skipped:
        more = len(found.skipped) - SKIPPED
        end = f", and {more} more: {spell('look', DATA=images.name)}" if more > 0 else ""
        lines.append(f"  not read: {', '.join(found.skipped[:SKIPPED])}{end}")
    return lines


def _describe_classes(found: FolderDescription) -> str:
    """Return ``; 2 classes of 12 images``; empty where there are none."""
    sizes: dict[str, int] = {}
    for counts in found.counts.values():
        for name, count in counts.items():
            sizes[name] = sizes.get(name, 0) + count
    if "" in sizes:
        return "; no classes"
    low, high = min(sizes.values()), max(sizes.values())
    span = f"{low} images" if low == high else f"{low} to {high} images"
    return f"; {len(sizes)} classes of {span}"
