"""A worker's connection to its supervisor: jobs come in through one pipe, events go out."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from queue import Queue
from typing import IO

from search.events import Event, Warned
from search.jobs import Halt, Job, Stop
from search.messages import read_message, write_message
from storage.database.retry import CROWDED, FULL

log = logging.getLogger("genstudy")


class Control:
    """The two pipes.

    jobs: one message a line; its end means that the supervisor is gone. events: as many
    """

    def __init__(self, jobs: IO[str], events: IO[str]) -> None:
        self._input = jobs
        self._events = events
        self._jobs: Queue[Job] = Queue()
        self.stopped = threading.Event()
        self.halted = threading.Event()
        threading.Thread(target=self._listen, name="jobs", daemon=True).start()

    def jobs(self) -> Iterator[Job]:
        """Yield jobs as they come, until told to stop."""
        while not self.stopped.is_set():
            job = self._jobs.get()
            if isinstance(job, Stop):
                return
            yield job

    def interrupted(self) -> bool:
        """Whether the supervisor wants the trial back."""
        return self.stopped.is_set() or self.halted.is_set()

    def stop(self) -> None:
        """Do as if the supervisor had said so."""
        self.stopped.set()
        self._jobs.put(Stop())

    def send(self, event: Event) -> None:
        """Tell the supervisor; if nobody listens any more, stop."""
        try:
            self._events.write(write_message(event))
            self._events.flush()
        except (BrokenPipeError, ValueError):
            self.stopped.set()

    def warn_of_database(self, message: str) -> None:
        """Log an outage of the database, and tell the supervisor where it cannot notice it.

        A supervisor that only reads does not meet a full disk, and one that is connected meets
        no lack of connections.
        """
        log.warning(message)
        if FULL.search(message):
            self.send(Warned(what="space for the trial database", message=message))
        elif CROWDED.search(message):
            self.send(Warned(what="connections of the trial database", message=message))

    def _listen(self) -> None:
        for line in self._input:
            job = read_message(line)
            if isinstance(job, Stop):
                break
            if isinstance(job, Halt):
                self.halted.set()
            else:
                self.halted.clear()
                self._jobs.put(job)  # type: ignore[arg-type]  # only jobs come in here
        self.stop()
