"""What a study file does wrong, as one line with its place.

    with mistakes_of(path):
        ...  # run code of that file

Whatever the code raises becomes a `StudyFileError` that names the file and the line. Its
warnings are shown when it is done, and not at all when it fails: then its mistake is the news.
"""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from search.errors import StudyFileError
from storage.errors import short


@contextmanager
def mistakes_of(path: Path) -> Iterator[None]:
    try:
        with warnings.catch_warnings(record=True) as noted:
            yield
    except KeyboardInterrupt:
        raise
    except StudyFileError as error:
        if str(path) in str(error):
            raise
        raise StudyFileError(f"{path}{_line_in(path, error)}: {error}") from error
    except BaseException as error:
        place = f"{path}{_line_in(path, error)}"
        raise StudyFileError(f"{place}: {type(error).__name__}: {_said(error)}") from error
    for warning in noted:
        warnings.showwarning(warning.message, warning.category, warning.filename, warning.lineno)


def _said(error: BaseException) -> str:
    """The first line of its message; a user's exception may have none, or fail to give it."""
    try:
        lines = str(error).strip().splitlines()
    except Exception:
        lines = []
    return short(lines[0]) if lines else "no message"


def _line_in(path: Path, error: BaseException) -> str:
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f", line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename) == path]
    return f", line {lines[-1]}" if lines else ""
