"""Report what the code of a study does wrong as one line with its place.

    with mistakes_of(path):
        ...  # run code of that study

Whatever the code raises becomes a `StudyFileError` that names a file and a line of the user: the
innermost one, be it in the study's file or in a model beside it. The code's warnings are shown when
it is done, each once. If it fails, only the mistake is shown.
"""

from __future__ import annotations

import sysconfig
import traceback
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from search.errors import StudyFileError
from storage.errors import causes_of, short

ROOT = Path(__file__).parents[2]
OURS = tuple(f"{ROOT / room}/" for room in ("models", "search", "storage"))
STUDIES = f"{ROOT / 'search' / 'studies'}/"
PYTHON = tuple(
    f"{Path(place).resolve()}/"
    for place in {sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib")}
)
PACKAGES = ("/site-packages/", "/dist-packages/")

_said: set[tuple[str, str, str]] = set()  # warnings: study, kind and text


@contextmanager
def mistakes_of(path: Path) -> Iterator[None]:
    """Turn what the code of the study in the file ``path`` raises into a `StudyFileError`."""
    try:
        with warnings.catch_warnings(record=True) as noted:
            yield
    except KeyboardInterrupt:
        raise
    except StudyFileError as error:
        if str(path) in str(error):
            raise
        raise StudyFileError(f"{find_place(error, path)}: {error}") from error
    except BaseException as error:
        raise StudyFileError(f"{find_place(error, path)}: {describe_mistake(error)}") from error
    for warning in noted:
        key = (str(path), warning.category.__name__, str(warning.message))
        if key not in _said:
            _said.add(key)
            warnings.showwarning(
                warning.message, warning.category, warning.filename, warning.lineno
            )


def show_warnings_once() -> None:
    """Show each warning of this process once, wherever it comes from and however often."""
    shown: set[tuple[type[Warning], str]] = set()
    plain = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: Any, **rest: Any) -> None:
        if (category, str(message)) not in shown:
            shown.add((category, str(message)))
            plain(message, category, *where, **rest)

    warnings.showwarning = show


def find_place(error: BaseException, path: Path) -> str:
    """Return ``/home/me/net.py, line 7``: where in the user's code an error comes from.

    path: of the study, which is named alone where no line of the user has a part in the error
    """
    for cause in causes_of(error):
        if isinstance(cause, SyntaxError) and cause.filename and is_users(cause.filename):
            return f"{cause.filename}, line {cause.lineno}" if cause.lineno else cause.filename
        frames = traceback.extract_tb(cause.__traceback__)
        if line := innermost((frame.filename, frame.lineno or 0) for frame in frames):
            return line
    return str(path)


def innermost(frames: Iterable[tuple[str, int]]) -> str | None:
    """Return ``file, line 7`` of the last frame that is the user's own code; None: there is none.

    frames: files and lines, the innermost last
    """
    places = [f"{file}, line {line}" for file, line in frames if is_users(file)]
    return places[-1] if places else None


def is_users(file: str) -> bool:
    """Whether a file of code is a user's, and not of genstudy, Python or an installed package."""
    if file.startswith("<") or any(folder in file for folder in PACKAGES):
        return False
    return file.startswith(STUDIES) or not file.startswith((*OURS, *PYTHON))


def describe_mistake(error: BaseException) -> str:
    """Return ``ValueError: the first line``; an exception of a user may have none, or raise."""
    try:
        lines = str(error).strip().splitlines()
    except Exception:
        lines = []
    return f"{type(error).__name__}: {short(lines[0]) if lines else 'no message'}"
