"""How a generator learned: rows of samples while it trains, and what is drawn of them at the end.

After every epoch a row of samples of the same noise is kept beside the checkpoint, so that an
interrupted training keeps those of its epochs. A full disk costs rows and pictures, no training.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from optuna.trial import Trial

from models.base import Model, evaluating
from models.learned import COLUMNS, draw_learned, write_row
from search.bench import Bench, go_without
from search.kept import show
from search.reports import Progress
from storage.artifacts import whole_file

ANIMATED = 36  # samples of a retraining's row: its animation shows them all


def keep_row(bench: Bench, path: Path, model: Model, count: int = COLUMNS) -> None:
    """Write what ``model`` makes of the same noise now; nothing where it makes no images of it."""
    with evaluating(model):
        images = model.fixed_samples(bench.images, "valid", count)
    if images is None:
        return
    try:
        with whole_file(path) as beside:
            write_row(beside, images)
    except OSError as error:
        go_without(bench, "rows of samples", error)


def forget_rows(rows: Mapping[int, Path], *, beyond: int = 0) -> None:
    """Remove those of epochs after ``beyond``: they are trained again, or were another study's."""
    for epoch, path in rows.items():
        if epoch > beyond:
            path.unlink(missing_ok=True)


def trial_rows(bench: Bench, trial: Trial) -> dict[int, Path]:
    return bench.run.paths.trial_rows(bench.run.study, trial.number)


def show_learned(bench: Bench, trial: Trial, progress: Progress) -> None:
    """How the trial's samples came about, for the dashboard; nothing where there are no rows."""
    rows = trial_rows(bench, trial)
    if rows:
        title = f"{bench.run.study} trial {trial.number}"
        show(bench, trial, progress, "learned.png", lambda path: draw_learned(path, rows, title))
