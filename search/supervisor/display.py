"""What a person sees while a study runs: one live display, or plain lines without a terminal.

cae  38/50 trials  21 complete  16 pruned  1 failed  2 running  2.4 s/epoch  12 min left
best 0.01241 (trial 17)  channels 9, latent 51, lr 0.00312, optimizer adam
worker 0  cpu  trial 38   epoch 7/20  0.01893  4.9 s/epoch
node-17   cpu  trial 39   epoch 2/20  0.02215  5.1 s/epoch

Below the workers of this machine stand those of others that have joined the study.
In a log the first line is said now and then, with what each worker has come to; ever more rarely
in a long study.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from optuna.trial import FrozenTrial, TrialState
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from models.evaluation.gan_diagnosis import WORDS
from search.console import is_live, print_line, shorten_path
from search.front import RunningFront
from search.goals import format_values
from search.messages import (
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
from search.pace import WorkerStatus, epoch_pace, seconds_left
from search.study import StudySpec
from search.supervisor.progress_lines import fit_items, pack
from search.supervisor.worker_pool import WorkerHandle
from search.tables import Column, FittedTable, Kind
from search.trials.outcomes import Outcome
from search.words import (
    format_count,
    format_duration,
    format_items,
    format_pace,
    name_seed,
    show_text,
)
from storage.database.running import RunningTrial, count_turns
from storage.database.trial_states import OUTCOMES, count_ended, outcome_of
from storage.database.vectors import VIOLATION
from storage.errors import short
from storage.files.exports import KEPT_EARLIER

PLAIN_EVERY = 30.0  # seconds between two status lines without a terminal, at first
PLAIN_SHARE = 1 / 20  # of the time since the start, in a long study; at most `PLAIN_MOST`
PLAIN_MOST = 600.0
MOST_SAID = 8  # workers in a status line
MOST_ELSEWHERE = 12  # workers of other machines in the live display; `make status` shows all
MOST_HERE = 16  # trials of this machine there, in all
ITSELF = -1  # stands for what a worker does that is no trial of the search
WIDEST_BAR = 60
STYLES: dict[str, str] = {
    Outcome.PRUNED: "dim",
    Outcome.DIVERGED: "yellow",
    Outcome.INFEASIBLE: "yellow",
    Outcome.FAILED: "red",
    Outcome.INTERRUPTED: "yellow",
}
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


class Display:
    """Hears every event of the workers and shows where the study stands.

    study: the stored study's name; total: trials in all
    marks_best: whether values decide; False where a person does
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
        self.study = study
        self.spec = spec
        self.total = total
        self.console = console
        self.marks_best = marks_best
        self.most = most
        self.states: Counter[str] = Counter()
        self._counted: set[int | None] = set()  # trials that ran when the states were counted
        self.paused: dict[int, str] = {}  # trial -> what it had come to when it paused
        self.best: tuple[float, int, Mapping[str, Any]] | None = None
        self.front = RunningFront(spec.goals)  # of several goals; none is the best then
        self.status: dict[tuple[int, int], WorkerStatus] = {}  # by worker, and trial or `ITSELF`
        self.elsewhere: dict[int, tuple[str, WorkerStatus]] = {}  # by trial: machine, its worker
        self._turns_elsewhere = 1.0  # trials that a worker there holds
        self.parameters: dict[int, Mapping[str, Any]] = {}
        self.costs: list[float] = []  # seconds of each trial that ended while we watched
        self.ends: Counter[str] = Counter()  # trials by outcome, as far as we know of them
        self.jobs = ""  # of an engine, in words
        self.deadline = float("inf")  # when the search ends, on the monotonic clock
        self.began = time.monotonic()
        self.is_searching = True
        self.is_live = is_live(console)
        self.said: set[str] = set()  # what is said once
        self._plain_at = self.began
        self._live = Live(
            get_renderable=self._draw, console=console, refresh_per_second=4, transient=True
        )

    def __enter__(self) -> Self:
        if self.is_live:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.is_live:
            self._live.stop()

    def show_starting(self, workers: Iterable[WorkerHandle]) -> None:
        """Show workers whose processes have just begun."""
        for worker in workers:
            self._show_only(worker, WorkerStatus(worker.device))

    def mark_leader(
        self,
        number: int,
        values: Sequence[float],
        parameters: Mapping[str, Any],
        *,
        violates: bool,
    ) -> str:
        """Take in the values of a trial, if it is complete; return ``*best`` or ``*front`` where
        no other one is better so far, and else nothing."""
        if not values or violates or not self.marks_best:
            return ""
        if self.spec.has_several_goals:
            return "*front" if self.front.add(number, values) else ""
        if not self.spec.better(values[0], self.best[0] if self.best else None):
            return ""
        self.best = (values[0], number, parameters)
        return "*best"

    def _describe_values(self, values: Sequence[float], *, violates: bool) -> str:
        """Return the values of a complete trial; nothing of one that has none."""
        if not values:
            return ""
        words = "  violates constraints" if violates else ""
        return f"  {format_values(self.spec.goals, values)}{words}"

    def set_ends(self, outcomes: Counter[str]) -> None:
        """Show how the trials of earlier runs have ended."""
        self.ends = Counter(outcomes)

    def forget_trials(self) -> None:
        """Show nothing of trials that are not in the database any more."""
        self.ends.clear()
        self.best = None
        self.front = RunningFront(self.spec.goals)

    def update_counts(self, states: Counter[str]) -> None:
        """Show how many trials are in which state."""
        self.states = states
        self._counted = {each.number for each in self.status.values() if each.trains}
        self._say_at_times(self.summary(), self._work())

    def handle_event(self, worker: WorkerHandle, event: Event) -> None:
        """Show what a worker says."""
        now = time.monotonic()
        match event:
            case Started():
                self.parameters[event.number] = event.parameters
                before = self.status.pop((worker.index, ITSELF), None)
                self.status[worker.index, event.number] = WorkerStatus(
                    worker.device, "trial", event.number, epochs=event.epochs, since=now,
                    pace=0.0 if before is None else before.pace, most=self.most,
                )  # fmt: skip
            case Resumed():
                status = self._status_of(worker, event.number)
                status.epoch = status.resumed = event.epoch
                what = (
                    f"trial {event.number:>3} "
                    if status.trains
                    else f"retraining {event.number}{name_seed(event.repeat)}"
                )
                self.say(f"{what} goes on at epoch {event.epoch + 1}")
            case Retraining():
                self._show_only(
                    worker,
                    WorkerStatus(
                        worker.device, "retraining", event.number, event.repeat,
                        epochs=event.epochs, since=now,
                    ),
                )  # fmt: skip
            case EpochEnded():
                self._show_epoch(self._status_of(worker, event.number), event, now)
            case Ended():
                self._show_end(self._status_of(worker, event.number), event, now)
                self._leave(worker, event.number)
            case Paused():
                self._show_pause(self._status_of(worker, event.number), event, now)
                self._leave(worker, event.number)
            case Released():
                self._leave(worker, event.number)
            case Retrained():
                self.say(
                    f"retrained trial {event.number}{name_seed(event.repeat)}: "
                    f"{format_count(event.epochs, 'epoch')} "
                    f"({event.ended_by}), best {self.spec.quality} {event.best:.6g} in epoch "
                    f"{event.best_epoch}"
                )
            case NotRetrained():
                what = f"trial {event.number}{name_seed(event.repeat)}"
                self.say(f"retraining of {what} failed: {short(event.reason)}")
            case Exporting():
                self._show_only(worker, WorkerStatus(worker.device, "exporting", event.number))
            case Measuring() | Drawing():
                verb = type(event).__name__.lower()
                what = f"{verb} {event.what}"
                self._show_only(worker, WorkerStatus(worker.device, what, event.number))
                self._say_at_times(f"{verb} trial {event.number}: {event.what}")
            case Exported():
                self._show_export(event)
            case Warned():
                self._say_once(event.what, f"worker {worker.index}: {event.message}")
            case Preparing():
                status = self._status_of(worker)
                if status.number is None:  # else a trial goes on after it
                    status.what = event.line
                if not self.is_live:  # minutes in which nothing else is to be seen
                    self._say_once(event.line, event.line)
            case Ready() | Idle():
                self._show_only(worker, WorkerStatus(worker.device, "idle"))

    def _status_of(self, worker: WorkerHandle, number: int = ITSELF) -> WorkerStatus:
        """Return what a worker does for a trial, or else by itself."""
        found = self.status.get((worker.index, number))
        if found is not None:
            return found
        return self.status.get((worker.index, ITSELF), WorkerStatus(worker.device))

    def _show_only(self, worker: WorkerHandle, status: WorkerStatus) -> None:
        """Show that a worker is at this, and at no trial of the search any more."""
        for index, number in list(self.status):
            if index == worker.index:
                del self.status[index, number]
        self.status[worker.index, ITSELF] = status

    def _leave(self, worker: WorkerHandle, number: int) -> None:
        """Show that a worker is at a trial of the search no more."""
        left = self.status.pop((worker.index, number), None)
        if all(index != worker.index for index, _ in self.status):
            pace = 0.0 if left is None else left.pace
            self._show_only(worker, WorkerStatus(worker.device, "idle", pace=pace))

    def show_leaving(self, worker: WorkerHandle) -> None:
        """Say that a worker is not replaced, since its device's memory is too small for all."""
        self._show_only(worker, WorkerStatus(worker.device))
        self.say(f"worker {worker.index} leaves {worker.device} to the others: memory is short")

    def show_death(self, worker: WorkerHandle, code: int, freed: list[int]) -> None:
        """Say that a worker's process ended unasked, and which trials go on elsewhere."""
        self._show_only(worker, WorkerStatus(worker.device))
        if code == SPENT:
            self._say_once("spent", f"worker {worker.index} starts anew: memory had run out")
            return
        if code == BROKEN:
            log = shorten_path(worker.log)
            self.say(
                f"worker {worker.index} starts anew: {worker.device} reported an error ({log})"
            )
            return
        if code in (CHANGED, CROWDED, OUTDATED):
            return  # the worker has said the first, and the supervisor says the second
        trials = "".join(f"; trial {number} goes on elsewhere" for number in freed)
        log = shorten_path(worker.log)
        self.say(f"worker {worker.index} ended {describe_end(code)}{trials} ({log})")

    def begin_finish(self) -> None:
        """Show no time left from now on: all trials have ended."""
        self.is_searching = False
        self.elsewhere.clear()

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

    def show_end_elsewhere(self, trial: FrozenTrial, about: Mapping[str, Any]) -> None:
        """Say how a trial of another machine has ended.

        about: its attributes, as far as they are what genstudy writes
        """
        outcome = outcome_of(trial.state.name, about.get("outcome"))
        seconds = about.get("seconds")
        if isinstance(seconds, int | float):
            self.costs.append(seconds * self._turns_elsewhere)
        self.ends[outcome] += 1
        values = trial.values if trial.state == TrialState.COMPLETE else None
        violates = VIOLATION in about
        mark = self.mark_leader(trial.number, values or [], trial.params, violates=violates)
        reached = self._describe_values(values or [], violates=violates)
        took = f"  {format_duration(seconds)}" if isinstance(seconds, int | float) else ""
        where = f"  on {name_machine(about.get('host'))}"
        start = f"trial {trial.number:>3}  {outcome:<10}{reached}{took}{where}"
        style = "green" if mark else STYLES.get(outcome)
        lines = self._fit(start, format_items(trial.params), mark)
        self.say(*lines, style=style)

    def say(self, *lines: str, style: str | None = None) -> None:
        """Print lines above the live display."""
        for line in lines:
            print_line(self.console, line, style)

    def summary(self) -> str:
        """Return one line: how far the study is, how fast, how long it still takes."""
        return "  ".join(self._summary_parts())

    def seconds_left(self) -> float | None:
        """Estimate the time left of the search."""
        if not self.is_searching:
            return None
        statuses, now = self._all_statuses(), time.monotonic()
        ours = sum(status.trains for status in statuses)
        others = max(0, self.states["RUNNING"] - ours)
        begun = count_ended(self.states) + self.states["PAUSED"] + ours + others
        unstarted = max(0, self.total - begun)
        left = seconds_left(statuses, costs=self.costs, unstarted=unstarted, others=others, now=now)
        return None if left is None else max(0.0, min(left, self.deadline - now))

    def _all_statuses(self) -> list[WorkerStatus]:
        """Return what our workers and those of other machines are at."""
        return [*self.status.values(), *(status for _, status in self.elsewhere.values())]

    def _summary_parts(self) -> list[str]:
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
        if left is not None:
            parts.append(f"{format_duration(left)} left")
        return [*parts, *([self.jobs] if self.jobs else [])]

    def _count_resumed_since(self) -> int:
        """Count the paused trials with which our workers go on since the database was asked."""
        ours = [status for status in self.status.values() if status.trains]
        return min(
            max(0, len(ours) - self.states["RUNNING"]),
            sum(bool(each.resumed) and each.number not in self._counted for each in ours),
        )

    def _work(self) -> str:
        """Return one line: what the trials that run have come to."""
        running = [status for _, status in sorted(self.status.items()) if status.trains]
        running += [status for _, (_, status) in sorted(self.elsewhere.items())]
        said = []
        for status in running[:MOST_SAID]:
            value = "" if status.value is None else f", {self.spec.quality} {status.value:.6g}"
            said.append(f"trial {status.number}: epoch {status.epoch}/{status.epochs}{value}")
        if len(running) > MOST_SAID:
            said.append(f"and {len(running) - MOST_SAID} more")
        return "; ".join(said)

    def _show_epoch(self, status: WorkerStatus, event: EpochEnded, now: float) -> None:
        status.note_epoch(event.epoch, value=event.value, seconds=event.seconds, now=now)
        if event.retraining:
            left = format_duration((status.epochs - status.epoch) * status.pace)
            self._say_at_times(
                f"retraining trial {status.number}{name_seed(event.repeat)}: epoch "
                f"{status.epoch}/{status.epochs}, {self.spec.quality} {event.value:.6g}, at most "
                f"{left} left"
            )

    def _show_end(self, status: WorkerStatus, event: Ended, now: float) -> None:
        number, value = event.number, event.value
        has_started = status.number == number  # else its parameters were turned down, or not made
        if has_started and not status.resumed:  # else only a part of it was seen
            self.costs.append(now - status.since)
        self.ends[event.outcome] += 1
        parameters = self.parameters.get(number, {})
        values = [] if value is None else event.values or [value]
        mark = self.mark_leader(number, values, parameters, violates=event.violates)
        start = f"trial {number:>3}  {event.outcome:<10}{self._describe_end(status, event)}"
        start += f"  {format_duration(now - status.since)}" if has_started else ""
        items = format_items(parameters)
        style = "green" if mark else STYLES.get(Outcome(event.outcome))
        self.say(*self._fit(start, items, mark), style=style)

    def _show_pause(self, status: WorkerStatus, event: Paused, now: float) -> None:
        """Show that a trial waits at a rung; of what it costs until it ends, this is a part."""
        if status.number == event.number and not status.resumed:
            self.costs.append(now - status.since)
        done = format_count(event.epoch, "epoch")
        self.paused[event.number] = f"  {self.spec.quality} {event.value:.6g} after {done}"
        self.say(f"trial {event.number:>3}  {'paused':<10}{self.paused[event.number]}", style="dim")

    def _describe_end(self, status: WorkerStatus, event: Ended) -> str:
        """Return the value of a trial, or how far it came and why not further."""
        metric, value = self.spec.quality, event.value
        verdict = f"  {WORDS.get(event.verdict, event.verdict)}" if event.verdict else ""
        if value is not None:
            values = event.values or [value]
            return self._describe_values(values, violates=event.violates) + verdict
        reached = self.paused.pop(event.number, "")
        if status.number == event.number and status.value is not None:
            done = format_count(status.epoch, "epoch")
            reached = f"  {metric} {status.value:.6g} after {done}"
        if event.outcome == Outcome.DIVERGED:
            return f"{reached or '  in epoch 1'}"
        if event.outcome in (Outcome.FAILED, Outcome.INFEASIBLE):
            lines = event.reason.splitlines()
            place = f"{shorten_path(event.place)}: " if event.place else ""
            return f"{reached}  {place}{short(lines[0])}" if lines else reached
        return reached + verdict

    def _show_export(self, event: Exported) -> None:
        tested = f", test {event.test:.6g}" if event.test is not None else ""
        self.say(
            f"exported rank {event.rank}: trial {event.number}, validation "
            f"{event.metric} {event.valid:.6g}{tested} -> {shorten_path(event.folder)}"
        )
        if event.earlier is not None:
            self.say(f"what was in that folder is kept as {shorten_path(event.earlier)}")
        for folder in event.removed:
            self.say(
                f"removed {shorten_path(folder)}: the latest {KEPT_EARLIER} of a rank are kept, "
                "and what somebody has changed"
            )

    def _say_once(self, what: str, line: str) -> None:
        if what not in self.said:
            self.said.add(what)
            self.say(line)

    def _say_at_times(self, *lines: str) -> None:
        """Print lines now and then where no terminal shows how far the study is."""
        now = time.monotonic()
        rarely = min((now - self.began) * PLAIN_SHARE, PLAIN_MOST)
        if not self.is_live and now - self._plain_at >= max(PLAIN_EVERY, rarely):
            self._plain_at = now
            self.say(*filter(None, lines))

    def _fit(self, start: str, items: list[str], tail: str = "") -> list[str]:
        """Return lines that fit a terminal; a log has one line, with everything."""
        if self.is_live:
            return fit_items(show_text(start), items, width=self.console.width, tail=tail)
        parts = [start, ", ".join(items), tail]
        return ["  ".join(part for part in parts if part)]

    def _draw(self) -> Group:
        """Return the live display."""
        width = self.console.width
        bar = Table.grid()
        ended = count_ended(self.states)
        bar.add_row(
            ProgressBar(total=max(self.total, 1), completed=ended, width=min(WIDEST_BAR, width - 1))
        )
        lines: list[Any] = [bar]
        for line in pack(self._summary_parts(), width=width, indent="  "):
            lines.append(Text(line, style="bold", no_wrap=True))
        if self.best is not None:
            value, number, parameters = self.best
            start = f"best {value:.6g} (trial {number})"
            for line in fit_items(start, format_items(parameters), width=width):
                lines.append(Text(line, style="green", no_wrap=True))
        if self.spec.has_several_goals and self.front.values:
            for line in pack([self.front.describe()], width=width, indent="  "):
                lines.append(Text(line, style="green", no_wrap=True))
        hidden = {
            "here": len(self.status) - MOST_HERE,
            "elsewhere": len(self.elsewhere) - MOST_ELSEWHERE,
        }
        rest = [
            Text(f"and {format_count(more, 'trial')} more {where}")
            for where, more in hidden.items()
            if more > 0
        ]
        return Group(*lines, _draw_workers(self.status, self.elsewhere), *rest)


