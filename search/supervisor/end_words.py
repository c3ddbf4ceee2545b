"""What a display says of a trial that ended, paused, was retrained or was exported.

describe_end(spec, event, status, paused="")         # "  mse 0.0124  healthy"
describe_export(event)                               # lines
"""

from __future__ import annotations

from collections.abc import Sequence

from models.evaluation.gan_diagnosis import WORDS
from search.console import shorten_path
from search.events import Ended, Exported, NotRetrained, Retrained
from search.goals import format_values
from search.pace import WorkerStatus
from search.study import StudySpec
from search.trials.outcomes import Outcome
from search.words import format_count, name_seed
from storage.errors import short
from storage.files.exports import KEPT_EARLIER

STYLES: dict[str, str] = {
    Outcome.PRUNED: "dim",
    Outcome.DIVERGED: "yellow",
    Outcome.INFEASIBLE: "yellow",
    Outcome.FAILED: "red",
    Outcome.INTERRUPTED: "yellow",
}


def describe_values(spec: StudySpec, values: Sequence[float], *, violates: bool) -> str:
    """Return the values of a complete trial; empty if there are none."""
    if not values:
        return ""
    words = "  violates constraints" if violates else ""
    return f"  {format_values(spec.goals, values)}{words}"


def describe_end(spec: StudySpec, event: Ended, status: WorkerStatus, *, paused: str) -> str:
    """Return the value of a trial, or the last value that it reached and why it ended.

    paused: the value at which it last paused, in words; empty if it never paused
    """
    verdict = f"  {WORDS.get(event.verdict, event.verdict)}" if event.verdict else ""
    if event.value is not None:
        values = event.values or [event.value]
        return describe_values(spec, values, violates=event.violates) + verdict
    reached = paused
    if status.number == event.number and status.value is not None:
        reached = describe_progress(spec, status.value, status.epoch)
    if event.outcome == Outcome.DIVERGED:
        return f"{reached or '  in epoch 1'}"
    if event.outcome in (Outcome.FAILED, Outcome.INFEASIBLE):
        lines = event.reason.splitlines()
        place = f"{shorten_path(event.place)}: " if event.place else ""
        return f"{reached}  {place}{short(lines[0])}" if lines else reached
    return reached + verdict


def describe_progress(spec: StudySpec, value: float, epochs: int) -> str:
    """Return the value that a trial has reached after so many epochs."""
    return f"  {spec.quality} {value:.6g} after {format_count(epochs, 'epoch')}"


def describe_retraining(spec: StudySpec, event: Retrained | NotRetrained) -> str:
    """Return the best epoch of a retraining, or why it gave no model."""
    trial = f"trial {event.number}{name_seed(event.repeat)}"
    if isinstance(event, NotRetrained):
        return f"retraining of {trial} failed: {short(event.reason)}"
    return (
        f"retrained {trial}: {format_count(event.epochs, 'epoch')} ({event.ended_by}), best "
        f"{spec.quality} {event.best:.6g} in epoch {event.best_epoch}"
    )


def describe_export(event: Exported) -> list[str]:
    """Return where an export lies, and what happened to earlier exports in that folder."""
    tested = f", test {event.test:.6g}" if event.test is not None else ""
    lines = [
        f"exported rank {event.rank}: trial {event.number}, validation "
        f"{event.metric} {event.valid:.6g}{tested} -> {shorten_path(event.folder)}"
    ]
    if event.earlier is not None:
        lines.append(f"what was in that folder is kept as {shorten_path(event.earlier)}")
    for folder in event.removed:
        lines.append(
            f"removed {shorten_path(folder)}: the latest {KEPT_EARLIER} of a rank are kept, "
            "and what somebody has changed"
        )
    return lines


def describe_exit(code: int) -> str:
    """Return how a process ended, by its exit code: ``by signal 9`` or ``with code 1``."""
    return f"by signal {-code}" if code < 0 else f"with code {code}"
