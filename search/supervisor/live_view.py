"""The picture that a live display draws: a bar, how far the study is, its best, its workers.

draw_display(progress, leader, console.width)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from search.pace import WorkerStatus
from search.supervisor.leader import RunningLeader
from search.supervisor.progress import StudyProgress
from search.supervisor.progress_lines import pack
from search.tables import Column, FittedTable, Kind
from search.words import format_count, format_pace, name_seed, show_text
from storage.database.trial_states import count_ended

MOST_ELSEWHERE = 12  # workers of other machines; `make status` shows all
MOST_HERE = 16  # trials of this machine, in all
WIDEST_BAR = 60


def draw_display(progress: StudyProgress, leader: RunningLeader, width: int) -> Group:
    """Return what is shown in so many columns."""
    bar = Table.grid()
    ended = count_ended(progress.states)
    most = max(progress.total, 1)
    bar.add_row(ProgressBar(total=most, completed=ended, width=min(WIDEST_BAR, width - 1)))
    lines: list[Any] = [bar]
    for line in pack(progress.summary_parts(), width=width, indent="  "):
        lines.append(Text(line, style="bold", no_wrap=True))
    for line in leader.describe(width):
        lines.append(Text(line, style="green", no_wrap=True))
    hidden = {
        "here": len(progress.status) - MOST_HERE,
        "elsewhere": len(progress.elsewhere) - MOST_ELSEWHERE,
    }
    rest = [
        Text(f"and {format_count(more, 'trial')} more {where}")
        for where, more in hidden.items()
        if more > 0
    ]
    return Group(*lines, _draw_workers(progress.status, progress.elsewhere), *rest)


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
