"""`make status NAME=cae`: who runs what since when, on which machine, and what is left.

All of it is read from the trial database, from anywhere: no torch is loaded, no worker is asked.
CSV=path and PARQUET=path write the table for a program.
"""

from __future__ import annotations

from typing import Any

from rich.console import Console

from search.cli.frame_files import check_targets, write_frame
from search.console import open_console, print_line
from search.spelling import spell
from search.tables import Column, FittedTable, Kind
from search.trials.stored_names import find_stored_name
from search.trials.study_status import StudyStatus, is_silent, read_status
from search.trials.tally import ALWAYS
from search.variables import Variables, read_variables
from search.words import format_count, format_duration, format_pace, show_text
from storage.database.finishes import Finish
from storage.database.running import RunningTrial
from storage.database.trial_states import OUTCOMES
from storage.frames import connected, database_url

SHOWN = 200  # running trials on a terminal; CSV has all


def status() -> int:
    """Show how far the study NAME is."""
    variables = read_variables()
    console = open_console()
    wanted = variables.need_name("status")
    check_targets(variables, first="study")
    name = find_stored_name(variables.storage_url, wanted, variables.data)
    with connected(_address(variables)) as connection:
        found = read_status(connection, name)
    if variables.csv or variables.parquet:
        import pandas as pd

        rows = [_row(found, trial) for trial in found.running]
        write_frame(console, pd.DataFrame(rows, columns=list(_row(found, NOBODY))), variables)
        return 0
    show_status(console, found)
    return 0


def _address(variables: Variables) -> str:
    return database_url(variables.storage_url)


def show_status(console: Console, found: StudyStatus) -> None:
    """Print how far a study is."""
    for line in describe(found):
        print_line(console, line)
    if found.running:
        console.print(_table(found))
    if len(found.running) > SHOWN:
        print_line(console, f"and {len(found.running) - SHOWN:,} more; CSV=FILE writes all")
    if lost := [str(trial.number) for trial in found.running if is_silent(trial)]:
        line = f"the worker of trial {lost[0]} is silent: others will take over its trial"
        if len(lost) > 1:
            line = (
                f"the workers of trials {', '.join(lost)} are silent: others will take these over"
            )
        print_line(console, line, "yellow")
    if advice := _next_line(found):
        print_line(console, advice)


def describe(found: StudyStatus) -> list[str]:
    """Return how many trials have ended in which way, what is left, and who ends the study."""
    counts = [
        f"{found.counts[word]:,} {word}"
        for word in OUTCOMES
        if word not in ("running", "waiting") and (found.counts[word] or word in ALWAYS)
    ]
    of = "" if found.total is None else f" of {format_count(found.total, 'trial')}"
    verb = "has" if found.ended == 1 else "have"
    lines = [f"study {found.name}: {found.ended:,}{of} {verb} ended, {', '.join(counts)}"]
    waiting, paused = found.counts["waiting"], found.counts["paused"]
    if not found.running and found.ended >= (found.total or 0) and not waiting + paused:
        return lines + _describe_end(found)
    parts = [f"{format_count(len(found.running), 'trial')} running"]
    if waiting:
        parts.append(f"{waiting:,} waiting for a worker")
    if paused:
        parts.append(f"{paused:,} paused until they are among the best")
    if found.total is not None:
        begun = found.ended + len(found.running) + waiting + paused
        parts.append(f"{max(0, found.total - begun):,} not begun")
    pace, left = found.pace(), found.seconds_left()
    if pace is not None:
        parts.append(f"{format_pace(pace)} together")
    if left is not None and left >= 0.5:  # after its last epoch a trial may still be measured
        parts.append(f"about {format_duration(left)} left")
    elif not found.alive and (alone := found.machine_seconds_left()) is not None:
        parts.append(f"about {format_duration(alone)} left for one worker")
    lines.append(", ".join(parts))
    return lines + _describe_end(found)


def _describe_end(found: StudyStatus) -> list[str]:
    """Return what machines do after the search, or what came of it."""
    if found.jobs:
        return [f"the best are retrained and exported; machines are at: {'; '.join(found.jobs)}"]
    return _describe_finish(found.finish, found.metric)


def _describe_finish(finish: Finish | None, metric: str) -> list[str]:
    """Return who retrains the best, or where the exports are and what the best one scored."""
    if finish is None:
        return []
    place = show_text(finish.place)
    if finish.owner is not None:
        return [f"{place} retrains and exports the best"]
    if finish.result is None:
        return []
    goals = finish.result.get("goals")
    if isinstance(goals, str):
        trial = finish.result.get("trial")
        return [f"the front is exported in {place}, the first is trial {trial}: {show_text(goals)}"]
    parts = [f"rank 1 is exported in {place}"]
    for name in ("trial", "validation", "test"):
        value = finish.result.get(name)
        if isinstance(value, int | float):
            of = "" if name == "trial" else f" {metric}"
            parts.append(f"{name}{of} {value:.6g}")
    return [", ".join(parts)]


def _next_line(found: StudyStatus) -> str | None:
    """Return a command for a study at which nobody works; None if somebody does."""
    if found.alive or (found.total is not None and found.ended >= found.total):
        return None
    begun = found.running or found.counts["waiting"] or found.counts["paused"]
    what = "goes on with what was begun" if begun else "takes the next trial"
    return f"nobody works at it: {spell('worker', NAME=found.name)} {what}"


def _table(found: StudyStatus) -> FittedTable:
    """Return a row for each trial that runs."""
    shown = found.running[:SHOWN]
    rows = [_cells(found, trial) for trial in shown]
    heads = {
        "trial": Kind.NUMBER,
        "machine": Kind.NAME,
        "device": Kind.WORDS,
        "for": Kind.NUMBER,
        "epoch": Kind.NUMBER,
        found.metric: Kind.NUMBER,
        "pace": Kind.NUMBER,
        "silent": Kind.NUMBER,
    }
    columns = zip(*rows, strict=True)
    return FittedTable(
        [
            Column(head, cells, kind)
            for (head, kind), cells in zip(heads.items(), columns, strict=True)
        ],
        keys=1,
    )


def _cells(found: StudyStatus, trial: RunningTrial) -> tuple[str, ...]:
    epochs = "" if found.epochs is None else f"/{found.epochs}"
    return (
        str(trial.number),
        (trial.host or "-").partition(".")[0],  # CSV has all of a long name
        trial.device or "-",
        format_duration(trial.seconds),
        f"{trial.epoch}{epochs}",
        "-" if trial.value is None else f"{trial.value:.6g}",
        "-" if trial.pace is None else format_pace(trial.pace),
        "-" if trial.silent is None else format_duration(trial.silent),
    )


NOBODY = RunningTrial(
    number=0,
    owner=None,
    host=None,
    device=None,
    pid=None,
    seconds=0.0,
    silent=None,
    epoch=0,
    value=None,
    pace=None,
)


def _row(found: StudyStatus, trial: RunningTrial) -> dict[str, Any]:
    """Return a running trial as a row of plain values; times are in seconds."""
    return {
        "study": found.name,
        "number": trial.number,
        "host": trial.host,
        "device": trial.device,
        "pid": trial.pid,
        "seconds": round(trial.seconds, 1),
        "epoch": trial.epoch,
        "epochs": found.epochs,
        "value": trial.value,
        "epoch_seconds": trial.pace,
        "silent_seconds": None if trial.silent is None else round(trial.silent, 1),
    }
