"""What a running trial knows of its epochs, and how it goes on after an interruption.

    progress.resume(model)              # to the checkpoint of an earlier attempt, if there is one
    report = progress.add(result)       # an epoch more
    progress.save(model)                # a checkpoint

A checkpoint holds the weights, and beside them all that stands here. It is worth no trial: a
full disk costs the checkpoint, and the older one stays; a damaged one costs the epochs since the
one before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from models.base import Model
from models.errors import CheckpointError
from models.evaluation.gan_diagnosis import Health
from models.training.loop import EpochResult
from models.training.step_curve import StepCurve
from search.trials.epoch_report import EpochReport, name_measures
from search.worker.checkpoints import Checkpoint, Checkpoints
from search.worker.diagnosis import GanDiagnosis


@dataclass(kw_only=True)
class TrialProgress:
    """The epochs of one trial so far.

    checkpoints: its last two; token: of the stored study
    metric: the study's; is_better: ``(value, than)`` as `StudySpec.is_better`
    epoch: epochs done; seconds: that training took; best: the best value
    reported: values that the database has or is to take, of earlier attempts too, by Optuna's step
        from 0
    unwritten: reports that the database has yet to take, in their order
    steps: what single steps of a GAN measured
    fused: epochs that were trained together with those of other trials
    """

    checkpoints: Checkpoints
    token: str
    metric: str
    is_better: Callable[[float, float | None], bool]
    diagnosis: GanDiagnosis
    reported: dict[int, float]
    epoch: int = 0
    seconds: float = 0.0
    best: float | None = None
    unwritten: list[EpochReport] = field(default_factory=list)
    steps: StepCurve = field(default_factory=StepCurve)
    fused: int = 0

    def add(self, result: EpochResult, more: Mapping[str, float]) -> EpochReport:
        """Add an epoch; returns its report. more: further measures of it"""
        step = result.number - 1
        value = self.reported.setdefault(step, result.valid[self.metric])
        judging = None if self.diagnosis.floor is None else result.judging
        measured = name_measures(result.train, result.valid, result.seconds, judging)
        measured |= more
        self.diagnosis.add(result)
        self.steps.add(result.number, result.sampled)
        self.epoch = result.number
        if self.is_better(value, self.best):
            self.best = value
        report = EpochReport(result.number, value, measured)
        self.unwritten.append(report)
        return report

    def is_new(self, epoch: int) -> bool:
        """Whether no earlier attempt got beyond ``epoch``.

        Before that nothing is decided again: the pruner would see reports of later epochs.
        """
        return epoch >= max(self.reported) + 1

    def save(self, model: Model) -> None:
        """Write a checkpoint; raises `OSError` where it does not fit, and the older one stays."""
        note = {
            "best": self.best,
            "seconds": self.seconds,
            "unwritten": [(r.epoch, r.value, dict(r.measured)) for r in self.unwritten],
            "history": self.diagnosis.to_plain(),
            "steps": self.steps.to_plain(),
            "token": self.token,
            "fused": self.fused,
        }
        self.checkpoints.save(model, epoch=self.epoch, note=note)

    def resume(self, model: Model) -> None:
        """Go to where an earlier attempt got; without a checkpoint the trial starts over."""
        for kept in self.checkpoints.read():
            try:
                best, seconds, unwritten, history, steps = self._read_note(kept)
            except CheckpointError as error:
                self.checkpoints.refuse(kept.path, error)
                continue
            if self.checkpoints.load(kept, model):
                self.epoch, self.best, self.seconds = kept.epoch, best, seconds
                self.unwritten = unwritten
                told = {report.epoch - 1: report.value for report in unwritten}
                self.reported = told | self.reported
                self.diagnosis.history, self.steps = history, steps
                self.fused = int(kept.note.get("fused", 0))
                return

    def _read_note(
        self, kept: Checkpoint
    ) -> tuple[float | None, float, list[EpochReport], list[Health], StepCurve]:
        """Return best value, seconds, unwritten reports, history and steps of a checkpoint.

        Raises `CheckpointError` where another study or another version wrote it, and where the
        database lacks reports of its epochs: an older state of it was restored.
        """
        note = kept.note
        if note.get("token") != self.token:
            raise CheckpointError("it belongs to another study")
        try:
            unwritten = [EpochReport(*written) for written in note.get("unwritten", [])]
            history = [Health.from_plain(health) for health in note.get("history", [])]
            steps = StepCurve.from_plain(note.get("steps"))
            found = note["best"], float(note.get("seconds", 0.0)), unwritten, history, steps
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError("another version wrote it") from error
        known = {epoch + 1 for epoch in self.reported} | {report.epoch for report in unwritten}
        lacking = set(range(1, kept.epoch + 1)) - known
        if lacking:
            raise CheckpointError(
                f"it is of epoch {kept.epoch}, and the database has no report of epoch "
                f"{min(lacking)}"
            )
        return found
