"""What a display knows of a study whose trials pause at rungs: how much is still promoted.

    forecast = RungForecast(queue, display.progress, epochs=20)
    forecast.look(counts)              # at every tick; the database is asked now and then

Without it the time left would be that of the trials that nobody has begun, and would grow with
each one that goes on from its rung.
"""

from __future__ import annotations

import time
from collections import Counter

from search.supervisor.progress import StudyProgress
from search.trials.queue import TrialQueue

EVERY = 3.0  # seconds between two looks


class RungForecast:
    """Tells a display what is left between rungs.

    epochs: of a whole trial
    """

    def __init__(self, queue: TrialQueue, progress: StudyProgress, epochs: int) -> None:
        self.queue = queue
        self.progress = progress
        self.epochs = epochs
        self._looked = float("-inf")

    def look(self, counts: Counter[str]) -> None:
        """Bring the forecast up to date if the last one is old enough.

        counts: as `TrialQueue.count` returns them
        """
        if not self.queue.lets_trials_pause or time.monotonic() - self._looked < EVERY:
            return
        self._looked = time.monotonic()
        running = [each.number for each in self.progress.running() if each.number is not None]
        self.progress.rungs = self.queue.work_left(
            counts, epochs=self.epochs, total=self.progress.total, running=running
        )
