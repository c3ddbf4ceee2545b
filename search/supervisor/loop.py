"""One call of `make study`, from the loaded study to the exported best.

    settle      variables, data, database -> StudyRun, or one clear line
    search      workers take trials until exactly TRIALS have ended
    finish      the best TOP are retrained, ranked, judged, exported

Whatever is interrupted is taken up by the next call of the same command.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from filelock import FileLock, Timeout

from search.errors import SearchError, WorkersFailed
from search.run import StudyRun
from search.study import Study
from search.supervisor.display import Display
from search.supervisor.gpu_packing import GpuPacking
from search.supervisor.preference_prompt import PreferencePrompt
from search.supervisor.worker_pool import Event, WorkerHandle, WorkerPool
from search.trials.leaderboard import Leaderboard
from search.trials.queue import TrialQueue
from storage.database.leases import RENEWAL
from storage.database.trial_states import count_ended
from storage.files.exports import remove_ranks_beyond, remove_unfinished

HANG = 30.0  # seconds beyond TRIAL_MINUTES after which a worker cannot be waiting for its epoch
ALIKE = 3  # failures of one kind, one after the other, that end the search
TICK = 0.5  # seconds between two looks at the database
LINGER = 15.0  # seconds that a worker may take to notice that no trial is left


class SearchFailed(SearchError):
    """Trials fail one after the other for the same reason; the message names it and the log."""


class Stopped(Exception):
    """Ctrl-C or SIGTERM: end cleanly, the next run goes on."""


class Supervisor:
    """The supervisor's side of a run."""

    def __init__(
        self,
        study: Study,
        run: StudyRun,
        queue: TrialQueue,
        pool: WorkerPool,
        display: Display,
        packing: GpuPacking | None = None,
    ) -> None:
        self.study = study
        self.run = run
        self.queue = queue
        self.pool = pool
        self.display = display
        self.prompt = PreferencePrompt(queue, run.trials, display.say)
        choices = None if run.shown is None else queue.choices
        self.leaderboard = Leaderboard(study.spec, run, queue.study, choices)
        self.packing = packing  # None: as many workers as were asked for
        self.stop_asked = False
        queue.retry.given_up = lambda: self.stop_asked
        queue.retry.tell = display.say
        self.ready = False  # a worker has come up: later deaths are worth a replacement
        self.failures: list[str] = []  # reasons, one after the other
        self.running: dict[int, tuple[int, float]] = {}  # worker -> trial, since when
        self.hung: dict[int, int] = {}  # worker that was killed for it -> trial

    def search(self, minutes: float | None = None) -> None:
        """Until exactly ``run.trials`` trials have ended, by us or by anybody else, and a person
        has chosen among them where one is asked.

        minutes: after which trials are given back, to go on in the next run
        """
        total = self.run.trials
        deadline = time.monotonic() + 60 * (minutes or float("inf"))
        looked = 0.0
        over: float | None = None  # since when all trials have ended
        counts = self.queue.count()
        self.prompt.refresh()
        while count_ended(counts) < total or self.pool.busy_workers() or not self.prompt.is_decided:
            if time.monotonic() > deadline:
                self._halt(minutes)
                return
            self._kill_hung()
            if count_ended(counts) >= total:
                over = over or time.monotonic()
                if time.monotonic() - over > LINGER:
                    self.pool.kill_busy()  # they hang over trials that others have ended
            if counts["WAITING"] or (counts.total() < total and self.prompt.has_room):
                for worker in self.pool.idle_workers():
                    self.pool.send(worker, {"job": "search"})
            elif self.pool.idle_workers() and time.monotonic() - looked >= RENEWAL:
                looked = time.monotonic()
                self.queue.take_back_abandoned()  # of other machines
            self._listen()
            self._pack()
            counts = self.queue.count()
            self.prompt.refresh()
            self.display.update_counts(counts)
            self.prompt.ask()

    def _halt(self, minutes: float | None) -> None:
        self.pool.halt()
        asked = time.monotonic()
        while self.pool.busy_workers():
            self._listen()
            if time.monotonic() - asked > LINGER:
                self.pool.kill_busy()
        self.display.update_counts(self.queue.count())
        self.display.say(f"MINUTES={minutes:g} are over; the same command goes on from here")

    def _kill_hung(self) -> None:
        """A worker that does not end its trial by itself, long after TRIAL_MINUTES, is killed."""
        if self.run.trial_minutes is None:
            return
        for index, (number, since) in self.running.items():
            worker = self.pool.workers[index]
            late = time.monotonic() - since > 60 * self.run.trial_minutes + HANG
            if late and index not in self.hung and worker.state == "busy":
                self.hung[index] = number
                worker.process.kill()

    def _note(self, worker: WorkerHandle, event: Event) -> None:
        """What an event says of the trials that run and how they end."""
        if event["event"] == "started":
            self.running[worker.index] = event["number"], time.monotonic()
        elif event["event"] in ("ended", "released", "idle"):
            self.running.pop(worker.index, None)
        if event["event"] == "ended":
            self._count_failures(worker, event)

    def _count_failures(self, worker: WorkerHandle, event: Event) -> None:
        """End the search when trial after trial fails alike: the next would too."""
        if event["outcome"] != "failed":
            self.failures.clear()
            return
        kind = str(event["reason"]).splitlines()[0]
        if self.failures and self.failures[-1] != kind:
            self.failures.clear()
        self.failures.append(kind)
        if len(self.failures) >= ALIKE:
            raise SearchFailed(
                f"{ALIKE} trials one after the other failed alike ({kind}); mend the model or the "
                f"study, then the same command goes on (log: {worker.log})"
            )

    def _pack(self) -> None:
        """More workers where a GPU has room for them and they pay."""
        most = self.run.trials - count_ended(self.queue.count())
        if self.packing is None or len(self.pool.workers) >= min(most, self.run.shown or most):
            return  # one more would find nothing to do
        for device in self.packing.devices_to_fill():
            worker = self.pool.add(device)
            self.packing.note_added(worker.index, device)
            self.display.say(f"{device} has room for more: worker {worker.index} joins")

    def finish(self, top: int) -> list[dict[str, Any]]:
        """Retrain, rank and export; the records of the exports, best first.

        One run at a time: a second one under the same RUNS waits, then finds it done.
        """
        with self._alone():
            return self._finish(top)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        lock = FileLock(self.run.paths.finishing_lock(self.run.study))
        while True:
            try:
                lock.acquire(timeout=TICK)
                break
            except Timeout:
                self._listen()
        try:
            yield
        finally:
            lock.release()

    def _finish(self, top: int) -> list[dict[str, Any]]:
        self.display.begin_finish()
        remove_unfinished(self.run.paths.exports(self.run.study))
        chosen: list[int] = []
        candidates = self.leaderboard.ranked_trials()
        while candidates and len(chosen) < top:
            batch, candidates = candidates[: top - len(chosen)], candidates[top - len(chosen) :]
            missing = [number for number in batch if self.leaderboard.record(number) is None]
            self._hand_out([{"job": "retrain", "number": number} for number in missing])
            chosen += [
                number
                for number in batch
                if "failed" not in (self.leaderboard.record(number) or {})
            ]
        if len(chosen) < top:
            self.display.say(f"{len(chosen)} usable trials for TOP={top}: fewer exports")
        ranked = self.leaderboard.rank_retrained(chosen)
        jobs = [
            {"job": "export", "number": number, "rank": rank}
            for rank, number in enumerate(ranked, start=1)
            if not self.leaderboard.is_exported(number, rank)
        ]
        self._hand_out(jobs)
        remove_ranks_beyond(self.run.paths.exports(self.run.study), len(ranked))
        return self.leaderboard.export_records(len(ranked))

    def _hand_out(self, jobs: list[dict[str, Any]]) -> None:
        """One job a worker, the next to whoever is free; a dead worker's job goes round again."""
        waiting = list(jobs)
        failures = 0
        while waiting or self.pool.busy_workers():
            for worker in self.pool.idle_workers():
                if waiting:
                    self.pool.send(worker, waiting.pop(0))
            for worker in self._listen():
                if worker.job.get("job") in ("retrain", "export"):  # it died at work
                    failures += 1
                    if failures > 3:
                        raise WorkersFailed(
                            f"{worker.job['job']} of trial {worker.job['number']} kills its "
                            f"worker again and again; see {worker.log}"
                        )
                    waiting.insert(0, worker.job)

    def _listen(self) -> list[WorkerHandle]:
        """Pass on what workers say for one tick; returns those that died, replaced already."""
        if self.stop_asked:
            raise Stopped
        died = []
        for worker, event in self.pool.events(TICK):
            if event["event"] == "gone":
                self._bury(worker, event)
                died.append(worker)
            elif event["event"] != "error":
                self.ready = self.ready or event["event"] == "ready"
                self._note(worker, event)
                if self.packing is not None:
                    self.packing.handle_event(worker.index, worker.device, event)
                self.display.handle_event(worker, event)
            if self.stop_asked:
                raise Stopped
        return died

    def _bury(self, worker: WorkerHandle, event: Event) -> None:
        """Free the trial of a worker that ended unasked; go on with a new one if that can help."""
        if worker.error is not None:
            raise WorkersFailed(f"worker {worker.index}: {worker.error} (log: {worker.log})")
        if not self.ready:
            raise WorkersFailed(
                f"worker {worker.index} ended with code {event['code']} before it was ready; "
                f"see {worker.log}"
            )
        self.running.pop(worker.index, None)
        if worker.index in self.hung:
            number = self.hung.pop(worker.index)
            reason = f"it hung: TRIAL_MINUTES={self.run.trial_minutes:g} were long over"
            if self.queue.end_hung(number, reason):
                self.display.say(f"trial {number:>3}  interrupted: {reason}")
        freed = self.queue.take_back_from(worker.owner)
        self.display.show_death(worker, event["code"], freed)
        self.pool.replace(worker)


@contextmanager
def stop_on_signals(supervisor: Supervisor, kill: Callable[[], None]) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM asks for a clean end, the second ends at once."""

    def handle(number: int, frame: FrameType | None) -> None:
        if supervisor.stop_asked:
            kill()
            raise KeyboardInterrupt
        supervisor.stop_asked = True

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
