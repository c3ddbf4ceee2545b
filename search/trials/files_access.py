"""The shared files of a study as one process uses them: also while FILES cannot be reached.

    access.try_to(lambda files: files.put(...), left="trial-7 stays in runs/...")   # or later
    access.wait_for(lambda files: files.kept("trial-7"))      # as long as for a database

A file is under RUNS before it is put into FILES. So a training does not wait while FILES is away:
one line says where the files stay, and later files are put when FILES is back. A process that needs
a file of another machine waits up to `OUTAGE` seconds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from search.run import StudyRun
from search.trials.queue import TrialQueue
from storage.database.fences import TrialLost
from storage.database.file_records import Guard
from storage.database.job_claims import JobLost
from storage.database.retry import FIRST, LONGEST, OUTAGE, REST, DatabaseRetry, GaveUp
from storage.database.transactions import read
from storage.errors import FilesAway, FileTooLarge
from storage.files.artifacts import shared_name
from storage.files.object_store import open_objects
from storage.files.places import parse_files
from storage.files.shared_files import SharedFiles, may_always

T = TypeVar("T")


def trial_file(number: int) -> str:
    """Return the name of a trial's checkpoint in FILES."""
    return f"trial-{number}"


def open_files(
    run: StudyRun, queue: TrialQueue, given_up: Callable[[], bool], tell: Callable[[str], None]
) -> FilesAccess | None:
    """Open the shared files of a run; None: it has none, and RUNS is all there is."""
    if run.files is None:
        return None
    store = open_objects(parse_files(run.files), queue.engine)
    files = SharedFiles(engine=queue.engine, token=run.token, store=store)
    return FilesAccess(files, queue.retry, given_up, tell)


class FilesAccess:
    """The shared files of a study, as one process reads and writes them.

    retry: waits for the database, which says which files there are
    given_up: whether to stop waiting; tell: shows a line when FILES is away, and when it is back
    """

    def __init__(
        self,
        files: SharedFiles,
        retry: DatabaseRetry,
        given_up: Callable[[], bool],
        tell: Callable[[str], None],
    ) -> None:
        self.files = files
        self.retry = retry
        self.given_up = given_up
        self.tell = tell
        self._outage = FilesOutage(files.address, tell)
        self._too_large: set[str] = set()  # what has been said of files that do not fit
        self._waiting: dict[str, tuple[Path, Guard]] = {}  # artifacts that FILES does not have yet

    def for_thread(self, retry: DatabaseRetry) -> FilesAccess:
        """Return the access of another thread. The two announce an outage once."""
        other = FilesAccess(self.files, retry, self.given_up, self.tell)
        other._outage = self._outage
        return other

    def try_to(self, call: Callable[[SharedFiles], object], *, left: str) -> bool:
        """Return whether ``call`` went through; False while FILES or the database is away.

        left: which file stays where until then, for people
        Raises what a guard raises when another process has taken the trial.
        """
        if self._outage.was_just_tried():
            return False
        try:
            done = self.retry.try_once(lambda: call(self.files))
        except FilesAway as error:
            self._outage.note(error, left)
            return False
        except FileTooLarge as error:
            self._tell_too_large(error, left)
            return False
        if done:
            self._outage.end()
        return done

    def _tell_too_large(self, error: FileTooLarge, left: str) -> None:
        if left not in self._too_large:
            self._too_large.add(left)
            self.tell(f"{left}: {error}")

    def share_artifact(self, artifact: str, folder: Path, guard: Guard = may_always) -> None:
        """Copy an artifact in ``folder`` to FILES, and earlier ones that FILES was away for.

        guard: raises if another process has taken the trial. For ``artifact`` the error is raised
            here; an earlier artifact of such a trial is dropped
        An artifact that is too large for FILES is not tried again.
        """
        self._waiting[artifact] = folder / artifact, guard
        for name, (path, its_guard) in list(self._waiting.items()):
            copy = partial(self._write_or_leave, shared_name(name), path, its_guard)
            try:  # one that is gone was deleted in the dashboard
                done = not path.exists() or self.try_to(copy, left=_left_in(path.parent))
            except (TrialLost, JobLost):
                del self._waiting[name]
                if name == artifact:
                    raise
                continue
            if not done:
                break
            del self._waiting[name]

    def _write_or_leave(self, name: str, path: Path, guard: Guard, files: SharedFiles) -> None:
        """Put an artifact. One that is too large stays under RUNS alone."""
        try:
            _write(files, name=name, path=path, guard=guard)
        except FileTooLarge as error:
            self._tell_too_large(error, _left_in(path.parent))

    def wait_for(self, call: Callable[[SharedFiles], T]) -> T:
        """Return what ``call`` returns, once FILES and the database answer.

        Raises `FilesAway` after `OUTAGE` seconds, and `GaveUp` when told to stop.
        """
        began, pause = time.monotonic(), FIRST
        while True:
            try:
                found = self.retry.wait_for(lambda: call(self.files))
            except FilesAway as error:
                self._outage.note(error, "waiting for it")
                if time.monotonic() - began > OUTAGE:
                    raise FilesAway(f"{error} for {OUTAGE / 60:g} minutes") from error
            else:
                self._outage.end()
                return found
            until = time.monotonic() + pause
            while time.monotonic() < until:
                if self.given_up():
                    raise GaveUp
                time.sleep(min(pause, 0.2))
            pause = min(2 * pause, LONGEST)


class FilesOutage:
    """An outage of FILES, which all threads of a process share."""

    def __init__(self, address: str, tell: Callable[[str], None]) -> None:
        self.address = address
        self.tell = tell
        self.rests_until = 0.0
        self._since: float | None = None
        self._lock = threading.Lock()

    def was_just_tried(self) -> bool:
        """Whether an attempt has failed a moment ago."""
        return time.monotonic() < self.rests_until

    def note(self, error: FilesAway, left: str) -> None:
        """Note that FILES did not answer."""
        with self._lock:
            now = time.monotonic()
            self.rests_until = now + REST
            is_new, self._since = self._since is None, self._since or now
        if is_new:
            self.tell(f"{error}; {left}")

    def end(self) -> None:
        """Note that FILES has answered."""
        with self._lock:
            since, self._since = self._since, None
        if since is not None:
            took = time.monotonic() - since
            self.tell(f"FILES={self.address} is back after {took:.0f} s")


def _write(files: SharedFiles, *, name: str, path: Path, guard: Guard) -> None:
    with read(files.engine) as connection:
        guard(connection)
    files.store.write(name, path)


def _left_in(folder: Path) -> str:
    """Return the words for pictures that stay in ``folder`` until FILES has them."""
    return f"pictures stay in {folder}"
