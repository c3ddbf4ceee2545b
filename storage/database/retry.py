"""Waits for a database that is away: it restarts, is cut off, or is locked by another program.

    retry = DatabaseRetry()
    retry.wait_for(lambda: write(...))      # again and again, for ten minutes at most

What is called may wait for parts of itself: it is repeated as a whole. A call that fails for
another reason fails at once. Code that must not be held up asks `is_away` itself and tries again
later.
"""

from __future__ import annotations

import errno
import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, PendingRollbackError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from storage.errors import StorageError, causes_of

OUTAGE = 600.0  # seconds that a run waits for the database
FIRST, LONGEST = 0.1, 5.0  # seconds between two attempts: the pause doubles each time

FULL = re.compile("disk is full|disk I/O error")  # SQLite's words for a full disk
READ_ONLY = re.compile("readonly database|Read-only file system")
DISK = (errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE)  # it may come back

# Postgres codes: a standby server that can only be read (25006); a statement before this one failed
# or waited too long (25P02, 25P03); connection lost (08); a deadlock (40); no resources (53); shut
# down, or cancelled by an operator (57); an error of its system (58).
PASSING = ("25006", "25P02", "25P03", "08", "40", "53", "57", "58")
# Messages of a server, or of a file, that is there and busy now.
BUSY = re.compile(
    "database is locked|the database system is |too many (clients|connections)|remaining connection"
    "|no more connections allowed|terminating connection|server closed the connection|canceling "
    "statement|has not answered|server_login_retry|query_wait_timeout|server conn crashed"
)
CROWDED = re.compile("too many (clients|connections)|remaining connection|no more connections")
BLOCKED = 1.0  # seconds: an attempt that takes longer has blocked its caller
REST = 10.0  # seconds without another attempt after that, for callers that do not wait

T = TypeVar("T")
log = logging.getLogger("genstudy")


class DatabaseLost(StorageError):
    """The trial database is away for longer than a run waits; the same command goes on."""


class DatabaseWentBack(DatabaseLost):
    """Trials that had ended are missing now, or run again.

    An older state of the database was put in its place, by a restored copy or a standby server that
    lagged behind; or the study was deleted. Whoever has read trials before reads them anew.
    """


class GaveUp(Exception):
    """The process was asked to stop while it waited for the database."""


