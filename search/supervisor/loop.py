"""The supervisor of one run: it keeps the workers at the study's trials until all have ended.

    supervisor = Supervisor(study, run, queue, pool, display, stop)
    supervisor.search(minutes)          # workers take trials until exactly TRIALS have ended
    finish(supervisor, top)             # `search.supervisor.finish`: retrain, rank, export

Whatever is interrupted is taken up by the next call of the same command.
"""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from search.errors import SearchError, WorkersFailed
from search.messages import (
    CROWDED,
    Ended,
    EpochEnded,
    Event,
    Exporting,
    Failed,
    Gone,
    Idle,
    Paused,
    Ready,
    Released,
    Retraining,
    Search,
    Started,
)
from search.run import StudyRun
from search.study import Study
from search.supervisor.display import Display
from search.supervisor.elsewhere import Elsewhere
from search.supervisor.end_words import describe_exit
from search.supervisor.gpu_packing import GpuPacking
from search.supervisor.notices import Notices
from search.supervisor.preference_prompt import PreferencePrompt
from search.supervisor.restarts import Restarts
from search.supervisor.rung_forecast import RungForecast
from search.supervisor.study_note import StudyNote
from search.supervisor.tracking import StudyTracking
from search.supervisor.worker_pool import WorkerHandle, WorkerPool, WorkerState
from search.trials.files_access import FilesAccess
from search.trials.leaderboard import Leaderboard
from search.trials.outcomes import Outcome
from search.trials.queue import TrialQueue
from search.words import format_count
from storage.database.leases import RENEWAL
from storage.database.retry import DatabaseWentBack
from storage.database.trial_states import count_ended

HANG = 30.0  # seconds beyond TRIAL_MINUTES after which a worker cannot be waiting for its epoch
ALIKE = 3  # failures of one kind, one after the other, that end the search
TICK = 0.5  # seconds between two looks at the database
LINGER = 15.0  # seconds that a worker may take to notice that no trial is left


class SearchFailed(SearchError):
    """Trials fail one after the other for the same reason; the message names it and the log."""


class Stopped(Exception):
    """Ctrl-C or SIGTERM: end cleanly, the next run goes on."""


@dataclass
class RunningTrials:
    """The trials that one worker is at.

    since: trial -> when it began; heard: when the worker last said something of any; both on the
        monotonic clock
    several: whether it has ever been at more than one
    """

    since: dict[int, float] = field(default_factory=dict)
    heard: float = 0.0
    several: bool = False

    def begin(self, number: int) -> None:
        """Take in that a trial begins."""
        self.since[number] = self.heard = time.monotonic()
        self.several = self.several or len(self.since) > 1

    def end(self, number: int) -> None:
        """Take in that the worker is at a trial no more."""
        self.since.pop(number, None)
        self.heard = time.monotonic()

    def hear(self) -> None:
        """Take in that the worker says something."""
        self.heard = time.monotonic()

    def is_late(self, limit: float) -> bool:
        """Whether the worker does not end its trial, long after the ``limit`` in seconds.

        One that has several trains them in turn, so that what it says of any of them counts.
        """
        if not self.several:
            return any(time.monotonic() - begun > limit + HANG for begun in self.since.values())
        silent = time.monotonic() - self.heard
        return bool(self.since) and silent > limit * len(self.since) + HANG


