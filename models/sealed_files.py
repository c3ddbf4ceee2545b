"""Sealed files on the disk: found whole, written whole, or set aside.

    write_tensors(path, tensors, header, of={"study": "3f2a", "trial": 7})    # models.tensor_files
    check_seal(path, of={"study": "3f2a", "trial": 7})   # raises `TensorFileError` where not so
    set_aside(path)                                      # kept in the folder `set-aside`

A file that was found whole is not read again until its `FileState` changes. Nothing here needs
torch: lists and supervisors check files, too.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from uuid import uuid4

from models.errors import TensorFileError
from models.seals import Identity, Seal, check_content, entries_of, read_header, seal_in

SETTLED = 100_000_000  # nanoseconds since a change
KEPT_ASIDE = 3  # files in a folder `set-aside`


@dataclass(frozen=True, kw_only=True)
class FileState:
    """What changes with a file's content: where it lies, how long it is, and when it changed."""

    device: int
    inode: int
    size: int
    modified: int
    changed: int

    @classmethod
    def of(cls, opened: int) -> Self:
        """Return the state of an open file, even if another file has its name now."""
        found = os.fstat(opened)
        return cls(
            device=found.st_dev,
            inode=found.st_ino,
            size=found.st_size,
            modified=found.st_mtime_ns,
            changed=found.st_ctime_ns,
        )

    @property
    def is_settled(self) -> bool:
        """Whether a later change would show: the system's clock for files has coarse steps."""
        return abs(time.time_ns() - self.changed) > SETTLED


_whole: dict[Path, tuple[FileState, Seal | None]] = {}  # files that this process has found whole


def read_seal(path: Path) -> Seal | None:
    """Return the seal of the whole file ``path``; None: an older version wrote it, without one.

    Raises `TensorFileError` for a damaged file, and `OSError` for one that cannot be read.
    """
    return _check(path)[1]


def whole_state(path: Path) -> FileState:
    """Return the state in which ``path`` was found whole. Raises what `read_seal` raises."""
    return _check(path)[0]


def trust(path: Path, state: FileState) -> None:
    """Take a file as whole, because another process has found it whole in this state.

    It is not read again as long as it has this state.
    """
    _whole[path] = (state, glance_at_seal(path))


def _check(path: Path) -> tuple[FileState, Seal | None]:
    """Return state and seal of a whole file."""
    with path.open("rb") as file:
        state = FileState.of(file.fileno())
        known = _whole.get(path)
        if known is not None and known[0] == state:
            return known
        found = state, check_content(file)
    if state.is_settled:
        _whole[path] = found
    return found


def check_seal(path: Path, *, of: Identity) -> Seal | None:
    """Return the seal of ``path``, a whole file that belongs to ``of``; None as in `read_seal`."""
    seal = read_seal(path)
    if seal is not None:
        seal.check(of)
    return seal


def is_whole(path: Path, *, of: Identity) -> bool:
    """Whether ``path`` is there, whole, and belongs to ``of``."""
    try:
        check_seal(path, of=of)
    except (TensorFileError, OSError):
        return False
    return True


def glance_at_seal(path: Path) -> Seal | None:
    """Return the seal of ``path`` without reading what it seals; None where none is seen."""
    try:
        with path.open("rb") as file:
            return seal_in(entries_of(read_header(file)[1]))
    except (TensorFileError, OSError):
        return None


def set_aside(path: Path) -> Path:
    """Move an unusable file into the folder `set-aside`, and return its new path.

    The latest few files stay there, for a person who wants to know what happened.
    """
    place = path.parent / "set-aside"
    place.mkdir(exist_ok=True)
    kept = place / path.name
    path.replace(kept)
    os.utime(kept)
    for old in sorted(place.iterdir(), key=_last_change)[:-KEPT_ASIDE]:
        old.unlink(missing_ok=True)
    return kept


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Give a path beside ``path`` to write to, and rename that file when the block has ended.

    A reader never meets half a file, not even after a power cut; where the block fails, ``path``
    stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        yield beside
        _sync(beside)
        beside.replace(path)
        _sync(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Have the system write a file, or the names in a folder, to the disk now."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _last_change(path: Path) -> int:
    return path.lstat().st_mtime_ns
