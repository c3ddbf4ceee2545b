"""What a person sees while a study runs: one live display, or plain lines without a terminal.

cae  38/50 trials  complete 21  pruned 16  failed 1  running 2   0.41 epochs/s   12 min left
best 0.01241 (trial 17)  channels 9, latent 51, lr 0.00312, optimizer adam
worker 0  cpu  trial 38  epoch 7/20  0.01893  4.9 s/epoch
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from search.console import format_duration, format_parameters, shorten_path
from search.messages import (
    Drawing,
    Ended,
    EpochEnded,
    Event,
    Exported,
    Exporting,
    Idle,
    Measuring,
    NotRetrained,
    Preparing,
    Ready,
    Retrained,
    Retraining,
    Started,
    Warned,
)
from search.study import StudySpec
from search.supervisor.worker_pool import WorkerHandle
from storage.database.trial_states import count_ended

WINDOW = 60.0  # seconds over which epochs/s are counted
PLAIN_EVERY = 30.0  # seconds between two status lines without a terminal


@dataclass
class WorkerStatus:
    """The present work of one worker.

    what: in words; number: of its trial; epoch, epochs: done, and at most; value: the last one
    seconds: of the last epoch; since: when it began, on the monotonic clock
    """

    device: str
    what: str = "starting"
    number: int | None = None
    epoch: int = 0
    epochs: int = 0
    value: float | None = None
    seconds: float = 0.0
    since: float = 0.0


class Display:
    """Hears every event of the workers and shows where the study stands.

    study: the stored study's name; total: trials in all
    marks_best: whether values decide; False where a person does
    """

    def __init__(
        self, study: str, spec: StudySpec, total: int, console: Console, *, marks_best: bool = True
    ) -> None:
        self.study = study
        self.spec = spec
        self.total = total
        self.console = console
        self.marks_best = marks_best
        self.states: Counter[str] = Counter()
        self.best: tuple[float, int, Mapping[str, Any]] | None = None
        self.status: dict[int, WorkerStatus] = {}
        self.parameters: dict[int, Mapping[str, Any]] = {}
        self.epochs: deque[float] = deque()
        self.costs: list[float] = []  # seconds of each trial that ended while we watched
        self.began = time.monotonic()
        self.is_searching = True
        self.warned: set[str] = set()  # of what
        self._plain_at = self.began
        self._live = Live(
            get_renderable=self._draw, console=console, refresh_per_second=4, transient=True
        )

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.console.is_terminal:
            self._live.stop()

    def show_starting(self, workers: Iterable[WorkerHandle]) -> None:
        """Show workers whose processes have just begun."""
        for worker in workers:
            self.status[worker.index] = WorkerStatus(worker.device)

    def set_best(self, value: float, number: int, parameters: Mapping[str, Any]) -> None:
        """Show the best trial of earlier runs."""
        self.best = (value, number, parameters)

    def update_counts(self, states: Counter[str]) -> None:
        """Show how many trials are in which state."""
        self.states = states
        self._say_at_times(self.summary())

    def handle_event(self, worker: WorkerHandle, event: Event) -> None:
        """Show what a worker says."""
        status = self.status.setdefault(worker.index, WorkerStatus(worker.device))
        now = time.monotonic()
        match event:
            case Started():
                self.parameters[event.number] = event.parameters
                self.status[worker.index] = WorkerStatus(
                    worker.device, "trial", event.number, epochs=event.epochs, since=now
                )
            case Retraining():
                self.status[worker.index] = WorkerStatus(
                    worker.device, "retraining", event.number, epochs=event.epochs, since=now
                )
            case EpochEnded():
                self._show_epoch(status, event, now)
            case Ended():
                self._show_end(status, event, now)
            case Retrained():
                self.say(
                    f"retrained trial {event.number}: {event.epochs} epochs "
                    f"({event.ended_by}), best {self.spec.metric} {event.best:.6g} in epoch "
                    f"{event.best_epoch}"
                )
            case NotRetrained():
                self.say(f"retraining of trial {event.number} failed: {event.reason}")
            case Exporting():
                self.status[worker.index] = WorkerStatus(worker.device, "exporting", event.number)
            case Measuring() | Drawing():
                verb = type(event).__name__.lower()
                what = f"{verb} {event.what}, trial"
                self.status[worker.index] = WorkerStatus(worker.device, what, event.number)
                self._say_at_times(f"{verb} trial {event.number}: {event.what}")
            case Exported():
                self._show_export(event)
            case Warned() if event.what not in self.warned:
                self.warned.add(event.what)
                self.say(f"worker {worker.index}: {event.message}")
            case Preparing():
                if status.number is None:  # else a trial goes on after it
                    status.what = event.line
                if not self.console.is_terminal:  # minutes in which nothing else is to be seen
                    self.say(event.line)
            case Ready() | Idle():
                self.status[worker.index] = WorkerStatus(worker.device, "idle")

    def show_death(self, worker: WorkerHandle, code: int, freed: list[int]) -> None:
        """Say that a worker's process ended unasked, and which trials go on elsewhere."""
        trials = "".join(f"; trial {number} goes on elsewhere" for number in freed)
        how = f"by signal {-code}" if code < 0 else f"with code {code}"
        self.say(f"worker {worker.index} ended {how}{trials} ({shorten_path(worker.log)})")

    def begin_finish(self) -> None:
        """Show no time left from now on: all trials have ended."""
        self.is_searching = False
        self.epochs.clear()

    def say(self, line: str) -> None:
        """Print one line above the live display."""
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def summary(self) -> str:
        """Return one line: how far the study is, how fast, how long it still takes."""
        states = self.states
        parts = [
            f"{self.study}  {count_ended(states)}/{self.total} trials",
            f"complete {states['COMPLETE']}",
            f"pruned {states['PRUNED']}",
            f"failed {states['FAIL']}",
            f"running {states['RUNNING']}",
        ]
        rate = self.epochs_per_second()
        if rate:
            parts.append(f"{rate:.2f} epochs/s")
        left = self.seconds_left()
        if left is not None:
            parts.append(f"{format_duration(left)} left")
        return "  ".join(parts)

    def epochs_per_second(self) -> float:
        """Return the epochs a second over the last minute, all workers together."""
        now = time.monotonic()
        while self.epochs and now - self.epochs[0] > WINDOW:
            self.epochs.popleft()
        return len(self.epochs) / max(min(WINDOW, now - self.began), 1e-9)

    def seconds_left(self) -> float | None:
        """Estimate the time left, from the mean time of trials that ended, before that from the
        first epochs; None before those."""
        running = [status for status in self.status.values() if status.what == "trial"]
        if not running or not self.is_searching:
            return None
        if self.costs:
            cost = sum(self.costs) / len(self.costs)
        elif epochs := [status.seconds for status in running if status.epoch]:
            cost = max(status.epochs for status in running) * sum(epochs) / len(epochs)
        else:
            return None
        now = time.monotonic()
        spent = sum(min(now - status.since, cost) for status in running)
        left = (self.total - count_ended(self.states)) * cost - spent
        return max(0.0, left / max(len(running), 1))

    def _show_epoch(self, status: WorkerStatus, event: EpochEnded, now: float) -> None:
        status.epoch, status.value, status.seconds = event.epoch, event.value, event.seconds
        self.epochs.append(now)
        if event.retraining:
            left = format_duration((status.epochs - status.epoch) * status.seconds)
            self._say_at_times(
                f"retraining trial {status.number}: epoch {status.epoch}/{status.epochs}, "
                f"{self.spec.metric} {status.value:.6g}, at most {left} left"
            )

    def _show_end(self, status: WorkerStatus, event: Ended, now: float) -> None:
        number, value = event.number, event.value
        self.costs.append(now - status.since)
        reached = f"  {self.spec.metric} {value:.6g}" if value is not None else ""
        if value is None and status.value is not None:
            reached = f"  {self.spec.metric} {status.value:.6g} after {status.epoch} epochs"
        mark = ""
        known = self.best[0] if self.best else None
        if value is not None and self.marks_best and self.spec.better(value, known):
            self.best = (value, number, self.parameters.get(number, {}))
            mark = "  *best"
        took = format_duration(now - status.since)
        parameters = format_parameters(self.parameters.get(number, {}))
        verdict = f"  {event.verdict.replace('_', ' ')}" if event.verdict else ""
        line = f"trial {number:>3}  {event.outcome:<10}{reached}{verdict}"
        self.say(f"{line}  {took}  {parameters}{mark}")

    def _show_export(self, event: Exported) -> None:
        tested = f", test {event.test:.6g}" if event.test is not None else ""
        self.say(
            f"exported rank {event.rank}: trial {event.number}, validation "
            f"{event.metric} {event.valid:.6g}{tested} -> {shorten_path(event.folder)}"
        )

    def _say_at_times(self, line: str) -> None:
        """Print ``line`` now and then where no terminal shows how far the study is."""
        now = time.monotonic()
        if not self.console.is_terminal and now - self._plain_at >= PLAIN_EVERY:
            self._plain_at = now
            self.say(line)

    def _draw(self) -> Group:
        """Return the live display."""
        bar = Table.grid()
        ended = count_ended(self.states)
        bar.add_row(ProgressBar(total=max(self.total, 1), completed=ended, width=60))
        lines: list[Any] = [bar, Text(self.summary(), style="bold")]
        if self.best is not None:
            value, number, parameters = self.best
            text = f"best {value:.6g} (trial {number})  {format_parameters(parameters)}"
            lines.append(Text(text, style="green"))
        table = Table.grid(padding=(0, 2))
        for index, status in sorted(self.status.items()):
            table.add_row(f"worker {index}", status.device, *_status_cells(status))
        return Group(*lines, table)


def _status_cells(status: WorkerStatus) -> tuple[str, str, str, str]:
    """Return a worker's row of the live display: what it does, epoch, value, pace."""
    if status.number is None:
        return status.what, "", "", ""
    return (
        f"{status.what} {status.number}",
        f"epoch {status.epoch}/{status.epochs}" if status.epochs else "",
        "" if status.value is None else f"{status.value:.6g}",
        f"{status.seconds:.1f} s/epoch" if status.epoch else "",
    )
