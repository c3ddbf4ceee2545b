"""The tables of a study's report: what the study concludes, and all trials.

conclusion_blocks(study)                      # of a study with a `summary`
trials_blocks("gan", trials, "frechet")
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from optuna import Study
from optuna.trial import FrozenTrial

from models.evaluation.gan_diagnosis import WORDS
from search.reporting.document import heading, paragraph, table
from search.spelling import spell
from storage.files.markdown import format_cell
from storage.files.study_summary import stored_summary

MOST_ROWS = 200  # of the table of trials
ATTRIBUTES = ("outcome", "verdict", "modes", "epochs")  # columns, where trials have them


def conclusion_blocks(study: Study) -> list[str]:
    """Return the table that the study concludes with; nothing where it has none."""
    found = stored_summary(study)
    if found is None:
        return []
    kept, ended = found
    rows = [[_cell(cell) for cell in row] for row in kept["rows"]]
    note = f"The table covers the {ended} trials that had ended then. {kept['note']}"
    return [heading(kept["title"]), table(kept["columns"], rows), paragraph(note)]


def trials_blocks(study: str, trials: Sequence[FrozenTrial], metric: str) -> list[str]:
    """Return the trials in their order, each with value, outcome, verdict and parameters."""
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
    blocks = [heading("Trials"), table(["trial", metric, *attributes, *parameters], rows)]
    if len(trials) > len(shown):
        words = f"The first {len(shown)} of {len(trials)}."
        all_of_them = spell("trials", NAME=study, CSV="FILE")
        blocks.append(paragraph(f"{words} All: {all_of_them}"))
    return blocks


def _cell(value: Any) -> str:
    return verdict_in_words(value) if isinstance(value, str) else format_cell(value)


def verdict_in_words(value: str) -> str:
    """Return a verdict in words; text that is no verdict stays as it is."""
    return {str(kind): words for kind, words in WORDS.items()}.get(value, value)
