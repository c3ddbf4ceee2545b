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
from search.worker.context import WorkerContext, warn_once
from search.worker.progress import Report, TrialProgress
from storage.files.atomic import atomic_file

log = logging.getLogger("genstudy")


def resume(context: WorkerContext, trial: Trial, model: Model, progress: TrialProgress) -> None:
    """To where an earlier attempt got; without a checkpoint a trial starts from its seed again."""
    stored = context.queue.storage.get_trial(context.queue.id_of(trial.number))
    progress.reported = dict(stored.intermediate_values)
    path = checkpoint_path(context, trial)
    if path.exists():
        try:
            if read_note(path).get("token") == context.run.token:
                progress.epoch, note = load_checkpoint(path, model)
                progress.best, progress.seconds = note["best"], note.get("seconds", 0.0)
                progress.history = diagnosis.read_back(note.get("history", []))
                progress.unwritten = [Report(*written) for written in note.get("unwritten", [])]
        except CheckpointError as error:
            log.warning("trial %d starts over: %s", trial.number, error)


def save(context: WorkerContext, trial: Trial, model: Model, progress: TrialProgress) -> None:
    """A checkpoint that cannot be written costs a warning, not the trial; the older one stays."""
    try:
        with atomic_file(checkpoint_path(context, trial), needs=checkpoint_size(model)) as beside:
            note = {
                "best": progress.best,
                "seconds": progress.seconds,
                "unwritten": [astuple(report) for report in progress.unwritten],
                "history": diagnosis.plain(progress.history),
                "token": context.run.token,
            }
            save_checkpoint(beside, model, epoch=progress.epoch, note=note)
    except OSError as error:
        progress.missing["no_checkpoint"] = outcomes.describe_error(error)
        warn_once(context, "checkpoints of trials", error)


def checkpoint_path(context: WorkerContext, trial: Trial) -> Path:
    return context.run.paths.trial_checkpoint(context.run.study, trial.number)
