"""What an engine is: a place where jobs run, each of which is one worker of the study.

    engine.start(8)              # eight more jobs
    for job in engine.alive():   # all that it has started, and how they ended
        job.is_alive, job.code
    engine.stop()                # cancels them: their trials are given back

An engine knows nothing of trials. Which worker takes which trial stands in the trial database, so
that jobs may die, wait in a queue for hours, or start again elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from search.errors import SearchError


class EngineFailed(SearchError):
    """An engine cannot start workers, or all of them end without work; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One job.

    name: as the engine calls it; is_alive: whether it runs, or waits to run
    code: exit code of its worker; None: not known, as where its machine went down
    said: the last line that its worker has said about an error; empty: none
    """

    name: str
    is_alive: bool
    code: int | None = None
    said: str = ""


class Engine(Protocol):
    """Starts workers somewhere, and says which of them live."""

    def start(self, count: int) -> None:
        """Start ``count`` more jobs. Raises `EngineFailed`."""

    def alive(self) -> list[Job]:
        """Return all jobs that were started, those that have ended, too."""

    def stop(self) -> None:
        """Cancel all jobs that live. Returns when they have ended, or after some seconds."""

    def describe(self) -> str:
        """Return where the jobs run, in a few words."""


def last_error(text: str) -> str:
    """Return the line with which a worker has ended in an error; empty: there is none."""
    lines = [line for line in text.splitlines() if line.startswith("error: ")]
    return lines[-1].removeprefix("error: ") if lines else ""
