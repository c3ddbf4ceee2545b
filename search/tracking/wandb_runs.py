"""Weights & Biases: a project ``genstudy``, a group a study, a run a trial.

    tracker = WandbRuns(folder)      # of what wandb keeps on this machine

WANDB_API_KEY, WANDB_MODE, WANDB_PROJECT and others count as wandb reads them.

A run is found again by its id, on any machine. What a server has of it is not sent again. With
WANDB_MODE=offline each part of a run is a folder of its own that holds the run from its first
epoch; ``wandb sync`` of the latest sends it whole.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import wandb

from search.tracking.tracker import (
    UNSOUND,
    WAITING,
    TrackedEnding,
    TrackedEpoch,
    TrackedPicture,
    TrackedRun,
)

PROJECT = "genstudy"  # unless WANDB_PROJECT names one
PATIENCE = 30.0  # seconds that the server may take to answer first
WITHOUT_KEY = ("offline", "disabled", "dryrun")  # values of WANDB_MODE


class WandbRuns:
    """Writes runs through wandb's own process. folder: of what it keeps on this machine"""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.project = os.environ.get("WANDB_PROJECT") or PROJECT
        self._runs: dict[str, Any] = {}

    def begin(
        self, run: TrackedRun, epochs: Sequence[TrackedEpoch], pictures: Sequence[TrackedPicture]
    ) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._runs[run.name] = wandb.init(
            id=run.key,
            resume="allow",
            reinit="create_new",  # several runs at once
            project=self.project,
            group=run.study,
            job_type=run.kind,
            name=run.name,
            notes=run.card or None,
            config={**run.parameters, **{f"about/{name}": v for name, v in run.about.items()}},
            allow_val_change=True,  # of its device, say
            dir=str(self.folder),
            settings=wandb.Settings(
                console="off", silent=True, save_code=False, init_timeout=PATIENCE
            ),
        )
        last = max((picture.epoch for picture in pictures), default=0)
        numbered = {epoch.number: epoch for epoch in epochs}
        for number in range(max([last, *numbered]) + 1):  # steps only rise
            if number in numbered:
                self.log_epoch(run, numbered[number])
            for picture in pictures:
                if picture.epoch == number:
                    self.log_picture(run, picture)

    def log_epoch(self, run: TrackedRun, epoch: TrackedEpoch) -> None:
        if epoch.number >= self._runs[run.name].step:  # else the server has it: steps only rise
            self._runs[run.name].log(dict(epoch.values), step=epoch.number)

    def log_picture(self, run: TrackedRun, picture: TrackedPicture) -> None:
        """Log a picture with its epoch; one of an epoch that the server has closes the run."""
        running = self._runs[run.name]
        shown = {f"pictures/{picture.name}": wandb.Image(str(picture.path))}
        if picture.epoch >= running.step:
            running.log(shown, step=picture.epoch)
        else:
            running.summary.update(shown)

    def end(self, run: TrackedRun, ending: TrackedEnding) -> None:
        running = self._runs.pop(run.name)
        words = {"state": ending.state, **({"reason": ending.reason} if ending.reason else {})}
        running.summary.update({**ending.values, **words})
        if ending.state == WAITING:
            running.mark_preempting()
        running.finish(exit_code=1 if ending.state in (*UNSOUND, WAITING) else 0)

    def close(self) -> None:
        for running in self._runs.values():
            running.finish()
        self._runs.clear()


def has_key() -> bool:
    """Whether wandb would ask nobody for a key."""
    if os.environ.get("WANDB_MODE", "").lower() in WITHOUT_KEY:
        return True
    return bool(wandb.login(prompt=False, verify=False))
