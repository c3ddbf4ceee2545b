"""What other machines do for a study, as the supervisor of this machine shows it.

    others = OtherMachines(queue, display, epochs=20)
    others.look({worker.owner for worker in pool.workers.values()})     # at every tick

No machine asks another one. The trial database says which trials run where, and how far they are.
While it is away, the display shows the last known state.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Collection

from optuna.trial import FrozenTrial

from search.supervisor.display import Display
from search.trials.queue import TrialQueue
from search.trials.trial_attributes import sound_attributes
from storage.database.rows import fetch_rows
from storage.database.running import RunningTrial, read_running
from storage.database.transactions import read
from storage.database.trial_states import ENDED

EVERY = 3.0  # seconds between two looks
MOST_SAID = 100  # trials whose ends are shown after one look; the counts include all others


class OtherMachines:
    """The trials of other supervisors' workers, as one process follows them."""

    def __init__(self, queue: TrialQueue, display: Display, epochs: int) -> None:
        self.queue = queue
        self.display = display
        self.epochs = epochs
        self.host = socket.gethostname()
        self.pids: set[int] = set()  # of our own workers, also of those that are gone
        self._looked = float("-inf")
        # ids of ended trials after `_floor`, and of trials that went on after an end; None: no look
        # has taken place
        self._known: set[int] | None = None
        self._floor = -1  # this trial and all before it have ended

    def look(self, owners: Collection[str], *, at_once: bool = False) -> None:
        """Show the trials of other machines, if the last look is old enough, or ``at_once``.

        owners: our own workers, whose trials are left out
        """
        if time.monotonic() - self._looked < EVERY and not at_once:
            return
        self._looked = time.monotonic()
        self.pids.update(_pid_of(owner) for owner in owners)
        self.queue.retry.try_once(lambda: self._look(owners))

    def forget(self) -> None:
        """Forget all trials: the database went back to an older state."""
        self._known, self._floor = None, -1

    def _look(self, owners: Collection[str]) -> None:
        engine, study_id = self.queue.engine, self.queue.study_id
        with read(engine) as connection:
            running = read_running(connection, study_id)
            rows = fetch_rows(
                connection,
                "SELECT trial_id, CAST(state AS VARCHAR) FROM trials "
                "WHERE study_id = :study_id AND (trial_id > :floor OR "
                "trial_id IN (SELECT trial_id FROM genstudy_returns)) ORDER BY trial_id",
                study_id=study_id,
                floor=self._floor,
            )
        self.display.progress.show_elsewhere(
            [trial for trial in running if not self._is_ours(trial, owners)], epochs=self.epochs
        )
        ended = {trial_id for trial_id, state in rows if state in ENDED}
        fresh = sorted(ended - self._known) if self._known is not None else []
        for trial_id in fresh[:MOST_SAID]:
            self._show_end(self.queue.storage.get_trial(trial_id))
        for trial_id, state in rows:
            if state not in ENDED:
                break
            self._floor = max(self._floor, trial_id)
        self._known = ended

    def _is_ours(self, trial: RunningTrial, owners: Collection[str]) -> bool:
        return trial.owner is None or trial.owner in owners

    def _show_end(self, trial: FrozenTrial) -> None:
        """Show how a trial has ended, unless one of our workers has reported it."""
        about = sound_attributes(trial.user_attrs)
        if about.get("host") == self.host and about.get("pid") in self.pids:
            return
        self.display.show_end_elsewhere(trial, about)


def _pid_of(owner: str) -> int:
    """Return the number of a process; see `search.trials.owner.owner_name`."""
    number = owner.split(":")[-2] if owner.count(":") >= 2 else ""
    return int(number) if number.isdigit() else os.getpid()
