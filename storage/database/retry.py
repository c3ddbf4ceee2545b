"""Waiting for a database that is away: restarted, cut off, or locked by another program.

    retry = DatabaseRetry()
    retry.wait_for(lambda: write(...))      # again and again, for ten minutes at most

A call that fails for another reason fails at once. Whoever must not be held up asks `is_away`
itself and comes back later.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from storage.errors import StorageError

OUTAGE = 600.0  # seconds that is waited for it
FIRST, LONGEST = 0.1, 5.0  # seconds between two attempts: doubled from the one to the other

FULL = re.compile("disk is full|disk I/O error")  # what SQLite says of it

T = TypeVar("T")
log = logging.getLogger("genstudy")


class DatabaseLost(StorageError):
    """The trial database has been away for longer than a run waits; the same command goes on."""


class GaveUp(Exception):
    """Asked to stop while waiting for the database."""


class DatabaseRetry:
    """How one process waits.

    given_up: asked while it waits, to end it early; tell: hears when it begins and ends
    """

    def __init__(
        self,
        given_up: Callable[[], bool] = lambda: False,
        tell: Callable[[str], None] = log.warning,
    ) -> None:
        self.given_up = given_up
        self.tell = tell
        self.away_since: float | None = None

    def wait_for(self, call: Callable[[], T]) -> T:
        """What ``call`` returns, once the database answers it. It must bear being repeated.

        Raises `DatabaseLost` after `OUTAGE`, `GaveUp` when asked to stop.
        """
        pause = FIRST
        while True:
            try:
                result = call()
            except Exception as error:
                if not self.away(error):
                    raise
            else:
                self.back()
                return result
            self._sleep(pause)
            pause = min(2 * pause, LONGEST)

    def away(self, error: Exception) -> bool:
        """Whether ``error`` means that the database is away, and is so for a bearable time."""
        if not is_away(error):
            return False
        now = time.monotonic()
        if self.away_since is None:
            self.away_since = now
            cause = _first_line(error)
            if FULL.search(cause):
                self.tell(f"the trial database cannot write ({cause}): make room; waiting for it")
            else:
                self.tell(f"the trial database is away, waiting for it: {cause}")
        if now - self.away_since > OUTAGE:
            raise DatabaseLost(
                f"the trial database has been away for {OUTAGE / 60:g} minutes "
                f"({_first_line(error)}); when it is back, the same command goes on"
            ) from error
        return True

    def back(self) -> None:
        """It has answered."""
        if self.away_since is not None:
            self.tell(f"the database is back after {time.monotonic() - self.away_since:.0f} s")
            self.away_since = None

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if self.given_up():
                raise GaveUp
            time.sleep(min(left, 0.2))


def is_away(error: BaseException) -> bool:
    """Whether a database that does not answer stands behind ``error``, however it was wrapped."""
    return any(
        isinstance(cause, OperationalError | InterfaceError)
        or (isinstance(cause, DBAPIError) and cause.connection_invalidated)
        for cause in _causes(error)
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def _first_line(error: BaseException) -> str:
    for cause in _causes(error):
        if isinstance(cause, DBAPIError):
            return str(cause.orig).strip().splitlines()[0]
    return str(error).strip().splitlines()[0]
