"""Workers that end unasked: their trials are freed, and new workers follow where that can help.

deaths = WorkerDeaths(run, queue, pool, display, packing)
deaths.kill_hung(running)            # those that do not end a trial by themselves
deaths.take_in(worker, gone)         # frees its trials; raises `WorkersFailed` if all are so
deaths.start_due()                   # new ones in place of those whose pause is over
"""

from __future__ import annotations

from collections.abc import Mapping

from search.errors import WorkersFailed
from search.events import CROWDED, Gone
from search.run import StudyRun
from search.supervisor.display import Display
from search.supervisor.end_words import describe_exit
from search.supervisor.gpu_packing import GpuPacking
from search.supervisor.restarts import Restarts
from search.supervisor.running_trials import RunningTrials
from search.supervisor.worker_pool import WorkerHandle, WorkerPool, WorkerState
from search.trials.queue import TrialQueue
from search.words import format_count


class WorkerDeaths:
    """The deaths of a run's workers.

    packing: is told if a GPU has no room for a worker; None: nothing is packed
    is_ready: whether any worker has ever been ready to work
    """

    def __init__(
        self,
        run: StudyRun,
        queue: TrialQueue,
        pool: WorkerPool,
        display: Display,
        packing: GpuPacking | None,
    ) -> None:
        self.run = run
        self.queue = queue
        self.pool = pool
        self.display = display
        self.packing = packing
        self.restarts = Restarts()
        self.is_ready = False
        self._hung: dict[int, int | None] = {}  # worker that was killed for it -> trial, if known

    def kill_hung(self, running: Mapping[int, RunningTrials]) -> None:
        """Kill a worker that does not end its trial by itself, long after TRIAL_MINUTES.

        running: the trials of each worker
        """
        if self.run.trial_minutes is None:
            return
        for index, trials in running.items():
            worker = self.pool.workers[index]
            is_late = trials.is_late(60 * self.run.trial_minutes)
            if is_late and index not in self._hung and worker.state is WorkerState.BUSY:
                self._hung[index] = trials.only()
                worker.process.kill()

    def take_in(self, worker: WorkerHandle, event: Gone) -> None:
        """Free the trials of a dead worker, and start another one now, later, or not at all."""
        if worker.error is not None:
            raise WorkersFailed(f"worker {worker.index}: {worker.error} (log: {worker.log})")
        if worker.index in self._hung:
            self._end_hung(self._hung.pop(worker.index), worker)
        freed = self.queue.reclaim_from(worker.owner)
        if event.code == CROWDED and self._has_neighbours(worker):
            self.restarts.retire(worker.index)
            if self.packing is not None:
                self.packing.note_left(worker.index, worker.device)
            self.display.show_leaving(worker)
            return
        self.display.show_death(worker, event.code, freed)
        if self.restarts.note_death(worker.index, at_start=not self.is_ready) is None:
            self._go_on_without(worker, event)

    def start_due(self) -> None:
        """Start new workers in place of those whose pause is over."""
        for index in self.restarts.take_due():
            self.pool.replace(self.pool.workers[index])

    def _end_hung(self, number: int | None, worker: WorkerHandle) -> None:
        """End the trial for which a worker was killed. If it held several, each goes on alone."""
        late = f"TRIAL_MINUTES={self.run.trial_minutes:g} were long over"
        if number is None:
            self.display.say(
                f"worker {worker.index} hung: {late}; each of its trials goes on alone"
            )
        elif self.queue.end_hung(number, f"it hung: {late}"):
            self.display.say(f"trial {number:>3}  interrupted: it hung: {late}")

    def _has_neighbours(self, worker: WorkerHandle) -> bool:
        """Whether other workers of this run use the same device."""
        return any(
            other.device == worker.device and other.index not in self.restarts.given_up
            for other in self.pool.workers.values()
            if other.index != worker.index
        )

    def _go_on_without(self, worker: WorkerHandle, event: Gone) -> None:
        """Give up a worker that dies before any work. Raises `WorkersFailed` if all workers do."""
        times = format_count(self.restarts.deaths[worker.index], "time")
        how = f"ended {describe_exit(event.code)} before it could work, {times} in a row"
        if len(self.restarts.given_up) == len(self.pool.workers):
            raise WorkersFailed(f"worker {worker.index} {how}; see {worker.log}")
        self.display.say(f"worker {worker.index} {how}: the others go on without it ({worker.log})")
