"""The errors of this package, and the one line that a person reads of any error.

    SearchError           shown as one line; the exit code is 2
        UnknownStudy, StudyFileError, BadVariable, StudyChanged, BaseMissing, WorkersFailed

Each message says what is wrong and how to mend it. `storage.errors` and `models.errors` hold those
of the other two packages, and `explain_error` words all of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from storage.errors import StorageError, short, suggest_name


class SearchError(Exception):
    """The base of all errors of this package: a command that meets one changes nothing."""


class UnknownStudy(SearchError):
    """There is no study of that name; the message lists those that there are."""


class StudyFileError(SearchError):
    """A study file has a mistake; the message says in which line, and what would be right."""


class BadVariable(SearchError):
    """A variable such as TRIALS has a wrong value; the message says which values are allowed."""


class StudyChanged(SearchError):
    """A stored study was made with other settings, so that its values would not compare."""


class BaseMissing(SearchError):
    """A study starts from an export that is missing; the message says how to get it."""


class WorkersFailed(SearchError):
    """Workers end before they can train; the message names the cause and the log file."""


FOREIGN_KEY = "23503"  # SQLSTATE: a row refers to one that is not there
# What a limit of the system says, and what helps against it.
LIMITS = {
    "can't start new thread|pthread_create|Resource temporarily unavailable": "no further thread "
    "or process may be started here; a larger limit (ulimit -u, or the container's on pids) or "
    "fewer WORKERS help",
    "Too many open files": "a larger limit on them (ulimit -n) or fewer WORKERS help",
}
NO_TRIAL = re.compile("No trial with trial number [0-9]+ exists")  # Optuna's words


def explain_error(error: Exception) -> str | None:
    """Return the message for an error that is no fault of genstudy; None for one that is."""
    if isinstance(error, SearchError | StorageError):  # at once: memory may not hold more imports
        return " ".join(str(error).split())
    if limit := _explain_limit(error):
        return limit
    from optuna.exceptions import StorageInternalError
    from pandas.errors import DatabaseError
    from sqlalchemy.exc import SQLAlchemyError

    from models.errors import ConfigError, DataError, ExportError, ExtractorError
    from storage.database.explanation import DAMAGED, remedy_of
    from storage.database.retry import FULL

    ours = DataError | ConfigError | ExportError | ExtractorError
    if isinstance(error, ours):
        return " ".join(str(error).split())
    if isinstance(error, SQLAlchemyError | StorageInternalError | DatabaseError):
        origin = getattr(error, "orig", None) or getattr(error.__cause__, "orig", None) or error
        cause = str(origin).strip().splitlines()[0]
        remedy = "make room, then run again" if FULL.search(cause) else "run again"
        remedy = remedy_of(origin) or remedy
        if re.search(DAMAGED, cause):
            return f"the trial database failed ({cause}): {remedy}"
        return f"the trial database failed ({cause}); what was stored is kept: {remedy}"
    if is_missing_record(error):
        return (
            "the study, or a trial of it, is not in the trial database any more: it was deleted "
            "while the study ran; the same command makes what is missing anew"
        )
    if isinstance(error, OSError):
        cause = error.strerror or " ".join(str(error).split())
        place = f" ({str(error.filename)[:200]})" if error.filename else ""
        return f"{cause}{place}; free space or permissions, then run again"
    return None


def _explain_limit(error: Exception) -> str | None:
    """Return the line for an error that a limit of the system causes; None for any other."""
    said = next(iter(str(error).splitlines()), "")
    for pattern, remedy in LIMITS.items():
        if found := re.search(pattern, said):
            return f"{found[0]}: {remedy}"
    return None


def is_missing_record(error: BaseException) -> bool:
    """Whether something belongs to a study or a trial that the database does not have."""
    from optuna.storages._rdb.models import NOT_FOUND_MSG
    from sqlalchemy.exc import IntegrityError

    if isinstance(error, IntegrityError):
        return getattr(error.orig, "sqlstate", None) == FOREIGN_KEY
    said = [str(each) for each in error.args] if isinstance(error, KeyError) else []
    return any(each == NOT_FOUND_MSG or NO_TRIAL.match(each) for each in said)


def unknown_name(kind: str, name: str, available: Iterable[str]) -> str:
    """Return ``unknown study 'caee'; did you mean 'cae'? available: cae, vae``.

    What was probably meant comes first: lists may be long.
    """
    names = sorted(available)
    hint = suggest_name(name, names)
    return f"unknown {kind} {short(repr(name))}; {hint}available: {', '.join(names)}"
