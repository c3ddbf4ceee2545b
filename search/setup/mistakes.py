"""Report what a study file does wrong as one line with its place.

    with mistakes_of(path):
        ...  # run code of that file

Whatever the code raises becomes a `StudyFileError` that names the file and the line. The code's
warnings are shown when it is done. If it fails, only the mistake is shown.
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
    """Turn what the code of the file ``path`` raises into a `StudyFileError`."""
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
        raise StudyFileError(f"{place}: {type(error).__name__}: {_first_line(error)}") from error
    for warning in noted:
        warnings.showwarning(warning.message, warning.category, warning.filename, warning.lineno)


def _first_line(error: BaseException) -> str:
    """Return the first line of the message; an exception of a user may have none, or raise."""
    try:
        lines = str(error).strip().splitlines()
    except Exception:
        lines = []
    return short(lines[0]) if lines else "no message"


def _line_in(path: Path, error: BaseException) -> str:
    """Return ``, line 7``: where in the file ``path`` the error comes from; or nothing."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f", line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename) == path]
    return f", line {lines[-1]}" if lines else ""
