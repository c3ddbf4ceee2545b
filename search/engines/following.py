"""The supervisor of a study whose workers an engine runs: it starts jobs, and follows the study.

    supervisor = FollowingSupervisor(study, run, queue, pool, display, stop)
    supervisor.employ(engine, jobs=8)
    supervisor.search(minutes)         # replaces jobs that die, until exactly TRIALS have ended
    records = supervisor.wait_for_exports(top)

Its own pool of workers is empty. What the jobs do stands in the trial database.
"""

from __future__ import annotations

import time
from typing import Any

from search.engines.engine import Engine, EngineFailed, Job
from search.interrupts import TRY_AGAIN
from search.supervisor.finish_claim import FinishedElsewhere, find_elsewhere
from search.supervisor.loop import Supervisor
from search.supervisor.worker_pool import WorkerHandle
from search.trials.standings import is_finished
from search.words import format_count

CHECK = 2.0  # seconds between two looks at the jobs
MOST_DEATHS = 4  # for each job, without an epoch of any trial between: then nothing will come of it
PAUSE, LONGEST = 2.0, 120.0  # seconds before jobs that died without work are replaced
FAREWELL = 5.0  # seconds that jobs have to see that nothing is left, before they are cancelled
DONE = 0  # exit code of a worker that found nothing left


class FollowingSupervisor(Supervisor):
    """Follows a study at which the jobs of an engine work."""

    engine: Engine
    jobs: int

    def employ(self, engine: Engine, jobs: int) -> None:
        """Let ``jobs`` workers run in ``engine``; the first ones are started now."""
        self.engine, self.jobs = engine, jobs
        self._ended: set[str] = set()
        self._jobs_died = 0  # in a row, without an epoch of any trial in between
        self._seen: tuple[int, ...] = ()
        self._checked = self._not_before = float("-inf")
        self._start(self._useful_jobs())

    def handle_events(self) -> list[WorkerHandle]:
        """Handle the events of workers, and replace jobs that have died."""
        died = super().handle_events()
        if time.monotonic() - self._checked >= CHECK:
            self._checked = time.monotonic()
            self._look_after_jobs()
        return died

    def let_jobs_end(self) -> None:
        """Wait a little until the jobs find that nothing is left, and end by themselves."""
        deadline = time.monotonic() + FAREWELL
        while time.monotonic() < deadline and any(job.is_alive for job in self.engine.alive()):
            self.stop.wait(0.2)

    def wait_for_exports(self, top: int) -> list[dict[str, Any]] | FinishedElsewhere:
        """Wait until the workers have retrained and exported the best; returns what `finish`
        returns."""
        self.display.begin_finish()
        while True:
            self.queue.read_again()
            ended = self.queue.count_ended()
            at_end = self.run.trials if self.queue.is_stopped() else ended
            if is_finished(self.leaderboard, at_end, top):
                return self.leaderboard.export_records(top)
            elsewhere = find_elsewhere(self.run, self.queue, ended=ended, top=top)
            if elsewhere is not None:
                return elsewhere
            self.tell_dashboard("training the best again")
            until = time.monotonic() + CHECK
            while time.monotonic() < until:
                self.handle_events()

    def _useful_jobs(self) -> int:
        """Return how many workers would have something to do."""
        left = 0 if self.queue.is_stopped() else self.run.trials - self.queue.count_ended()
        return max(1, min(self.jobs, left))

    def _start(self, count: int) -> None:
        self.engine.start(count)
        self.display.say(f"{format_count(count, 'worker')} started as {self.engine.describe()}")

    def _look_after_jobs(self) -> None:
        """Replace jobs that have died, while something is left to do. Raises `EngineFailed`."""
        jobs = self.engine.alive()
        dead = [job for job in jobs if not job.is_alive and job.name not in self._ended]
        self._note_progress()
        for job in dead:
            self._ended.add(job.name)
            self._report_end(job)
        living = sum(job.is_alive for job in jobs)
        self.display.progress.jobs = f"{format_count(living, 'job')} at work or waiting"
        missing = self._useful_jobs() - living
        if missing > 0 and time.monotonic() >= self._not_before:
            self._start(missing)

    def _report_end(self, job: Job) -> None:
        """Say how a job has ended. Raises `EngineFailed` if other jobs would end so, too."""
        if job.code == DONE:
            return
        if job.code == 2:  # a mistake, or a machine that differs: another job would fail, too
            raise EngineFailed(f"{job.name} ended with an error: {job.said or 'see its log'}")
        how = "was told to leave" if job.code == TRY_AGAIN else "ended before its time"
        self.display.say(f"{job.name} {how}{f': {job.said}' if job.said else ''}")
        self._jobs_died += 1
        if self._jobs_died > MOST_DEATHS * self.jobs:
            raise EngineFailed(
                f"{format_count(self._jobs_died, 'job')} in a row ended without an epoch: "
                f"{job.said or 'their logs say why'}"
            )
        if self._jobs_died > self.jobs:
            pause = min(PAUSE * 2 ** (self._jobs_died - self.jobs), LONGEST)
            self._not_before = time.monotonic() + pause

    def _note_progress(self) -> None:
        """Reset the count of deaths if a job has trained since."""
        epochs = tuple(status.epoch for _, status in self.display.progress.elsewhere.values())
        seen = (self.queue.count_ended(), *epochs)
        if seen != self._seen:
            self._seen, self._jobs_died = seen, 0
