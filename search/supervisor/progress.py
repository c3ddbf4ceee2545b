"""How far a study is: its trials by state, what each worker is at, and the time left.

    progress = StudyProgress("cae", 50)
    progress.update_counts(queue.count())
    progress.summary()         # "cae  38/50 trials  2 running  2.4 s/epoch  12 min left"

It draws and prints nothing: `search.supervisor.display` does.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from search.pace import WorkerStatus, epoch_pace, seconds_left
from search.supervisor.worker_pool import WorkerHandle
from search.trials.rung_work import RungWork
from search.words import format_count, format_duration, format_pace, show_text
from storage.database.running import RunningTrial, count_turns
from storage.database.trial_states import OUTCOMES, count_ended

ITSELF = -1  # stands for what a worker does that is no trial of the search
# Outcomes that Optuna counts under another state.
COUNTED_AS = {
    "diverged": "PRUNED",
    "infeasible": "PRUNED",
    "interrupted": "FAIL",
}
STATES = {
    "complete": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL", "running": "RUNNING",
    "paused": "PAUSED",
}  # fmt: skip


class StudyProgress:
    """Counts trials, follows workers, and says what is left.

    study: the stored study's name; total: trials in all
    most: seconds that a trial may take
    """

    def __init__(self, study: str, total: int, *, most: float = math.inf) -> None:
        self.study = study
        self.total = total
        self.most = most
        self.states: Counter[str] = Counter()
        self._counted: set[int | None] = set()  # trials that ran when the states were counted
        self.status: dict[tuple[int, int], WorkerStatus] = {}  # by worker, and trial or `ITSELF`
        self.elsewhere: dict[int, tuple[str, WorkerStatus]] = {}  # by trial: machine, its worker
        self._turns_elsewhere = 1.0  # trials that a worker there holds
        self.costs: list[float] = []  # seconds of each trial that ended while we watched
        self.ends: Counter[str] = Counter()  # trials by outcome, as far as we know of them
        self.jobs = ""  # of an engine, in words
        self.deadline = math.inf  # when the search ends, on the monotonic clock
        self.is_searching = True
        self.rungs: RungWork | None = None  # what is left between rungs; None: no trial pauses

    def update_counts(self, states: Counter[str]) -> None:
        """Show how many trials are in which state."""
        self.states = states
        self._counted = {each.number for each in self.status.values() if each.trains}

    def status_of(self, worker: WorkerHandle, number: int = ITSELF) -> WorkerStatus:
        """Return what a worker does for a trial, or else by itself."""
        found = self.status.get((worker.index, number))
        if found is not None:
            return found
        return self.status.get((worker.index, ITSELF), WorkerStatus(worker.device))

    def show_only(self, worker: WorkerHandle, status: WorkerStatus) -> None:
        """Show that a worker does this, and has no trial of the search."""
        for index, number in list(self.status):
            if index == worker.index:
                del self.status[index, number]
        self.status[worker.index, ITSELF] = status

    def leave(self, worker: WorkerHandle, number: int) -> None:
        """Show that a worker has left a trial of the search."""
        left = self.status.pop((worker.index, number), None)
        if all(index != worker.index for index, _ in self.status):
            pace = 0.0 if left is None else left.pace
            self.show_only(worker, WorkerStatus(worker.device, "idle", pace=pace))

    def show_elsewhere(self, running: Iterable[RunningTrial], *, epochs: int) -> None:
        """Show the trials that workers of other machines run, as the database knows them.

        epochs: of a trial
        """
        running = list(running)
        self._turns_elsewhere = count_turns(running)
        now, before = time.monotonic(), self.elsewhere
        self.elsewhere = {}
        for trial in running:
            _, known = before.get(trial.number, ("", None))
            turned = now if known is None or known.epoch != trial.epoch else known.turned
            status = WorkerStatus(
                trial.device or "",
                "trial",
                trial.number,
                epoch=trial.epoch,
                epochs=max(epochs, trial.epoch),
                value=trial.value,
                since=now - trial.seconds,
                turned=turned if trial.pace else 0.0,
                pace=trial.pace or 0.0,
                most=self.most,
            )
            self.elsewhere[trial.number] = name_machine(trial.host), status

    def note_end_elsewhere(self, outcome: str, seconds: object) -> None:
        """Count a trial of another machine that ended after so many seconds, if that is known."""
        if isinstance(seconds, int | float):
            self.costs.append(seconds * self._turns_elsewhere)
        self.ends[outcome] += 1

    def summary(self) -> str:
        """Return one line: how far the study is, how fast, how long it still takes."""
        return "  ".join(self.summary_parts())

    def running(self) -> list[WorkerStatus]:
        """Return the trials that run, ours first."""
        ours = [status for _, status in sorted(self.status.items()) if status.trains]
        return ours + [status for _, (_, status) in sorted(self.elsewhere.items())]

    def seconds_left(self) -> float | None:
        """Estimate the time left of the search."""
        if not self.is_searching:
            return None
        statuses, now = self._all_statuses(), time.monotonic()
        ours = sum(status.trains for status in statuses)
        others = max(0, self.states["RUNNING"] - ours)
        begun = count_ended(self.states) + self.states["PAUSED"] + ours + others
        unstarted, costs = max(0, self.total - begun), self.costs
        paces = [status.pace for status in statuses if status.trains and status.pace]
        if self.rungs is not None and paces:
            unstarted = self.rungs.stretches.total()
            trained = self.rungs.mean_epochs * sum(paces) / len(paces)
            costs = [max(trained, min(costs, default=0.0))]  # short ones mostly load and store
            statuses = [_up_to_its_rung(status, self.rungs) for status in statuses]
        left = seconds_left(statuses, costs=costs, unstarted=unstarted, others=others, now=now)
        return None if left is None else max(0.0, min(left, self.deadline - now))

    def _all_statuses(self) -> list[WorkerStatus]:
        """Return what our workers and those of other machines are at."""
        return [*self.status.values(), *(status for _, status in self.elsewhere.values())]

    def summary_parts(self) -> list[str]:
        """Return the parts of `summary`: where they have no room beside each other, none breaks."""
        counts = {word: self.states[state] for word, state in STATES.items()}
        resumed = min(self._count_resumed_since(), counts["paused"])
        counts["running"] += resumed
        counts["paused"] -= resumed
        for word, state in COUNTED_AS.items():
            known = min(self.ends[word], self.states[state])
            counts[word] = known
            counts["pruned" if state == "PRUNED" else "failed"] -= known
        ended = count_ended(self.states)
        parts = [f"{self.study}  {ended:,}/{format_count(self.total, 'trial')}"]
        words = (*OUTCOMES, "paused")
        parts += [f"{counts[word]:,} {word}" for word in words if counts.get(word, 0) > 0]
        pace = epoch_pace(self._all_statuses(), time.monotonic())
        if pace is not None and self.is_searching:
            parts.append(format_pace(pace))
        left = self.seconds_left()
        if left is not None and left >= 0.5:  # after its last epoch a trial may still be measured
            parts.append(f"{format_duration(left)} left")
        return [*parts, *([self.jobs] if self.jobs else [])]

    def _count_resumed_since(self) -> int:
        """Count the paused trials that our workers have taken since the states were counted."""
        ours = [status for status in self.status.values() if status.trains]
        return min(
            max(0, len(ours) - self.states["RUNNING"]),
            sum(bool(each.resumed) and each.number not in self._counted for each in ours),
        )


def _up_to_its_rung(status: WorkerStatus, rungs: RungWork) -> WorkerStatus:
    """Return what a worker does, with the epochs after which its trial pauses or ends."""
    if not status.trains or status.number is None:
        return status
    stop = rungs.stop_of(status.number, status.epoch)
    return replace(status, epochs=max(status.epoch, min(stop, status.epochs)))


def name_machine(host: object) -> str:
    """Return the name of a machine in a column: without the names of its network."""
    return show_text(host).partition(".")[0] if isinstance(host, str) and host else "elsewhere"
