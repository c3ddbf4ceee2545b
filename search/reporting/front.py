"""The front of a study with several goals: its picture, and its trials as a table.

front_blocks(reported)             # for the report
front_picture(reported)            # the same picture as SVG in a file of its own, for the dashboard
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from optuna.trial import FrozenTrial

from search.front import REFERENCE
from search.goals import join_names
from search.reporting.document import Block, Cell, Figure, Heading, Table, Words
from search.reporting.front_figure import FrontPoint, draw_fronts
from search.reporting.reported_study import ReportedStudy
from search.trials.study_front import is_feasible, shares_of_volume, values_of
from search.words import format_parameters
from storage.errors import FilesAway
from storage.files.markdown import format_cell

FILE = "front.svg"  # with the study in the dashboard
MOST_PICTURES = 12  # trials of the front whose pictures are looked for


def front_blocks(reported: ReportedStudy) -> list[Block]:
    """Return the front; nothing for a study with one goal, or before a trial is complete."""
    if not reported.front:
        return []
    columns = [
        "trial",
        *(goal.name for goal in reported.goals),
        "share of the volume",
        "parameters",
    ]
    rows: list[Sequence[str | Cell]] = []
    shares = shares_of_volume(reported.front, reported.goals)
    for trial, share in zip(reported.front, shares, strict=True):
        rows.append(
            [
                Cell(text=str(trial.number), value=trial.number, link=f"#trial-{trial.number}"),
                *map(format_cell, trial.values or ()),
                f"{share:.1%}",
                Cell(text=format_parameters(trial.params), wide=True),
            ]
        )
    names = join_names(reported.goals)
    note = (
        f"Who adds most comes first: the share is that of the hypervolume in {names} which a trial "
        "dominates together with those above it, measured where the front spans 0 to 1 in each "
        f"goal, up to {REFERENCE:g}. TOP=n exports the first n."
    )
    return [
        Heading("The front"),
        *draw_figures(reported),
        Table(columns=columns, rows=rows),
        Words(note, "soft"),
    ]


def front_picture(reported: ReportedStudy) -> str:
    """Return the picture of the first two goals as SVG; empty: no trial is on a front."""
    figures = draw_figures(reported)
    return figures[0].alone if figures else ""


def draw_figures(reported: ReportedStudy) -> list[Figure]:
    """Return a figure for each goal beside the quality."""
    if not reported.front:
        return []
    places = {trial.number: place for place, trial in enumerate(reported.front)}
    points = [
        FrontPoint(
            number=trial.number,
            values=values,
            violates=not is_feasible(trial),
            place=places.get(trial.number),
        )
        for trial in reported.all_trials
        if (values := values_of(trial, reported.goals)) is not None
    ]
    pictures = {
        trial.number: path.read_bytes()
        for trial in reported.front[:MOST_PICTURES]
        if (path := _picture_of(reported, trial)) is not None
    }
    return draw_fronts(points, reported.goals, pictures)


def _picture_of(reported: ReportedStudy, trial: FrozenTrial) -> Path | None:
    """Return the first picture of a trial that does not move; None: it has none at hand."""
    with suppress(FilesAway):
        for name, path in reported.pictures(trial).items():
            if not name.endswith(".gif"):
                return path
    return None
