"""The errors of storage/. Each message says what was tried, and how to mend it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path

LONGEST = 200  # characters of somebody else's text in a message
FEWEST_LETTERS = 3  # of the beginning of a name


def short(text: str) -> str:
    """Return ``text`` on one line for a message; the middle of a long text is left out."""
    line = " ".join(text.split())
    half = LONGEST // 2
    return line if len(line) <= LONGEST else f"{line[:half]} ... {line[-half:]}"


def suggest_name(name: str, available: Iterable[str]) -> str:
    """Return ``did you mean 'cae'? `` with the name that was probably meant; empty: none is close.

    The part before the images counts alone, too: `cae-digits` where `caee` was typed. So does a
    beginning: `cae_27-digits` where `cae_` was typed.
    """
    typed = name[:LONGEST].lower()
    in_any_case = {each.lower(): each for each in sorted(available)}
    close = get_close_matches(typed, in_any_case, n=1)
    if not close:
        before = {each.rpartition("-")[0]: each for each in reversed(in_any_case) if "-" in each}
        close = [before[each] for each in get_close_matches(typed, before, n=1)]
    if not close and len(typed) >= FEWEST_LETTERS:
        close = [each for each in in_any_case if each.startswith(typed)][:1]
    return f"did you mean {short(repr(in_any_case[close[0]]))}? " if close else ""


def causes_of(error: BaseException) -> Iterator[BaseException]:
    """Yield ``error`` and the errors behind it."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


class StorageError(Exception):
    """The base of all errors of storage/; the message is one line that a user may see."""


class DatabaseUnreachable(StorageError):
    """The trial database does not answer: wrong STORAGE, a stopped server, no permission."""


class FolderRemoved(StorageError):
    """A folder was removed by somebody else while it was filled."""


class RunsUnwritable(StorageError):
    """Nothing can be written under RUNS: it has another owner, is read-only, or is full."""


class FilesUnusable(StorageError):
    """FILES names no place in which files can be kept: wrong, without rights, or not there."""


class FilesAway(StorageError):
    """FILES cannot be reached now, though it could be before."""


class FileTooLarge(StorageError):
    """A file is too large for the database, in which FILES keeps it."""


class DiskFull(StorageError, OSError):
    """A file does not fit on its disk; the earlier file is still there, whole."""

    place: Path


class StudyNotFound(StorageError):
    """The trial database has no study of that name."""


class SeveralObjectives(StorageError):
    """A study of Optuna's own has several objectives, so that no trial is the best of all."""
