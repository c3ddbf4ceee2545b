"""Three trials in a row that fail for the same reason end the search.

failures = RepeatedFailures()
failures.count(ended, worker.log)     # raises `SearchFailed` at the third
"""

from __future__ import annotations

from pathlib import Path

from search.errors import SearchError
from search.events import Ended
from search.trials.outcomes import Outcome

MOST = 3  # failures in a row, for the same reason, that end the search


class SearchFailed(SearchError):
    """Trials in a row failed for the same reason; the message names the reason and the log."""


class RepeatedFailures:
    """Counts the failures in a row that have the same reason."""

    def __init__(self) -> None:
        self.kinds: list[str] = []

    def count(self, event: Ended, log: Path) -> None:
        """Count the end of a trial. Raises `SearchFailed` after `MOST` equal failures in a row.

        log: the log of the worker that trained it
        """
        if event.outcome != Outcome.FAILED:
            self.kinds.clear()
            return
        kind = event.reason.splitlines()[0]
        if self.kinds and self.kinds[-1] != kind:
            self.kinds.clear()
        self.kinds.append(kind)
        if len(self.kinds) >= MOST:
            place = f"; {event.place}" if event.place else ""
            raise SearchFailed(
                f"{MOST} trials in a row failed for the same reason ({kind}{place}); mend that, "
                f"then the same command tries them again and goes on (log: {log})"
            )
