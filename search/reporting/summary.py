"""What a study concludes from all of its trials, in one table of its own.

    def summary(trials, curves):      # the frames of `storage.trials` and `storage.curves`
        return Table(
            name="rows", title="...", columns=("row", "runs", "MSE"), rows=(...), note="...",
            seeds="runs", measured_on="12,000 validation images",
        )

    STUDY = StudySpec(..., summary=summary)

The function is called when the search has ended, before the best trials are retrained. It returns a
`search.study.Table`; `search.repeats` computes means over repeats for it. A mistake in it costs
one line of output and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from optuna.trial import TrialState

from models.results import Table
from search.errors import StudyFileError, explain_error
from search.setup.mistakes import mistakes_of
from search.tables import Column, FittedTable, Kind, format_column
from storage.database.retry import GaveUp
from storage.database.trial_states import ENDED
from storage.errors import short
from storage.files.markdown import describe_basis

if TYPE_CHECKING:
    import pandas as pd

    from search.run import StudyRun
    from search.study import Study
    from search.trials.queue import TrialQueue


def conclude(
    study: Study, run: StudyRun, queue: TrialQueue, say: Callable[[str], None]
) -> Table | None:
    """Make the study's summary and keep it. Return None if it has none or no trial is complete.

    say: hears of a mistake, in one line; the run goes on
    """
    if study.spec.summary is None:
        return None
    if not queue.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        return None
    from storage.files.study_summary import keep_summary, write_files
    from storage.frames import curves, trials

    wait_for, table = queue.retry.wait_for, None
    try:
        ended = queue.count_ended()
        frames = wait_for(
            lambda: (
                trials(run.study, storage=run.storage),
                curves(run.study, storage=run.storage),
            )
        )
        table = summarise(study, *frames)
        plain = table.to_plain()
        wait_for(lambda: keep_summary(queue.study, plain, ended))
        write_files(run.paths.exports(run.study), plain)
    except GaveUp:
        raise
    except Exception as error:
        message = explain_error(error)
        if message is None:
            raise
        say(f"no summary of {run.study}: {message}; its trials are kept")
    return table


def summarise(study: Study, trials: pd.DataFrame, curves: pd.DataFrame) -> Table:
    """Return what the study's ``summary`` makes of the trials that have ended.

    Raises `StudyFileError` with the line of a mistake in it.
    """
    assert study.spec.summary is not None
    ended = trials[trials["state"].isin(ENDED)].reset_index(drop=True)
    epochs = curves[curves["number"].isin(ended["number"])].reset_index(drop=True)
    with mistakes_of(study.path):
        table = study.spec.summary(ended, epochs)
        if not isinstance(table, Table):
            raise StudyFileError(
                f"summary returned {short(repr(table))}; return a Table of search.study"
            )
        rows = tuple(tuple(_to_plain(cell) for cell in row) for row in table.rows)
        return replace(table, rows=rows)


def _to_plain(cell: Any) -> str | int | float:
    """Return a cell as JSON takes it: frames hold numpy's numbers."""
    cell = cell.item() if hasattr(cell, "item") else cell
    if not isinstance(cell, str | int | float):
        raise StudyFileError(f"summary has a cell {short(repr(cell))}; cells are texts and numbers")
    return cell


def summary_table(table: dict[str, Any]) -> FittedTable:
    """Return a plain table as a terminal shows it; the first column names the rows."""
    cells = zip(*table["rows"], strict=True) if table["rows"] else [()] * len(table["columns"])
    columns = [
        format_column(name, column) for name, column in zip(table["columns"], cells, strict=True)
    ]
    first, others = columns[:1], [_align(column) for column in columns[1:]]
    note = " ".join(filter(None, [describe_basis(table), table["note"]]))
    return FittedTable([*first, *others], title=table["title"], note=note)


def _align(column: Column) -> Column:
    """Return a column of texts such as ``9.67 ± 0.58`` as one of numbers."""
    is_measured = all(re.fullmatch(r"-|[-+]?[\d.]\S*( ± \S+)?", cell) for cell in column.cells)
    return replace(column, kind=Kind.NUMBER) if is_measured else column
