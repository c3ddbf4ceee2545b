"""Notices when the cached file of images changes while a study runs.

    images, file = open_watched(path)
    ...                                   # an epoch
    file.check()                          # raises `ImagesChanged` if the images were others

Images are mapped from their file, so that all workers share one copy in memory. A program that
writes to the file, or empties it, changes the images of all of them. A look at the file's size and
times takes a microsecond; the file is read again only if these have changed. A file that was
removed, or got another name, keeps its content for the workers that have it open.
"""

from __future__ import annotations

import os
import weakref
from pathlib import Path

from models.data.images import ImageSplits
from models.data.loading import open_images
from models.errors import DataError, ImagesChanged, TensorFileError
from models.sealed_files import FileState, read_seal, whole_state
from models.seals import check_content


def open_watched(path: Path) -> tuple[ImageSplits, WatchedImages]:
    """Return the images in ``path``, and what tells whether they are still the same.

    Raises what `open_images` raises.
    """
    watched = WatchedImages(path)
    images = open_images(path)
    if whole_state(path) != watched.state:
        raise DataError(f"the cached images in {path} changed while they were opened; run again")
    return images, watched


class WatchedImages:
    """An open file of images. Raises `DataError` where there is none."""

    def __init__(self, path: Path) -> None:
        try:
            self.opened = os.open(path, os.O_RDONLY)
            weakref.finalize(self, os.close, self.opened)
            self.state = FileState.of(self.opened)
            self.seal = read_seal(path)
        except (TensorFileError, OSError) as error:
            raise DataError(f"the cached images in {path} cannot be read ({error})") from error
        self.path = path

    def check(self) -> None:
        """Raise `ImagesChanged` unless the file holds what it held when it was opened."""
        now = FileState.of(self.opened)
        if now == self.state:
            return
        if not self._holds_the_same():
            raise ImagesChanged(f"the cached images in {self.path} changed while they were in use")
        self.state = now

    def _holds_the_same(self) -> bool:
        """Read the whole file, and compare its seal. A file without a seal cannot be compared."""
        with os.fdopen(os.dup(self.opened), "rb") as file:
            try:
                return self.seal is not None and check_content(file) == self.seal
            except TensorFileError:
                return False
