"""The tables of a study's report: what the study concludes, and all trials with their pictures.

conclusion_blocks(study)              # of a study with a `summary`
trials_blocks(reported, gallery)      # gallery: `gallery_of(reported)`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from optuna import Study
from optuna.trial import FrozenTrial

from search.reporting.document import Block, Cell, Group, Heading, Picture, Table, Words
from search.reporting.reported_study import ReportedStudy, outcome_of, value_of
from search.spelling import spell
from search.trials.study_cost import seconds_of
from search.trials.verdict_words import verdict_in_words
from search.words import format_count, format_duration
from storage.files.markdown import describe_basis, format_cell
from storage.files.study_summary import stored_summary

MOST_ROWS = 200  # of the Markdown's table of trials
MOST_PICTURES = 60  # trials whose picture the page holds, best first
MOST_BYTES = 4_000_000  # of these pictures together
LONGEST_REASON = 200
ATTRIBUTES = ("outcome", "verdict", "modes", "epochs")  # columns, where trials have them


def conclusion_blocks(study: Study) -> list[Block]:
    """Return the table that the study concludes with; nothing where it has none."""
    found = stored_summary(study)
    if found is None:
        return []
    kept, ended = found
    rows = [[_cell(cell) for cell in row] for row in kept["rows"]]
    note = (
        f"The table covers the {format_count(ended, 'trial')} that had ended then. "
        f"{describe_basis(kept)} {kept['note']}"
    )
    return [Heading(kept["title"]), Table(columns=kept["columns"], rows=rows), Words(note, "soft")]


def gallery_of(reported: ReportedStudy) -> dict[int, Picture]:
    """Return the first picture of the best trials, by number, as many as a page should hold."""
    found: dict[int, Picture] = {}
    size = 0
    for trial in reported.trials[: 2 * MOST_PICTURES]:
        for name, path in list(reported.pictures(trial).items())[:1]:
            content = path.read_bytes()
            size += len(content)
            if size > MOST_BYTES or len(found) == MOST_PICTURES:
                return found
            found[trial.number] = Picture(
                file=f"trial_{trial.number}_{name}",
                content=content,
                caption=describe(trial, reported.metric),
                anchor=f"picture-{trial.number}",
                link=f"#trial-{trial.number}",
            )
    return found


def describe(trial: FrozenTrial, metric: str) -> str:
    """Return ``trial 3, complete, mse 0.02``."""
    verdict = verdict_in_words(str(trial.user_attrs.get("verdict", "")))
    value = value_of(trial)
    words = [f"trial {trial.number}", outcome_of(trial)]
    words += [f"{metric} {value:.6g}"] if value is not None else []
    return ", ".join(filter(None, [*words, verdict]))


def trials_blocks(reported: ReportedStudy, gallery: Mapping[int, Picture]) -> list[Block]:
    """Return all trials, best first, and the pictures of the best."""
    trials = reported.trials
    attributes = [name for name in ATTRIBUTES if any(name in t.user_attrs for t in trials)]
    parameters = list(dict.fromkeys(name for trial in trials for name in trial.params))
    reasons = any("reason" in trial.user_attrs for trial in trials)
    others = [goal.name for goal in reported.goals[1:]]
    columns = ["trial", reported.metric, *others, *attributes, "time", *parameters]
    rows: list[Sequence[str | Cell]] = []
    for trial in trials:
        said = [_cell(trial.user_attrs.get(name)) for name in attributes]
        tried = [_cell(trial.params.get(name)) for name in parameters]
        end: list[str | Cell] = [_time(trial), *tried, *([_reason(trial)] if reasons else [])]
        known = (trial.values or [])[1:] if others else []
        values = [*known, *[None] * (len(others) - len(known))]
        rows.append(
            [_number(trial, gallery), _cell(value_of(trial)), *map(_cell, values), *said, *end]
        )
    first = "The front" if others else "Best"
    blocks: list[Block] = [
        Heading("All trials"),
        Words(
            f"{first} first. Behind each value: 1 seed, the trial's own. A click on a column's "
            "name sorts; a number that is underlined leads to the trial's picture.",
            "soft",
        ),
        Table(
            columns=[*columns, *(["reason"] if reasons else [])],
            rows=rows,
            anchors=[f"trial-{trial.number}" for trial in trials],
            most=MOST_ROWS,
        ),
    ]
    if len(trials) > MOST_ROWS:
        blocks.append(
            Words(
                f"README.md has the first {MOST_ROWS} of {len(trials)}, index.html all; as a "
                f"file: {spell('trials', NAME=reported.name, CSV='FILE')}",
                "soft",
            )
        )
    if gallery:
        blocks += [Heading("Pictures of the best trials"), Group(list(gallery.values()))]
    return blocks


def _number(trial: FrozenTrial, gallery: Mapping[int, Picture]) -> Cell:
    picture = gallery.get(trial.number)
    return Cell(
        text=str(trial.number),
        value=trial.number,
        link=None if picture is None else f"#{picture.anchor}",
        file=None if picture is None else picture.file,
    )


def _time(trial: FrozenTrial) -> Cell:
    seconds = seconds_of(trial)
    return Cell(text="-" if seconds is None else format_duration(seconds), value=seconds)


def _reason(trial: FrozenTrial) -> Cell:
    """Return why a trial ended early, on one line."""
    words = " ".join(str(trial.user_attrs.get("reason", "")).split())
    cut = words if len(words) <= LONGEST_REASON else words[: LONGEST_REASON - 1] + "…"
    return Cell(text=cut, wide=True)


def _cell(value: Any) -> str:
    return verdict_in_words(value) if isinstance(value, str) else format_cell(value)
