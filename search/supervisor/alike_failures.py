"""Trials that fail one after the other for the same reason end the search.

failures = AlikeFailures()
failures.count(ended, worker.log)     # raises `SearchFailed` at the third
"""

from __future__ import annotations

from pathlib import Path

from search.errors import SearchError
from search.messages import Ended
from search.trials.outcomes import Outcome

ALIKE = 3  # failures of one kind, one after the other, that end the search


class SearchFailed(SearchError):
    """Trials fail one after the other for the same reason; the message names it and the log."""


class AlikeFailures:
    """The reasons of the last trials that failed; a trial that does not fail clears them."""

    def __init__(self) -> None:
        self.kinds: list[str] = []

    def count(self, event: Ended, log: Path) -> None:
        """Take in how a trial ended. Raises `SearchFailed` where the next would fail, too.

        log: the log of the worker that trained it
        """
        if event.outcome != Outcome.FAILED:
            self.kinds.clear()
            return
        kind = event.reason.splitlines()[0]
        if self.kinds and self.kinds[-1] != kind:
            self.kinds.clear()
        self.kinds.append(kind)
        if len(self.kinds) >= ALIKE:
            place = f"; {event.place}" if event.place else ""
            raise SearchFailed(
                f"{ALIKE} trials one after the other failed alike ({kind}{place}); mend that, then "
                f"the same command tries them again and goes on (log: {log})"
            )
