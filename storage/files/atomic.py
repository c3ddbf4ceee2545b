"""Files that are whole or not there."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from storage.errors import DiskFull

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # on the disk, of one's share, in a file


@contextmanager
def atomic_file(path: Path, *, needs: int = 0) -> Iterator[Path]:
    """A temporary path to write to; it becomes ``path`` at the end, or nothing does.

    The old file stays as it was when writing fails or the process is killed.
    needs: bytes that it takes at least, for the message of `DiskFull`
    """
    beside = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield beside
        with beside.open("rb") as written:
            os.fsync(written.fileno())
        beside.replace(path)
    except OSError as error:
        with suppress(OSError):
            beside.unlink()
        if is_full(error):
            raise disk_full(path, error, needs=needs) from error
        raise
    finally:
        beside.unlink(missing_ok=True)


def is_full(error: BaseException) -> bool:
    """Whether there was no space to write."""
    return isinstance(error, DiskFull) or (isinstance(error, OSError) and error.errno in NO_SPACE)


def disk_full(place: Path, error: OSError, *, needs: int = 0, file: str = "") -> DiskFull:
    """What is said when ``place`` (in it, ``file``) does not fit; ``needs``: bytes at least."""
    free = shutil.disk_usage(_existing(place)).free
    cause = error.__cause__ if isinstance(error, DiskFull) else error
    where = f"{place} ({file})" if file else str(place)
    least = f"it takes at least {needs:,} bytes, " if needs else ""
    told = DiskFull(
        f"cannot write {where}: {getattr(cause, 'strerror', cause)}; {least}{free:,} are free; "
        "make room, then the same command goes on"
    )
    told.place = place
    return told


def _existing(place: Path) -> Path:
    return place if place.exists() else _existing(place.parent)


def write_json(path: Path, content: Any) -> None:
    with atomic_file(path) as beside:
        beside.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
