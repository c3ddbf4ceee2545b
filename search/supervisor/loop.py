"""The supervisor of one run: it keeps the workers at the study's trials until all have ended.

    supervisor = Supervisor(study, run, queue, pool, display, stop)
    supervisor.search(minutes)          # workers take trials until exactly TRIALS have ended
    finish(supervisor, top)             # `search.supervisor.finish`: retrain, rank, export

Whatever is interrupted is taken up by the next call of the same command.
"""

from __future__ import annotations

import threading
import time
from collections import Counter

from search.events import (
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
    Started,
)
from search.jobs import Search
from search.run import StudyRun
from search.study import Study
from search.supervisor.display import Display
from search.supervisor.earlier_trials import show_earlier
from search.supervisor.gpu_packing import GpuPacking
from search.supervisor.notices import Notices
from search.supervisor.other_machines import OtherMachines
from search.supervisor.preference_prompt import PreferencePrompt
from search.supervisor.repeated_failures import RepeatedFailures
from search.supervisor.rung_forecast import RungForecast
from search.supervisor.running_trials import RunningTrials
from search.supervisor.stopping import Stopped
from search.supervisor.study_note import StudyNote
from search.supervisor.tracking import StudyTracking
from search.supervisor.worker_deaths import WorkerDeaths
from search.supervisor.worker_pool import WorkerHandle, WorkerPool
from search.trials.files_access import FilesAccess
from search.trials.leaderboard import Leaderboard
from search.trials.outcomes import Outcome
from search.trials.queue import TrialQueue
from search.words import format_count
from storage.database.leases import RENEWAL
from storage.database.retry import DatabaseWentBack
from storage.database.trial_states import count_ended

TICK = 0.5  # seconds between two looks at the database
LINGER = 15.0  # seconds that a worker may take to notice that no trial is left


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
        self.notices: Notices | None = None  # for NOTIFY
        self.tracking: StudyTracking | None = None  # for LOG
        self.other_machines: OtherMachines | None = None  # None: nothing is shown of them
        self.forecast = RungForecast(queue, display.progress, run.epochs)
        self.deaths = WorkerDeaths(run, queue, pool, display, packing)
        self.has_stopped = False  # the sampler has stopped the study, and it was said
        self.failures = RepeatedFailures()
        self.running: dict[int, RunningTrials] = {}  # of each worker
        # (trial, repeat) -> how far that retraining has come
        self.epochs: dict[tuple[int, int], int] = {}

    def search(self, minutes: float | None = None) -> None:
        """Search until exactly ``run.trials`` trials have ended, on this machine or on others.

        If a person ranks the trials, it also waits until they have chosen.
        minutes: after which trials are given back, to go on in the next run
        """
        self.display.progress.is_searching = True
        if self.display.progress.deadline == float("inf"):  # a search that begins again keeps it
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
        self.display.leader.forget()
        self.queue.read_again()
        show_earlier(self.display, self.queue)
        if self.other_machines is not None:
            self.other_machines.forget()

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
            self.deaths.kill_hung(self.running)
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
        if self.other_machines is not None:
            owners = {worker.owner for worker in self.pool.workers.values()}
            self.other_machines.look(owners, at_once=at_once)

    def _look_for_best(self, *, at_once: bool = False) -> None:
        """Tell the receiver, if there is one, that the best has improved."""
        if self.notices is not None:
            self.notices.look_for_best(at_once=at_once)

    def _may_begin(self, counts: Counter[str], total: int) -> bool:
        """Whether a free worker may begin a new trial."""
        if counts.total() >= total or not self.prompt.has_room or not self.pool.idle_workers():
            return False
        return not self.queue.is_exhausted()

    def _may_go_on(self, counts: Counter[str]) -> bool:
        """Whether a free worker may take a paused trial."""
        is_free = bool(self.pool.idle_workers())
        return is_free and self.queue.has_paused_to_take(counts, self.run.trials)

    def _count_wanted(self, counts: Counter[str]) -> int:
        """Return how many trials the study will have. Once its sampler has stopped it, it gets no
        more."""
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
        """Handle what workers report within one tick; returns the workers that died.

        They are replaced now, or after a pause. Raises `Stopped`, `WorkersFailed` and
        `SearchFailed`.
        """
        if self.stop.is_set():
            raise Stopped
        died = []
        for worker, event in self.pool.events(TICK):
            if self.packing is not None:
                self.packing.handle_event(worker.index, worker.device, event)
            if isinstance(event, Gone):
                self.running.pop(worker.index, None)
                self.deaths.take_in(worker, event)
                died.append(worker)
            elif not isinstance(event, Failed):
                self._follow_trials(worker, event)
                self.display.handle_event(worker, event)
                if self.tracking is not None:
                    self.tracking.handle_event(event)
            if self.stop.is_set():
                raise Stopped
        self.deaths.start_due()
        return died

    def _halt(self, minutes: float | None) -> None:
        """Have all trials given back, because MINUTES are over."""
        self.pool.halt()
        asked = time.monotonic()
        while self.pool.busy_workers():
            self.handle_events()
            if time.monotonic() - asked > LINGER:
                self.pool.kill_busy()
        self.display.update_counts(self.queue.count())
        self.display.say(f"MINUTES={minutes:g} are over; the same command goes on from here")

    def _follow_trials(self, worker: WorkerHandle, event: Event) -> None:
        """Note which trials run since when, and how they end."""
        match event:
            case Ready():
                self.deaths.is_ready = True
            case Retraining() | Exporting():
                self.deaths.restarts.note_work(worker.index)
            case EpochEnded(retraining=True):
                key = event.number, event.repeat
                self.epochs[key] = max(event.epoch, self.epochs.get(key, 0))
            case Started():
                self.deaths.restarts.note_work(worker.index)
                self.running.setdefault(worker.index, RunningTrials()).begin(event.number)
            case EpochEnded() if worker.index in self.running:
                self.running[worker.index].hear()
            case Ended():
                self._note_left(worker, event.number)
                self._look_for_best(at_once=event.outcome == Outcome.COMPLETE)
                self.failures.count(event, worker.log)
            case Released() | Paused():
                self._note_left(worker, event.number)
            case Idle():
                self.running.pop(worker.index, None)

    def _note_left(self, worker: WorkerHandle, number: int) -> None:
        """Note that a worker has left a trial."""
        if worker.index in self.running:
            self.running[worker.index].end(number)

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
