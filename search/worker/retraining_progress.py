"""How far a retraining is: its model, its curve, its two checkpoints, and whether it has ended.

progress = RetrainingProgress(context, number, repeat, claim)
progress.resume()                    # from the checkpoints of an interrupted one
progress.save(progress.last)
progress.is_out_of_patience()
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from models.errors import CheckpointError
from models.training.step_curve import StepCurve
from search.trials.retraining_files import BEST, LAST
from search.trials.retraining_record import read_record, retraining_identity
from search.worker.checkpoints import Checkpoint, Checkpoints
from search.worker.context import WorkerContext
from search.worker.retrained_model import read_configuration, retraining_seed
from search.worker.trial_epochs import CHECKPOINT_EVERY, SHORT_EPOCH


class RetrainingProgress:
    """How far one retraining is.

    claim: the number without which nothing of it is put into FILES; None: there is no FILES
    """

    def __init__(
        self, context: WorkerContext, number: int, repeat: int = 1, claim: int | None = None
    ) -> None:
        self.context = context
        self.claim = claim
        self.number = number
        self.repeat = repeat
        self.paths = context.retraining_paths(number, repeat)
        self.seed = retraining_seed(context.run.seed, number, repeat)
        config, self.parameters = read_configuration(context, number)
        self.model = context.make_model(config, self.seed)
        self.settled = self.model.config.settled_in(context.run.retrain_epochs)
        self.curve: list[dict[str, Any]] = []  # of each epoch, as its `EpochResult`
        self.steps = StepCurve()
        identity = retraining_identity(
            token=context.run.token,
            trial=number,
            parameters=self.parameters,
            config=self.model.config.sealed(),
            seed=self.seed,
            horizon=self.horizon(),
        )
        copies = partial(context.copies_of_retraining, self.paths.stem, claim)
        self.best = Checkpoints(
            path=self.paths.best, of=identity, tell=context.tell, copies=copies(BEST)
        )
        self.last = Checkpoints(
            path=self.paths.last, of=identity, tell=context.tell, copies=copies(LAST)
        )
        self.copied = time.monotonic()  # when the checkpoints were copied to FILES
        self.copied_best = 0  # the best epoch of that

    def resume(self) -> None:
        """Bring curve and model to the latest usable checkpoint of an interrupted retraining.

        The checkpoint of its best epoch has to be there, too. The best epoch may come after the
        last one, if a full disk had no room for the last checkpoint.
        """
        kept = {found.epoch: found for found in self._read(self.best)}
        states = sorted([*kept.values(), *self._read(self.last)], key=lambda found: found.epoch)
        for found in reversed(states):
            self.curve = found.note["curve"]
            self.steps = StepCurve.from_plain(found.note.get("steps"))
            best = self.best_epoch()
            if (best == found.epoch or best in kept) and self._load(found):
                self._keep_best(best, kept.get(best))
                return
        self.curve, self.steps = [], StepCurve()

    def _read(self, checkpoints: Checkpoints) -> list[Checkpoint]:
        """Return the checkpoints of this retraining whose curves are no longer than today's."""
        found = []
        for kept in checkpoints.read():
            try:
                self._check_note(kept)
            except CheckpointError as error:
                checkpoints.refuse(kept.path, error)
            else:
                if 0 < kept.epoch <= self.context.run.retrain_epochs:
                    found.append(kept)
        return found

    def _check_note(self, kept: Checkpoint) -> None:
        """Raise `CheckpointError` for a note of another study, or of another version."""
        metric, curve = self.context.spec.quality, kept.note.get("curve")
        if kept.note.get("token") != self.context.run.token:
            raise CheckpointError("it belongs to another study")
        try:
            is_whole = isinstance(curve, list) and len(curve) == kept.epoch
            values = [float(epoch["valid"][metric]) for epoch in curve or ()]
            StepCurve.from_plain(kept.note.get("steps"))
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError("another version wrote it") from error
        if not is_whole or not values:
            raise CheckpointError("its curve has another length")

    def _load(self, found: Checkpoint) -> bool:
        owner = self.best if found.path in (self.best.path, self.best.earlier) else self.last
        return owner.load(found, self.model)

    def _keep_best(self, epoch: int, kept: Checkpoint | None) -> None:
        """Make the newest checkpoint of the best epochs that of ``epoch``."""
        if kept is None:  # the model has just been brought there
            self.save(self.best)
        elif kept.path != self.best.path:
            kept.path.replace(self.best.path)

    def save(self, checkpoints: Checkpoints) -> None:
        steps = self.steps.to_plain()
        note = {"curve": self.curve, "steps": steps, "token": self.context.run.token}
        checkpoints.save(self.model, epoch=len(self.curve), note=note, copy=False)

    def copy(self, seconds: float) -> None:
        """Copy the checkpoints to FILES when it is time. The best comes first: the last needs it.

        seconds: that the epoch took
        """
        due = seconds > SHORT_EPOCH or time.monotonic() - self.copied >= CHECKPOINT_EVERY
        if self.last.copies is None or self.best.copies is None or not due:
            return
        best = self.best_epoch()
        if best != self.copied_best:
            self.best.copies.keep(self.best.path, epoch=best)
        self.last.copies.keep(self.last.path, epoch=len(self.curve))
        self.context.share_pictures_of_retraining(self.paths, self.claim)
        self.copied, self.copied_best = time.monotonic(), best

    def settle_copies(self) -> None:
        """Wait until the last checkpoints are in FILES. Raises `JobLost`."""
        if self.last.copies is not None:
            self.last.copies.settle()

    def best_epoch(self) -> int:
        spec = self.context.spec
        values = [epoch["valid"][spec.quality] for epoch in self.curve]
        best = min(values) if spec.minimizes else max(values)
        return values.index(best) + 1

    def is_out_of_patience(self) -> bool:
        """Whether no epoch has improved for long. Epochs that a schedule still changes do not
        count."""
        if not self.curve:
            return False
        waited = len(self.curve) - max(self.best_epoch(), self.settled - 1)
        return waited >= self.context.spec.patience

    def horizon(self) -> int | None:
        """Return the epochs over which the schedules are stretched; None: they are not."""
        most = self.context.run.retrain_epochs
        return most if self.settled == most > 1 else None

    def clear_record(self) -> None:
        """Remove the record, because its weights are about to be replaced.

        A record that is damaged, or of another study's trial, is set aside.
        """
        record = self.paths.record
        if not record.exists():
            return
        token = self.context.run.token
        if read_record(record, token=token, trial=self.number, repeat=self.repeat) is not None:
            record.unlink(missing_ok=True)
        else:
            self.best.refuse(record, CheckpointError("it is damaged, or of another study's trial"))