class Supervisor:
    """The supervisor's side of a run.

    stop: set when the user wants the run to end
    packing: adds workers to GPUs while they pay; None: as many workers as were asked for
    """

    def __init__(
        self,
        study: Study,
        run: StudyRun,
        queue: TrialQueue,
        pool: WorkerPool,
        display: Display,
        stop: threading.Event,
        packing: GpuPacking | None = None,
    ) -> None:
        self.study = study
        self.run = run
        self.queue = queue
        self.pool = pool
        self.display = display
        self.stop = stop
        self.packing = packing
        self.prompt = PreferencePrompt(queue, run.trials, display.say)
        choices = None if run.shown is None else queue.read_choices
        self.leaderboard = Leaderboard(study.spec, run, queue.study, choices)
        self.note: StudyNote | None = None  # of the study in the dashboard
        self.files: FilesAccess | None = None  # what every machine sees
        self.notices: Notices | None = None  # who hears of the study
        self.tracking: StudyTracking | None = None  # tells experiment trackers
        self.elsewhere: Elsewhere | None = None  # shows what other machines do
        self.forecast = RungForecast(queue, display.progress, run.epochs)
        self.restarts = Restarts()
        self.is_ready = False  # a worker has come up: what kills others later may pass
        self.has_stopped = False  # the sampler has, and it has been said
        self.failures: list[str] = []  # reasons, one after the other
        self.running: dict[int, RunningTrials] = {}  # of each worker
        self.hung: dict[int, int | None] = {}  # worker that was killed for it -> trial, if known
        # (trial, repeat) -> how far that retraining has come
        self.epochs: dict[tuple[int, int], int] = {}

    def search(self, minutes: float | None = None) -> None:
        """Search until exactly ``run.trials`` trials have ended, by us or by anybody else, and a
        person has chosen among them where one is asked.

        minutes: after which trials are given back, to go on in the next run
        """
        self.display.progress.is_searching = True
        if self.display.progress.deadline == float("inf"):  # else this goes on
            self.display.progress.deadline = time.monotonic() + 60 * (minutes or float("inf"))
        while True:
            try:
                self._search_until(self.display.progress.deadline, minutes)
                self.queue.check_counts()
            except DatabaseWentBack as error:
                self.read_again(error)
            else:
                break
        self._look_elsewhere(at_once=True)
        self._look_for_best(at_once=True)

    def read_again(self, error: DatabaseWentBack) -> None:
        """Say that the database went back to an older state, and read all trials anew."""
        self.display.say(str(error))
        self.display.forget_trials()
        self.queue.read_again()
        if self.elsewhere is not None:
            self.elsewhere.forget()

    def _search_until(self, deadline: float, minutes: float | None) -> None:
        """Search until the trials have ended, as far as this process knows."""
        looked = 0.0
        over: float | None = None  # since when all trials have ended
        counts = self.queue.count()
        self.prompt.refresh()
        total = self._count_wanted(counts)
        while count_ended(counts) < total or self.pool.busy_workers() or not self.prompt.is_decided:
            if time.monotonic() > deadline:
                self._halt(minutes)
                return
            self._kill_hung()
            if count_ended(counts) >= total:
                over = over or time.monotonic()
                if time.monotonic() - over > LINGER:
                    self.pool.kill_busy()  # they hang over trials that others have ended
            if counts["WAITING"] or self._may_begin(counts, total) or self._may_go_on(counts):
                for worker in self.pool.idle_workers():
                    self.pool.send(worker, Search())
            elif self.pool.idle_workers() and time.monotonic() - looked >= RENEWAL:
                looked = time.monotonic()
                self.queue.reclaim_abandoned()  # of other machines
            self.handle_events()
            self._add_workers()
            counts = self.queue.count()
            total = self._count_wanted(counts)
            self.prompt.refresh()
            self._look_elsewhere()
            self._look_for_best()
            self.forecast.look(counts)
            self.display.update_counts(counts)
            self.tell_dashboard("searching", counts)
            self.prompt.ask()

    def _look_elsewhere(self, *, at_once: bool = False) -> None:
        """Show what other machines do for the study."""
        if self.elsewhere is not None:
            owners = {worker.owner for worker in self.pool.workers.values()}
            self.elsewhere.look(owners, at_once=at_once)

    def _look_for_best(self, *, at_once: bool = False) -> None:
        """Tell whoever wants to hear it that the best has improved."""
        if self.notices is not None:
            self.notices.look_for_best(at_once=at_once)

    def _may_begin(self, counts: Counter[str], total: int) -> bool:
        """Whether there is a new trial to begin, for a worker that is free."""
        if counts.total() >= total or not self.prompt.has_room or not self.pool.idle_workers():
            return False
        return not self.queue.is_exhausted()

    def _may_go_on(self, counts: Counter[str]) -> bool:
        """Whether there is a paused trial to take, for a worker that is free."""
        is_free = bool(self.pool.idle_workers())
        return is_free and self.queue.has_paused_to_take(counts, self.run.trials)

    def _count_wanted(self, counts: Counter[str]) -> int:
        """Return how many trials the study will have: no more than it has once its sampler has
        stopped it."""
        if counts.total() < self.run.trials and self.queue.is_stopped():
            if not self.has_stopped:
                self.has_stopped = True
                self.display.say(
                    f"{self.queue.stop_reason()}: "
                    f"{format_count(counts.total(), 'trial')}, not {self.run.trials}"
                )
            self.display.progress.total = counts.total()
            return counts.total()
        return self.run.trials

    def tell_dashboard(self, state: str, counts: Counter[str] | None = None) -> None:
        """Bring the study's note in the dashboard up to date."""
        if self.note is not None:
            self.note.refresh(state, self.queue.count() if counts is None else counts)

    def handle_events(self) -> list[WorkerHandle]:
        """Pass on what workers say for one tick; returns those that died. They are replaced now,
        or when it is time.

        Raises `Stopped`, `WorkersFailed` and `SearchFailed`.
        """
        if self.stop.is_set():
            raise Stopped
        died = []
        for worker, event in self.pool.events(TICK):
            if isinstance(event, Gone):
                self._replace_dead(worker, event)
                died.append(worker)
            elif not isinstance(event, Failed):
                self._follow_trials(worker, event)
                if self.packing is not None:
                    self.packing.handle_event(worker.index, worker.device, event)
                self.display.handle_event(worker, event)
                if self.tracking is not None:
                    self.tracking.handle_event(event)
            if self.stop.is_set():
                raise Stopped
        for index in self.restarts.take_due():
            self.pool.replace(self.pool.workers[index])
        return died

    def _halt(self, minutes: float | None) -> None:
        """Have all trials given back: MINUTES are over."""
        self.pool.halt()
        asked = time.monotonic()
        while self.pool.busy_workers():
            self.handle_events()
            if time.monotonic() - asked > LINGER:
                self.pool.kill_busy()
        self.display.update_counts(self.queue.count())
        self.display.say(f"MINUTES={minutes:g} are over; the same command goes on from here")

    def _kill_hung(self) -> None:
        """Kill a worker that does not end its trial by itself, long after TRIAL_MINUTES."""
        if self.run.trial_minutes is None:
            return
        for index, running in self.running.items():
            worker = self.pool.workers[index]
            is_late = running.is_late(60 * self.run.trial_minutes)
            if is_late and index not in self.hung and worker.state is WorkerState.BUSY:
                self.hung[index] = None if running.several else next(iter(running.since))
                worker.process.kill()

    def _follow_trials(self, worker: WorkerHandle, event: Event) -> None:
        """Note which trials run since when, and how they end."""
        match event:
            case Ready():
                self.is_ready = True
            case Retraining() | Exporting():
                self.restarts.note_work(worker.index)
            case EpochEnded(retraining=True):
                key = event.number, event.repeat
                self.epochs[key] = max(event.epoch, self.epochs.get(key, 0))
            case Started():
                self.restarts.note_work(worker.index)
                self.running.setdefault(worker.index, RunningTrials()).begin(event.number)
            case EpochEnded() if worker.index in self.running:
                self.running[worker.index].hear()
            case Ended():
                self._note_left(worker, event.number)
                self._look_for_best(at_once=event.outcome == Outcome.COMPLETE)
                self._count_failures(worker, event)
            case Released() | Paused():
                self._note_left(worker, event.number)
            case Idle():
                self.running.pop(worker.index, None)

    def _note_left(self, worker: WorkerHandle, number: int) -> None:
        """Take in that a worker is at a trial no more."""
        if worker.index in self.running:
            self.running[worker.index].end(number)

    def _count_failures(self, worker: WorkerHandle, event: Ended) -> None:
        """End the search when trial after trial fails alike: the next would fail, too."""
        if event.outcome != Outcome.FAILED:
            self.failures.clear()
            return
        kind = event.reason.splitlines()[0]
        if self.failures and self.failures[-1] != kind:
            self.failures.clear()
        self.failures.append(kind)
        if len(self.failures) >= ALIKE:
            place = f"; {event.place}" if event.place else ""
            raise SearchFailed(
                f"{ALIKE} trials one after the other failed alike ({kind}{place}); mend that, then "
                f"the same command tries them again and goes on (log: {worker.log})"
            )

    def _add_workers(self) -> None:
        """Start more workers where a GPU has room for them and they pay."""
        most = self.run.trials - count_ended(self.queue.count())
        useful = min(most, self.run.shown or most) - len(self.pool.workers)
        if self.packing is None or useful <= 0:
            return  # one more would find nothing to do
        for device in self.packing.devices_to_fill()[:useful]:
            worker = self.pool.add(device)
            self.packing.note_added(worker.index, device)
            self.display.say(f"{device} has room for more: worker {worker.index} joins")

    def _replace_dead(self, worker: WorkerHandle, event: Gone) -> None:
        """Free the trial of a worker that ended unasked; a new one follows if that can help."""
        if worker.error is not None:
            raise WorkersFailed(f"worker {worker.index}: {worker.error} (log: {worker.log})")
        self.running.pop(worker.index, None)
        if worker.index in self.hung:
            self._end_hung(self.hung.pop(worker.index), worker)
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

    def _end_hung(self, number: int | None, worker: WorkerHandle) -> None:
        """End the trial for which a worker was killed; of several, each goes on alone."""
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
        """Start a worker no more that never comes to work. Raises `WorkersFailed` if all are so."""
        times = format_count(self.restarts.deaths[worker.index], "time")
        how = f"ended {describe_exit(event.code)} before it could work, {times} in a row"
        if len(self.restarts.given_up) == len(self.pool.workers):
            raise WorkersFailed(f"worker {worker.index} {how}; see {worker.log}")
        self.display.say(f"worker {worker.index} {how}: the others go on without it ({worker.log})")


@contextmanager
def stop_on_signals(
    stop: threading.Event,
    kill: Callable[[], None],
    signals: Sequence[int] = (signal.SIGINT, signal.SIGTERM),
) -> Iterator[list[int]]:
    """The first Ctrl-C or SIGTERM sets ``stop``, for a clean end; the second ends at once.

    signals: that do so; a scheduler says SIGUSR2 more than once, and never means at once by it
    Yields those that came.
    """
    heard: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set() and number != signal.SIGUSR2:
            kill()
            raise KeyboardInterrupt
        heard.append(number)
        stop.set()

    before = {number: signal.signal(number, handle) for number in signals}
    try:
        yield heard
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
