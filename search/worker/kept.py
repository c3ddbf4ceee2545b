"""What a running trial keeps on disk: its checkpoint, and pictures for the dashboard.

None of it is worth a trial: what a full disk has no room for is left out, and said so.
"""

from __future__ import annotations

import logging
from dataclasses import astuple
from pathlib import Path

from optuna.trial import Trial

from models.base import Model
from models.errors import CheckpointError
from models.training.checkpoint import checkpoint_size, load_checkpoint, read_note, save_checkpoint
from search.trials import outcomes
from search.worker import diagnosis
from search.worker.context import Bench, go_without
from search.worker.progress import Progress, Report
from storage.files.atomic import whole_file

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
                progress.history = diagnosis.read_back(note.get("history", []))
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
                "history": diagnosis.plain(progress.history),
                "token": bench.run.token,
            }
            save_checkpoint(beside, model, epoch=progress.epoch, note=note)
    except OSError as error:
        progress.missing["no_checkpoint"] = outcomes.reason_of(error)
        go_without(bench, "checkpoints of trials", error)


def checkpoint_path(bench: Bench, trial: Trial) -> Path:
    return bench.run.paths.trial_checkpoint(bench.run.study, trial.number)
