"""Errors that are no mistake of a model or a study.

    if is_interruption(error): raise      # the trial goes on later, or is somebody else's

Whatever catches all errors of a model lets these through: the worker was told to stop, the database
is away or went back to an older state, the images changed under it, the trial is another's, or an
error has broken the process's context on its GPU, which then does nothing any more.
"""

from __future__ import annotations

import re

import torch
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from sqlalchemy.exc import SQLAlchemyError

from models.errors import ImagesChanged, StopRequested
from search.errors import is_missing_record
from search.trials.outcomes import is_out_of_memory
from storage.database.retry import DatabaseLost, GaveUp

INTERRUPTIONS = (
    StopRequested, GaveUp, DatabaseLost, SQLAlchemyError, StorageInternalError,
    UpdateFinishedTrialError, ImagesChanged,
)  # fmt: skip
# PyTorch has a class for errors of the CUDA runtime. Those of the libraries above it, and of
# Triton's kernels, are a plain RuntimeError.
DEVICE_WORDS = re.compile(
    r"CUDA (driver )?error|HIP error|Triton Error \[|CUFFT_\w+|"
    r"\b(CUBLAS|CUDNN|CUSOLVER|CUSPARSE|NCCL)_STATUS_\w+"
)


def is_interruption(error: BaseException) -> bool:
    """Whether ``error`` has another cause than the model that was at work.

    An error of a GPU counts, although the model may have caused it.
    """
    is_known = isinstance(error, INTERRUPTIONS) or is_missing_record(error)
    return is_known or is_device_error(error)


def is_device_error(error: BaseException) -> bool:
    """Whether a GPU has reported an error, now or before: only a new process can use it again.

    Running out of memory breaks nothing, and does not count.
    """
    if not isinstance(error, Exception) or is_out_of_memory(error):
        return False
    return _names_device(error) or _is_context_broken()


def _names_device(error: BaseException | None) -> bool:
    """Whether ``error``, or one of its causes, comes from a GPU."""
    while error is not None:
        if isinstance(error, torch.AcceleratorError):
            return True
        if isinstance(error, RuntimeError) and DEVICE_WORDS.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _is_context_broken() -> bool:
    """Whether a GPU's context is broken, so that every further call ends in an error."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False
