"""What a person sees while a study runs: one live display, or plain lines without a terminal.

    cae  38/50 trials  21 complete  16 pruned  1 failed  2 running  2.4 s/epoch  12 min left
    best 0.01241 (trial 17)  channels 9, latent 51, lr 0.00312, optimizer adam
    worker 0  cpu  trial 38   epoch 7/20  0.01893  4.9 s/epoch
    node-17   cpu  trial 39   epoch 2/20  0.02215  5.1 s/epoch

The workers of this machine come first. Below them are those of other machines that have joined.
A log gets the first line now and then, with the latest value of each trial.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from optuna.trial import FrozenTrial, TrialState
from rich.console import Console, Group
from rich.live import Live

from search.console import shorten_path
from search.events import (
    BROKEN,
    CHANGED,
    CROWDED,
    OUTDATED,
    SPENT,
    Drawing,
    Ended,
    EpochEnded,
    Event,
    Exported,
    Exporting,
    Idle,
    Measuring,
    NotRetrained,
    Paused,
    Preparing,
    Ready,
    Released,
    Resumed,
    Retrained,
    Retraining,
    Started,
    Warned,
)
from search.pace import WorkerStatus
from search.run import StudyRun
from search.study import StudySpec
from search.supervisor.end_words import (
    STYLES,
    describe_end,
    describe_exit,
    describe_export,
    describe_progress,
    describe_retraining,
    describe_values,
)
from search.supervisor.leader import RunningLeader
from search.supervisor.live_view import draw_display
from search.supervisor.printed_lines import LinePrinter
from search.supervisor.progress import ITSELF, StudyProgress, name_machine
from search.supervisor.worker_pool import WorkerHandle
from search.trials.outcomes import Outcome
from search.words import format_duration, format_items, name_seed
from storage.database.trial_states import outcome_of
from storage.database.vectors import VIOLATION

MOST_SAID = 8  # workers in a status line


class Display:
    """Shows every event of the workers, and how far the study is.

    study: the stored study's name; total: trials in all
    marks_best: whether values rank the trials; False if a person does
    most: seconds that a trial may take
    """

    def __init__(
        self,
        study: str,
        spec: StudySpec,
        total: int,
        console: Console,
        *,
        marks_best: bool = True,
        most: float = math.inf,
    ) -> None:
        self.spec = spec
        self.console = console
        self.progress = StudyProgress(study, total, most=most)
        self.leader = RunningLeader(spec, marks_best=marks_best)
        self.paused: dict[int, str] = {}  # trial -> the value at which it paused, in words
        self.parameters: dict[int, Mapping[str, Any]] = {}
        self.lines = LinePrinter(console)
        self._live = Live(
            get_renderable=self._draw, console=console, refresh_per_second=4, transient=True
        )

    @classmethod
    def of_run(cls, run: StudyRun, spec: StudySpec, console: Console) -> Self:
        """Return the display of a run of the study that ``spec`` describes."""
        return cls(
            run.study,
            spec,
            run.trials,
            console,
            marks_best=run.shown is None,
            most=60 * (run.trial_minutes or math.inf),
        )

    def __enter__(self) -> Self:
        if self.lines.is_live:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.lines.is_live:
            self._live.stop()

    def show_starting(self, workers: Iterable[WorkerHandle]) -> None:
        """Show workers whose processes have just begun."""
        for worker in workers:
            self.progress.show_only(worker, WorkerStatus(worker.device))

    def set_ends(self, outcomes: Counter[str]) -> None:
        """Show how the trials of earlier runs have ended."""
        self.progress.ends = Counter(outcomes)

    def update_counts(self, states: Counter[str]) -> None:
        """Show how many trials are in which state."""
        self.progress.update_counts(states)
        self.lines.say_at_times(self.progress.summary(), self._work())

    def handle_event(self, worker: WorkerHandle, event: Event) -> None:
        """Show what a worker says."""
        now = time.monotonic()
        match event:
            case Started() | Retraining():
                self._show_start(worker, event, now)
            case Resumed():
                self._show_resumed(self.progress.status_of(worker, event.number), event)
            case EpochEnded():
                self._show_epoch(self.progress.status_of(worker, event.number), event, now)
            case Ended():
                self._show_end(self.progress.status_of(worker, event.number), event, now)
                self.progress.leave(worker, event.number)
            case Paused():
                self._show_pause(self.progress.status_of(worker, event.number), event, now)
                self.progress.leave(worker, event.number)
            case Released():
                self.progress.leave(worker, event.number)
            case Retrained() | NotRetrained() | Exported():
                self._show_result(event)
            case Exporting() | Measuring() | Drawing() | Ready() | Idle():
                self._show_occupation(worker, event)
            case Warned():
                self.lines.say_once(event.what, f"worker {worker.index}: {event.message}")
            case Preparing():
                self._show_preparing(self.progress.status_of(worker), event)

    def show_leaving(self, worker: WorkerHandle) -> None:
        """Say that a worker is not replaced, because its device has too little memory for all."""
        self.progress.show_only(worker, WorkerStatus(worker.device))
        self.say(f"worker {worker.index} ends: {worker.device} has too little memory for all")

    def show_death(self, worker: WorkerHandle, code: int, freed: list[int]) -> None:
        """Say that a worker's process ended unasked, and which trials go on elsewhere."""
        self.progress.show_only(worker, WorkerStatus(worker.device))
        if code == SPENT:
            self.lines.say_once("spent", f"worker {worker.index} starts anew: memory had run out")
            return
        log = shorten_path(worker.log)
        if code == BROKEN:
            self.say(
                f"worker {worker.index} starts anew: {worker.device} reported an error ({log})"
            )
            return
        if code in (CHANGED, CROWDED, OUTDATED):
            return  # the worker or the supervisor has said why
        trials = "".join(f"; trial {number} goes on elsewhere" for number in freed)
        self.say(f"worker {worker.index} ended {describe_exit(code)}{trials} ({log})")

    def begin_finish(self) -> None:
        """Show no time left from now on: all trials have ended."""
        self.progress.is_searching = False
        self.progress.elsewhere.clear()

    def show_end_elsewhere(self, trial: FrozenTrial, about: Mapping[str, Any]) -> None:
        """Say how a trial of another machine has ended.

        about: its attributes, as far as they are what genstudy writes
        """
        outcome = outcome_of(trial.state.name, about.get("outcome"))
        seconds = about.get("seconds")
        self.progress.note_end_elsewhere(outcome, seconds)
        values = trial.values if trial.state == TrialState.COMPLETE else None
        violates = VIOLATION in about
        mark = self.leader.mark(trial.number, values or [], trial.params, violates=violates)
        reached = describe_values(self.spec, values or [], violates=violates)
        took = f"  {format_duration(seconds)}" if isinstance(seconds, int | float) else ""
        where = f"  on {name_machine(about.get('host'))}"
        start = f"trial {trial.number:>3}  {outcome:<10}{reached}{took}{where}"
        style = "green" if mark else STYLES.get(outcome)
        lines = self.lines.fit(start, format_items(trial.params), mark)
        self.say(*lines, style=style)

    def say(self, *lines: str, style: str | None = None) -> None:
        """Print lines above the live display."""
        self.lines.say(*lines, style=style)

    def _work(self) -> str:
        """Return one line: the epochs and the latest values of the trials that run."""
        running, said = self.progress.running(), []
        for status in running[:MOST_SAID]:
            value = "" if status.value is None else f", {self.spec.quality} {status.value:.6g}"
            said.append(f"trial {status.number}: epoch {status.epoch}/{status.epochs}{value}")
        if len(running) > MOST_SAID:
            said.append(f"and {len(running) - MOST_SAID} more")
        return "; ".join(said)

    def _show_start(self, worker: WorkerHandle, event: Started | Retraining, now: float) -> None:
        """Show that a trial, or a retraining, begins."""
        status = WorkerStatus(worker.device, "trial", event.number, epochs=event.epochs, since=now)
        if isinstance(event, Retraining):
            retraining = replace(status, what="retraining", repeat=event.repeat)
            self.progress.show_only(worker, retraining)
            return
        self.parameters[event.number] = event.parameters
        before = self.progress.status.pop((worker.index, ITSELF), None)
        status.pace = 0.0 if before is None else before.pace
        status.most = self.progress.most
        self.progress.status[worker.index, event.number] = status

    def _show_resumed(self, status: WorkerStatus, event: Resumed) -> None:
        """Say from which epoch on a trial, or a retraining, is trained."""
        status.epoch = status.resumed = event.epoch
        repeat = name_seed(event.repeat)
        trial, retraining = f"trial {event.number:>3} ", f"retraining {event.number}{repeat}"
        what = trial if status.trains else retraining
        self.say(f"{what} goes on at epoch {event.epoch + 1}")

    def _show_result(self, event: Retrained | NotRetrained | Exported) -> None:
        """Say how a retraining, or an export, has ended."""
        if isinstance(event, Exported):
            self.say(*describe_export(event))
            return
        self.say(describe_retraining(self.spec, event))

    def _show_occupation(
        self, worker: WorkerHandle, event: Exporting | Measuring | Drawing | Ready | Idle
    ) -> None:
        """Show what a worker does when it does not train."""
        match event:
            case Ready() | Idle():
                self.progress.show_only(worker, WorkerStatus(worker.device, "idle"))
            case Exporting():
                status = WorkerStatus(worker.device, "exporting", event.number)
                self.progress.show_only(worker, status)
            case Measuring() | Drawing():
                verb = type(event).__name__.lower()
                status = WorkerStatus(worker.device, f"{verb} {event.what}", event.number)
                self.progress.show_only(worker, status)
                self.lines.say_at_times(f"{verb} trial {event.number}: {event.what}")

    def _show_preparing(self, status: WorkerStatus, event: Preparing) -> None:
        """Show how far a worker is with what it prepares before trials train."""
        if status.number is None:  # a status of a trial stays
            status.what = event.line
        if not self.lines.is_live:  # it may take minutes, and a log would show nothing
            self.lines.say_once(event.line, event.line)

    def _show_epoch(self, status: WorkerStatus, event: EpochEnded, now: float) -> None:
        status.note_epoch(event.epoch, value=event.value, seconds=event.seconds, now=now)
        if event.retraining:
            left = format_duration((status.epochs - status.epoch) * status.pace)
            self.lines.say_at_times(
                f"retraining trial {status.number}{name_seed(event.repeat)}: epoch "
                f"{status.epoch}/{status.epochs}, {self.spec.quality} {event.value:.6g}, at most "
                f"{left} left"
            )

    def _show_end(self, status: WorkerStatus, event: Ended, now: float) -> None:
        number, value = event.number, event.value
        has_started = status.number == number  # False if suggest turned the parameters down
        if has_started and not status.resumed:  # the time of a resumed trial is only a part
            self.progress.costs.append(now - status.since)
        self.progress.ends[event.outcome] += 1
        parameters = self.parameters.get(number, {})
        values = [] if value is None else event.values or [value]
        mark = self.leader.mark(number, values, parameters, violates=event.violates)
        paused = "" if value is not None else self.paused.pop(number, "")
        end = describe_end(self.spec, event, status, paused=paused)
        start = f"trial {number:>3}  {event.outcome:<10}{end}"
        start += f"  {format_duration(now - status.since)}" if has_started else ""
        items = format_items(parameters)
        style = "green" if mark else STYLES.get(Outcome(event.outcome))
        self.say(*self.lines.fit(start, items, mark), style=style)

    def _show_pause(self, status: WorkerStatus, event: Paused, now: float) -> None:
        """Show that a trial waits at a rung. Its time so far counts in the time left."""
        if status.number == event.number and not status.resumed:
            self.progress.costs.append(now - status.since)
        self.paused[event.number] = describe_progress(self.spec, event.value, event.epoch)
        self.say(f"trial {event.number:>3}  {'paused':<10}{self.paused[event.number]}", style="dim")

    def _draw(self) -> Group:
        """Return the live display."""
        return draw_display(self.progress, self.leader, self.console.width)
