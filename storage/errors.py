"""What can go wrong with what is kept. Each message says what was tried and the fix."""

from __future__ import annotations

from pathlib import Path

LONGEST = 200  # characters of somebody else's text in a message


def short(text: str) -> str:
    """``text`` on one line, its middle left out where it is long: for messages."""
    line = " ".join(text.split())
    half = LONGEST // 2
    return line if len(line) <= LONGEST else f"{line[:half]} ... {line[-half:]}"


class StorageError(Exception):
    """Base of all errors of this room; the message is one line, fit to show to a user."""


class DatabaseUnreachable(StorageError):
    """The trial database does not answer: wrong STORAGE, a stopped server, no permission."""


class RunsUnwritable(StorageError):
    """Nothing can be written under RUNS: another owner, a read-only disk, or no space left."""


class DiskFull(StorageError, OSError):
    """A file does not fit on its disk; what was there before is still there, whole."""

    place: Path


class StudyNotFound(StorageError):
    """The trial database has no study of that name."""
