"""The shared files of a study as one process uses them: also while FILES cannot be reached.

    access.try_to(lambda files: files.put(...), left="trial-7 stays in runs/...")   # or later
    access.wait_for(lambda files: files.kept("trial-7"))      # as long as for a database

What is put is under RUNS already. So nobody waits to put it: while FILES is away a training goes
on, the line that is said once names the place where the files stay, and the next ones are put when
FILES is back. Who needs a file of another machine waits, up to `OUTAGE` seconds.
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
    """One process's way to the shared files of its study.

    retry: waits for the database, which says what is there
    given_up: whether to stop waiting; tell: hears a line when FILES is away, and when it is back
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

    def beside(self, retry: DatabaseRetry) -> FilesAccess:
        """Return the way of another thread: what is said of an outage is said once."""
        other = FilesAccess(self.files, retry, self.given_up, self.tell)
        other._outage = self._outage
        return other

    def try_to(self, call: Callable[[SharedFiles], object], *, left: str) -> bool:
        """Return whether ``call`` went through; False while FILES or the database is away.

        left: what stays where meanwhile, for people
        Raises what a guard raises: the trial is somebody else's.
        """
        if self._outage.rests():
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
        """Copy an artifact in ``folder`` to FILES, and those that FILES was away for before.

        guard: raises where it is somebody else's by now. What it raises of ``artifact`` is raised
            here; of an earlier one, nobody asks any more.
        One that FILES does not take, for its size, does not wait.
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
        """Put an artifact; one that is too large stays where it is, for good."""
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
    """How long FILES is away, as all threads of a process know it."""

    def __init__(self, address: str, tell: Callable[[str], None]) -> None:
        self.address = address
        self.tell = tell
        self.rests_until = 0.0
        self._since: float | None = None
        self._lock = threading.Lock()

    def rests(self) -> bool:
        """Whether it was tried a moment ago, in vain."""
        return time.monotonic() < self.rests_until

    def note(self, error: FilesAway, left: str) -> None:
        """Take in that FILES did not answer."""
        with self._lock:
            now = time.monotonic()
            self.rests_until = now + REST
            is_new, self._since = self._since is None, self._since or now
        if is_new:
            self.tell(f"{error}; {left}")

    def end(self) -> None:
        """Take in that FILES has answered."""
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
    """Say where pictures stay that FILES does not have."""
    return f"pictures stay in {folder}"
