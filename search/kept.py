"""What a running trial keeps on disk: its checkpoint, and pictures for the dashboard.

None of it is worth a trial: what a full disk has no room for is left out, and said so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path
from tempfile import TemporaryDirectory

from optuna.trial import Trial

from models.base import Model, evaluating
from models.checkpoint import (
    CheckpointError,
    checkpoint_size,
    load_checkpoint,
    read_note,
    save_checkpoint,
)
from search import games, outcomes
from search.bench import Bench, go_without
from search.reports import Progress, Report
from search.study import StudySpec
from storage.artifacts import attach, whole_file

PREVIEWS = 6  # images in a trial's picture: few, so that the dashboard's thumbnail is legible

log = logging.getLogger("genstudy")


def resume(bench: Bench, trial: Trial, model: Model, progress: Progress) -> None:
    """To where an earlier attempt got; without a checkpoint a trial starts from its seed again."""
    stored = bench.claims.storage.get_trial(bench.claims.id_of(trial.number))
    progress.reported = dict(stored.intermediate_values)
    path = checkpoint_path(bench, trial)
    if path.exists():
        try:
            if read_note(path).get("token") == bench.run.token:
                progress.epoch, note = load_checkpoint(path, model)
                progress.best, progress.seconds = note["best"], note.get("seconds", 0.0)
                progress.history = games.read_back(note.get("history", []))
                progress.unwritten = [Report(*written) for written in note.get("unwritten", [])]
        except CheckpointError as error:
            log.warning("trial %d starts over: %s", trial.number, error)


def save(bench: Bench, trial: Trial, model: Model, progress: Progress) -> None:
    """A checkpoint that cannot be written costs a warning, not the trial; the older one stays."""
    try:
        with whole_file(checkpoint_path(bench, trial), needs=checkpoint_size(model)) as beside:
            note = {
                "best": progress.best,
                "seconds": progress.seconds,
                "unwritten": [astuple(report) for report in progress.unwritten],
                "history": games.plain(progress.history),
                "token": bench.run.token,
            }
            save_checkpoint(beside, model, epoch=progress.epoch, note=note)
    except OSError as error:
        progress.missing["no_checkpoint"] = outcomes.reason_of(error)
        go_without(bench, "checkpoints of trials", error)


def checkpoint_path(bench: Bench, trial: Trial) -> Path:
    return bench.run.paths.trial_checkpoint(bench.run.study, trial.number)


def is_pictured(spec: StudySpec, epoch: int) -> bool:
    return spec.pictures_every is not None and epoch % spec.pictures_every == 0


def picture(bench: Bench, trial: Trial, model: Model, progress: Progress, suffix: str = "") -> None:
    """What the model makes of validation images, for the dashboard."""
    progress.picture = None
    metric = bench.spec.metric.upper()
    with evaluating(model):
        picture = model.preview(bench.images, "valid", PREVIEWS)
    if picture is None:
        return
    title = f"{bench.run.study} trial {trial.number}"
    if bench.run.shown is None:  # else a person is to judge by the picture alone
        title += f" · best {metric} {progress.best:.5f}"
    progress.picture = show(
        bench,
        trial,
        progress,
        f"{picture.name}{suffix}.png",
        lambda path: picture.draw(path, title),
    )


def show(
    bench: Bench, trial: Trial, progress: Progress, name: str, draw: Callable[[Path], None]
) -> str | None:
    """Attach what ``draw`` writes to ``trial`` as ``name``; its id. A full disk costs it, and no
    more."""
    try:
        with TemporaryDirectory() as folder:
            path = Path(folder) / name
            with whole_file(path) as beside:  # which names the place when that disk is full
                draw(beside)
            bench.run.paths.artifacts.mkdir(parents=True, exist_ok=True)
            return attach(bench.run.paths.artifacts, trial, path)
    except OSError as error:
        progress.missing["no_picture"] = outcomes.reason_of(error)
        go_without(bench, "pictures of trials", error)
        return None
