"""Images that stand in two parts of a set: a model has learned what it is tested on.

    find_leaks(source.plan_parts())    # [(test image, the same file among training images), ...]

Files count as the same if every byte is. Only files of the same size are read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from models.data.layout import ImageFile


def find_leaks(parts: Mapping[str, Sequence[ImageFile]]) -> list[tuple[ImageFile, ImageFile]]:
    """Return the validation and test images that are also training images, each with its twin."""
    trained: dict[int, list[ImageFile]] = {}
    for file in parts["train"]:
        trained.setdefault(file.path.stat().st_size, []).append(file)
    digests: dict[Path, bytes] = {}

    def content(file: ImageFile) -> bytes:
        if file.path not in digests:
            with file.path.open("rb") as opened:
                digests[file.path] = hashlib.file_digest(opened, "sha256").digest()
        return digests[file.path]

    leaks = []
    for file in [*parts["valid"], *parts["test"]]:
        for other in trained.get(file.path.stat().st_size, ()):
            if content(other) == content(file):
                leaks.append((file, other))
                break
    return leaks
