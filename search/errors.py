"""Mistakes of the person who runs a study. Each message is one line with the fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from storage.errors import LONGEST, StorageError, short


class SearchError(Exception):
    """Base of this room's errors: shown as one line, exit code 2, nothing is changed."""


class UnknownStudy(SearchError):
    """No study of that name; the message lists what there is."""


class StudyFileError(SearchError):
    """The study's file has a mistake; the message says in which line and what fits."""


class BadVariable(SearchError):
    """A variable such as TRIALS has a value that is not allowed; the message says which are."""


class StudyChanged(SearchError):
    """The stored study was made with other settings: its values would not compare."""


class BaseMissing(SearchError):
    """A study starts from another's export, which is not there; the message says how to get it."""


class WorkersFailed(SearchError):
    """Workers end before they can train; the message names the cause and their log."""


def explain_error(error: Exception) -> str | None:
    """The line for an error that is not a fault of ours; None for one that is."""
    from optuna.exceptions import StorageInternalError
    from pandas.errors import DatabaseError
    from sqlalchemy.exc import SQLAlchemyError

    from models.errors import ConfigError, DataError, ExportError, ExtractorError
    from storage.database.retry import FULL

    ours = SearchError | StorageError | DataError | ConfigError | ExportError | ExtractorError
    if isinstance(error, ours):
        return " ".join(str(error).split())
    if isinstance(error, SQLAlchemyError | StorageInternalError | DatabaseError):
        origin = getattr(error, "orig", None) or getattr(error.__cause__, "orig", None) or error
        cause = str(origin).strip().splitlines()[0]
        remedy = "make room, then run again" if FULL.search(cause) else "run again"
        return f"the trial database failed ({cause}); what was stored is kept: {remedy}"
    if isinstance(error, OSError):
        cause = error.strerror or " ".join(str(error).split())
        place = f" ({str(error.filename)[:200]})" if error.filename else ""
        return f"{cause}{place}; free space or permissions, then run again"
    return None


def unknown_name(kind: str, name: str, available: Iterable[str]) -> str:
    """``unknown study 'caee'; available: cae, vae (did you mean 'cae'?)``"""
    names = sorted(available)
    close = difflib.get_close_matches(name[:LONGEST], names, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return f"unknown {kind} {short(repr(name))}; available: {', '.join(names)}{hint}"
