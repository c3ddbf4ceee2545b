"""Errors that are no mistake of a model or a study.

    if is_interruption(error): raise      # the trial goes on later, or is somebody else's

Whatever catches all errors of a model lets these through: the worker was told to stop, the database
is away or went back to an older state, the images changed under it, the trial is another's.
"""

from __future__ import annotations

from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from sqlalchemy.exc import SQLAlchemyError

from models.errors import ImagesChanged, StopRequested
from search.errors import is_missing_record
from storage.database.retry import DatabaseLost, GaveUp

INTERRUPTIONS = (
    StopRequested, GaveUp, DatabaseLost, SQLAlchemyError, StorageInternalError,
    UpdateFinishedTrialError, ImagesChanged,
)  # fmt: skip


def is_interruption(error: BaseException) -> bool:
    """Whether ``error`` says nothing about the model in whose work it came up."""
    return isinstance(error, INTERRUPTIONS) or is_missing_record(error)
