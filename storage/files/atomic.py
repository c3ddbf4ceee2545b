"""Files that are whole or not there at all: also on a full disk, after a kill or a power cut.

    with atomic_file(path) as beside:
        beside.write_bytes(content)
    write_json(path, {"seed": 1})

What gets its name is on the disk first. A system may write a new name before the content that it
stands for, and after a power cut the file would be empty.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from storage.errors import DiskFull
from storage.files.temporary import temporary_name

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # full: the disk, a quota, a file


@contextmanager
def atomic_file(
    path: Path, *, needs: int = 0, earlier: Path | None = None, lasting: bool = True
) -> Iterator[Path]:
    """Yield a temporary path to write to, which becomes ``path`` at the end.

    When writing fails or the process is killed, the old file stays as it was.
    needs: bytes that the file takes at least, for the message of `DiskFull`
    earlier: where the old file is kept; None: the new one takes its place
    lasting: whether the new name is on the disk, too, at the end; else a power cut may bring the
        old file back, whole
    """
    beside = path.with_name(temporary_name(path.name))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield beside
        sync(beside)
        if earlier is not None and path.exists():
            path.replace(earlier)
        beside.replace(path)
        if lasting:
            sync(path.parent)
    except OSError as error:
        with suppress(OSError):
            beside.unlink()
        if is_full(error):
            raise disk_full(path, error, needs=needs) from error
        raise
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def temporary_folder(place: Path) -> Iterator[Path]:
    """Yield a folder in ``place`` that is gone at the end; after a kill it is removed later."""
    folder = place / temporary_name("temporary")
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sync(path: Path) -> None:
    """Have the system write a file, or the names in a folder, to the disk now."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def is_full(error: BaseException) -> bool:
    """Return whether ``error`` means that there was no space to write."""
    return isinstance(error, DiskFull) or (isinstance(error, OSError) and error.errno in NO_SPACE)


def disk_full(place: Path, error: OSError, *, needs: int = 0, file: str = "") -> DiskFull:
    """Return the error for a ``place`` that does not fit on its disk.

    needs: bytes that it takes at least; file: the one in ``place`` that did not fit
    """
    free = shutil.disk_usage(_existing_parent(place)).free
    cause = error.__cause__ if isinstance(error, DiskFull) else error
    where = f"{place} ({file})" if file else str(place)
    least = f"it takes at least {needs:,} bytes, " if needs else ""
    full = DiskFull(
        f"cannot write {where}: {getattr(cause, 'strerror', cause)}; {least}{free:,} are free; "
        "make room, then the same command goes on"
    )
    full.place = place
    return full


def _existing_parent(place: Path) -> Path:
    """Return ``place``, or the nearest folder above it that exists."""
    return place if place.exists() else _existing_parent(place.parent)


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as JSON, with sorted keys, whole or not at all."""
    with atomic_file(path) as beside:
        beside.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
