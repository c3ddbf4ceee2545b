"""Tells a tracker in a thread of its own: one that is slow, away or broken costs a line.

    thread = TrackerThread("mlflow", tracker, marks)
    thread.begin(run, epochs, pictures); thread.log_epoch(run, epoch); thread.end(run, ending)
    thread.problem()               # a line for its owner to say, once
    thread.close(deadline)         # waits for what is on its way

After an error the tracker is left alone. Each run that is not known to be there as a whole has a
mark, an empty file in ``marks``: the next command with this tracker makes it good.
"""

from __future__ import annotations

import queue
import re
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from search.tracking.tracker import (
    WAITING,
    TrackedEnding,
    TrackedEpoch,
    TrackedPicture,
    TrackedRun,
    Tracker,
)
from storage.errors import short

SECRET = re.compile(r"://[^/@\s]*@")  # user and password in an address
PNG = b"\x89PNG\r\n\x1a\n"  # how the files begin
Opener = Callable[[], Tracker]


class TrackerThread(threading.Thread):
    """One tracker, and what it is to be told.

    name: as LOG has it; open_tracker: imports the tool, which may take seconds
    marks: folder with a file for each run that may not be whole
    """

    def __init__(self, name: str, open_tracker: Opener, marks: Path) -> None:
        super().__init__(name=f"log-{name}", daemon=True)
        self.tool = name
        self.marks = marks
        self.is_broken = False
        self._open = open_tracker
        self._calls: queue.SimpleQueue[Callable[[Tracker], None] | None] = queue.SimpleQueue()
        self._problems: queue.SimpleQueue[str] = queue.SimpleQueue()

    def begin(
        self, run: TrackedRun, epochs: Sequence[TrackedEpoch], pictures: Sequence[TrackedPicture]
    ) -> None:
        """Let the tracker begin a run, or go on with it."""
        with suppress(OSError):  # a full disk costs the mark
            self.marks.mkdir(parents=True, exist_ok=True)
            (self.marks / run.name).write_text(run.token)
        self._put(lambda tracker: tracker.begin(run, epochs, [*filter(_is_there, pictures)]))

    def log_epoch(self, run: TrackedRun, epoch: TrackedEpoch) -> None:
        self._put(lambda tracker: tracker.log_epoch(run, epoch))

    def log_picture(self, run: TrackedRun, picture: TrackedPicture) -> None:
        def call(tracker: Tracker) -> None:
            if _is_there(picture):
                tracker.log_picture(run, picture)

        self._put(call)

    def end(self, run: TrackedRun, ending: TrackedEnding) -> None:
        """Let the tracker end a run. The mark of the run goes once the tracker has it."""

        def call(tracker: Tracker) -> None:
            tracker.end(run, ending)
            if ending.state != WAITING:
                with suppress(OSError):
                    (self.marks / run.name).unlink()

        self._put(call)

    def marked(self, token: str) -> list[str]:
        """Return the names of the runs that may not be whole; marks of deleted studies go."""
        found = []
        with suppress(OSError):
            for mark in sorted(self.marks.iterdir()):
                if mark.read_text() == token:
                    found.append(mark.name)
                else:
                    mark.unlink()
        return found

    def problem(self) -> str | None:
        """Return a line that has not been said yet; None: there is none."""
        with suppress(queue.Empty):
            return self._problems.get_nowait()
        return None

    def close(self, deadline: float) -> bool:
        """Wait until all is told, or ``deadline`` (of `time.monotonic`). False: it is not."""
        if not self.is_alive():
            return True
        self._calls.put(None)
        self.join(max(0.0, deadline - time.monotonic()))
        return not self.is_alive()

    def run(self) -> None:
        tracker: Tracker | None = None
        while (call := self._calls.get()) is not None:
            if self.is_broken:
                continue
            try:
                tracker = tracker or self._open()
                call(tracker)
            except Exception as error:
                self.is_broken = True
                self._problems.put(
                    f"LOG={self.tool} is left alone: {short(_first_line(error))}; the study goes "
                    f"on, and the next command with LOG={self.tool} makes its runs good"
                )
        if tracker is not None:
            with suppress(Exception):
                tracker.close()

    def _put(self, call: Callable[[Tracker], None]) -> None:
        if self.is_broken:
            return
        if not self.is_alive():
            self.start()
        self._calls.put(call)


def _is_there(picture: TrackedPicture) -> bool:
    """Whether a picture is one: in the dashboard anybody attaches and removes files."""
    try:
        with picture.path.open("rb") as file:
            return file.read(len(PNG)) == PNG
    except OSError:
        return False


def _first_line(error: Exception) -> str:
    """Return what an error says, without the password of an address in it."""
    lines = SECRET.sub("://***@", str(error)).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
