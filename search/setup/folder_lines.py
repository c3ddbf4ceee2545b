"""What a study says of a folder of images before it starts, in one to three lines.

    folder:/pets: 24 images of 48x48, 20 RGB, 4 grey; 2 classes of 12 images; 18 to train, ...
      used as 1x28x28: transparency in 20 images: shown on #ffffff
      not read: 3 files: .gif is not read

What images lose on the way is said loudly, after these lines (`search.setup.fitting`).
"""

from __future__ import annotations

from models.data.description import (
    FolderDescription,
    describe_colors,
    describe_losses,
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
    losses = len(describe_losses(found, images.shape))
    used = [*describe_use(found, images.shape)[losses:], *others]
    if not losses and not used:
        used = ["as they are"]
    shape = "x".join(map(str, images.shape))
    lines.append(f"  used as {shape}{': ' if used else ''}{'; '.join(used)}")
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
