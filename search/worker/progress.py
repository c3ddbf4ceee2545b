"""What a running trial knows of its epochs, and how it goes on after an interruption.

    progress.resume(model)              # to the checkpoint of an earlier attempt, if there is one
    report = progress.add(result)       # an epoch more
    progress.save(model)                # a checkpoint

A checkpoint holds the weights, and beside them all that stands here. It is worth no trial: a
full disk costs the checkpoint, and the older one stays.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from models.base import Model
from models.errors import CheckpointError
from models.training.checkpoint import (
    checkpoint_size,
    load_checkpoint,
    read_note,
    save_checkpoint,
)
from models.training.loop import EpochResult
from search.trials.epoch_report import EpochReport
from search.worker.diagnosis import GanDiagnosis
from storage.files.atomic import atomic_file

log = logging.getLogger("genstudy")


@dataclass(kw_only=True)
class TrialProgress:
    """The epochs of one trial so far.

    checkpoint: its file; token: of the stored study: files with another are not its files
    metric: the study's; is_better: ``(value, than)`` as `StudySpec.better`
    epoch: epochs done; seconds: that training took; best: the best value
    reported: values that the database has, of earlier attempts too, by Optuna's step from 0
    unwritten: reports that the database has yet to take, in their order
    """

    checkpoint: Path
    token: str
    metric: str
    is_better: Callable[[float, float | None], bool]
    diagnosis: GanDiagnosis
    reported: dict[int, float]
    epoch: int = 0
    seconds: float = 0.0
    best: float | None = None
    unwritten: list[EpochReport] = field(default_factory=list)

    def add(self, result: EpochResult) -> EpochReport:
        """Take in one more epoch; returns what is to be reported of it."""
        step = result.number - 1
        value = self.reported.setdefault(step, result.valid[self.metric])
        measured = {f"train_{name}": number for name, number in result.train.items()}
        measured |= {f"valid_{name}": number for name, number in result.valid.items()}
        measured["epoch_seconds"] = result.seconds
        if self.diagnosis.floor is not None:
            measured["judge_seconds"] = result.judging
        self.diagnosis.add(result)
        self.epoch = result.number
        if self.is_better(value, self.best):
            self.best = value
        report = EpochReport(result.number, value, measured)
        self.unwritten.append(report)
        return report

    def is_new(self, epoch: int) -> bool:
        """Whether no earlier attempt got beyond ``epoch``. Before that nothing is decided anew:
        the pruner would look at reports that this attempt has yet to reach."""
        return epoch >= max(self.reported) + 1

    def save(self, model: Model) -> None:
        """Write a checkpoint; raises `OSError` where it does not fit, and the older one stays."""
        with atomic_file(self.checkpoint, needs=checkpoint_size(model)) as beside:
            note = {
                "best": self.best,
                "seconds": self.seconds,
                "unwritten": [(r.epoch, r.value, dict(r.measured)) for r in self.unwritten],
                "history": self.diagnosis.to_plain(),
                "token": self.token,
            }
            save_checkpoint(beside, model, epoch=self.epoch, note=note)

    def resume(self, model: Model) -> None:
        """Go to where an earlier attempt got; without a checkpoint the trial starts over."""
        if not self.checkpoint.exists():
            return
        try:
            if read_note(self.checkpoint).get("token") != self.token:
                return
            self.epoch, note = load_checkpoint(self.checkpoint, model)
        except CheckpointError as error:
            log.warning("the trial starts over: %s", error)
            return
        self.best, self.seconds = note["best"], note.get("seconds", 0.0)
        self.unwritten = [EpochReport(*written) for written in note.get("unwritten", [])]
        self.diagnosis.read_plain(note.get("history", []))