class DatabaseRetry:
    """Waits for the database on behalf of one process.

    given_up: returns whether to stop waiting; it is called again and again
    tell: shows a line when the waiting begins and when it ends
    """

    def __init__(
        self,
        given_up: Callable[[], bool] = lambda: False,
        tell: Callable[[str], None] = log.warning,
    ) -> None:
        self.given_up = given_up
        self.tell = tell
        self.away_since: float | None = None
        self._rests_until = 0.0
        self._is_waiting = False  # True inside a call that is repeated as a whole

    def try_once(self, call: Callable[[], object]) -> bool:
        """Return whether ``call`` went through; False while the database is away.

        If the server does not answer, an attempt takes seconds. The next one comes only after a
        pause, so that a training goes on. Raises `DatabaseLost` after `OUTAGE`.
        """
        began = time.monotonic()
        if began < self._rests_until or self._gives_up():
            return False
        try:
            with self._as_one():
                call()
        except Exception as error:
            if not self.note_error(error):
                raise
            if time.monotonic() - began > BLOCKED:
                self._rests_until = time.monotonic() + REST
            return False
        self.note_answer()
        return True

    def wait_for(
        self, call: Callable[[], T], passes: Callable[[BaseException], bool] | None = None
    ) -> T:
        """Return what ``call`` returns, once the database answers. A call must be repeatable.

        passes: says for which errors to try again; None: for those of a database that is away
        Raises `DatabaseLost` after `OUTAGE`, `GaveUp` when asked to stop.
        """
        if self._is_waiting:
            return call()
        if self._gives_up():
            raise GaveUp
        pause = FIRST
        while True:
            try:
                with self._as_one():
                    result = call()
            except Exception as error:
                if passes is not None and not passes(error):
                    raise
                if self.given_up() and is_away(error):
                    raise GaveUp from error
                if not self.note_error(error):
                    raise
            else:
                self.note_answer()
                return result
            self._sleep(pause)
            pause = min(2 * pause, LONGEST)

    def _gives_up(self) -> bool:
        """Whether the database is away, and nobody waits for it any more."""
        return self.away_since is not None and self.given_up()

    @contextmanager
    def _as_one(self) -> Iterator[None]:
        """Let calls inside the block raise at once: the outer call is repeated as a whole."""
        self._is_waiting, before = True, self._is_waiting
        try:
            yield
        finally:
            self._is_waiting = before

    def note_error(self, error: Exception) -> bool:
        """Return whether ``error`` means that the database is away, and announce a new outage.

        Raises `DatabaseLost` if the outage has lasted too long.
        """
        if not is_away(error):
            return False
        now = time.monotonic()
        if self.away_since is None:
            self.away_since = now
            cause = _first_line(error)
            if FULL.search(cause):
                self.tell(f"the trial database cannot write ({cause}): make room; waiting for it")
            elif CROWDED.search(cause):
                self.tell(
                    f"the trial database has no connection left ({cause}); waiting for one; fewer "
                    "WORKERS or a larger max_connections help"
                )
            elif READ_ONLY.search(cause):
                self.tell(f"the trial database can only be read ({cause}); waiting for it")
            else:
                self.tell(f"the trial database is away, waiting for it: {cause}")
        if now - self.away_since > OUTAGE:
            raise DatabaseLost(
                f"the trial database has been away for {OUTAGE / 60:g} minutes "
                f"({_first_line(error)}); when it is back, the same command goes on"
            ) from error
        return True

    def note_answer(self) -> None:
        """End the outage, if there is one: the database has answered."""
        if self.away_since is not None:
            self.tell(f"the database is back after {time.monotonic() - self.away_since:.0f} s")
            self.away_since = None

    def _sleep(self, seconds: float) -> None:
        """Wait. Raises `GaveUp` when asked to stop."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if self.given_up():
                raise GaveUp
            time.sleep(min(left, 0.2))


def is_away(error: BaseException) -> bool:
    """Return whether ``error``, or an error that caused it, means that the database is away."""
    return any(
        isinstance(cause, OperationalError | InterfaceError)
        or (isinstance(cause, DBAPIError) and _is_passing(cause))
        or isinstance(cause, PendingRollbackError | PoolTimeout)
        or _is_unlockable(cause)
        for cause in causes_of(error)
    )


def comes_back(error: BaseException) -> bool:
    """Return whether the database exists but is busy now, so that its address is no mistake."""
    return is_away(error) and any(BUSY.search(str(cause)) for cause in causes_of(error))


def may_be_down(error: BaseException) -> bool:
    """Return whether the server may be down: it gives no answer, or one that is no refusal."""
    turned_away = any(isinstance(e, DBAPIError) and "FATAL" in str(e) for e in causes_of(error))
    return comes_back(error) or (is_away(error) and not turned_away)


def passes_later(url: str) -> Callable[[BaseException], bool]:
    """Return the function that says which errors pass, for a database that was there before.

    A server that refuses connections may restart. A file that cannot be opened stays unreadable,
    unless it is only locked.
    """
    return comes_back if url.startswith("sqlite") else is_away


def _is_passing(error: DBAPIError) -> bool:
    """Return whether a statement failed because of the server's state, not because of its text."""
    state = str(getattr(error.orig, "sqlstate", None) or "")
    return error.connection_invalidated or state.startswith(PASSING)


def _is_unlockable(error: BaseException) -> bool:
    """Return whether a lock file beside the database cannot be written now."""
    is_lock = isinstance(error, OSError) and str(error.filename).endswith(".lock")
    return is_lock and getattr(error, "errno", None) in DISK


def _first_line(error: BaseException) -> str:
    """Return the first line of the database's message."""
    for cause in causes_of(error):
        if isinstance(cause, DBAPIError):
            return str(cause.orig).strip().splitlines()[0]
    return str(error).strip().splitlines()[0]