def name_machine(host: object) -> str:
    """Return the name of a machine in a column: without the names of its network."""
    return show_text(host).partition(".")[0] if isinstance(host, str) and host else "elsewhere"


def _draw_workers(
    statuses: Mapping[tuple[int, int], WorkerStatus],
    elsewhere: Mapping[int, tuple[str, WorkerStatus]],
) -> FittedTable:
    """Return a row a worker: its device, what it does, epoch, value, pace."""
    rows = [
        (f"worker {index}", *_status_cells(status))
        for (index, _), status in sorted(statuses.items())[:MOST_HERE]
    ]
    for _, (machine, status) in sorted(elsewhere.items())[:MOST_ELSEWHERE]:
        rows.append((machine, *_status_cells(status)))
    kinds = (Kind.NAME, Kind.NAME, Kind.WORDS, Kind.NUMBER, Kind.NUMBER, Kind.NUMBER)
    cells = zip(*rows, strict=True) if rows else [()] * len(kinds)
    columns = [Column("", texts, kind) for texts, kind in zip(cells, kinds, strict=True)]
    return FittedTable([c for c in columns if c.natural], has_heads=False)


def _status_cells(status: WorkerStatus) -> tuple[str, str, str, str, str]:
    """Return what a worker does, epoch, value, pace."""
    if status.number is None:
        return status.device, show_text(status.what), "", "", ""
    if status.what in ("trial", "retraining", "exporting"):
        what = f"{status.what} {status.number}{name_seed(status.repeat)}"
    else:
        what = f"trial {status.number}: {show_text(status.what)}"
    return (
        status.device,
        what,
        f"epoch {status.epoch}/{status.epochs}" if status.epochs else "",
        "" if status.value is None else f"{status.value:.6g}",
        format_pace(status.pace) if status.turned else "",
    )


def describe_end(code: int) -> str:
    """Return how a process ended, by its exit code: ``by signal 9`` or ``with code 1``."""
    return f"by signal {-code}" if code < 0 else f"with code {code}"
