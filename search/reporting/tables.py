"""The tables of a study's report: what the study concludes, and all trials.

concluded(study)                          # of a study that says so, as `search.reporting.summary`
keeps it trials_table("gan", trials, "frechet")
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from optuna import Study
from optuna.trial import FrozenTrial

from models.evaluation.gan_diagnosis import WORDS
from search.reporting.document import Heading, Part, Rows, Words
from storage.files.study_summary import kept_with

MOST_ROWS = 200  # of the table of trials
ATTRIBUTES = ("outcome", "verdict", "modes", "epochs")  # columns, where trials have them


def concluded(study: Study) -> list[Part]:
    """The study's own table; nothing where it has none."""
    found = kept_with(study)
    if found is None:
        return []
    table, ended = found
    rows = [[_cell(cell) for cell in row] for row in table["rows"]]
    told = f"Of the {ended} trials that had ended then. {table['note']}"
    return [Heading(table["title"]), _rows(table["columns"], rows), Words(told.strip())]


def trials_table(study: str, trials: Sequence[FrozenTrial], metric: str) -> list[Part]:
    """Value, outcome, verdict and parameters of each, in their order."""
    shown = trials[:MOST_ROWS]
    attributes = [name for name in ATTRIBUTES if any(name in t.user_attrs for t in shown)]
    parameters = list(dict.fromkeys(name for trial in shown for name in trial.params))
    rows = [
        [
            str(trial.number),
            _cell(trial.value),
            *(_cell(trial.user_attrs.get(name)) for name in attributes),
            *(_cell(trial.params.get(name)) for name in parameters),
        ]
        for trial in shown
    ]
    parts: list[Part] = [
        Heading("Trials"),
        _rows(["trial", metric, *attributes, *parameters], rows),
    ]
    if len(trials) > len(shown):
        words = f"The first {len(shown)} of {len(trials)}."
        parts.append(Words(f"{words} All: make trials NAME={study} CSV=FILE"))
    return parts


def _rows(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Rows:
    numbers = [all(_is_number(row[place]) for row in rows) for place in range(len(columns))]
    return Rows(columns, rows, numbers)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.5g}"
    return in_words(value) if isinstance(value, str) else str(value)


def in_words(value: str) -> str:
    """Of a verdict as people read it; others as they are."""
    return {str(kind): words for kind, words in WORDS.items()}.get(value, value)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return cell == "-"
    return True
