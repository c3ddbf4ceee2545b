"""The best configurations, trained again until their patience ends.

    retrain(context, number, repeat)

A retraining trains one trial's configuration afresh, with a seed of its own, on the training
images, until the validation value has not improved for the study's patience. It keeps the best
epoch and leaves a record (`search.trials.retraining_record`). An interrupted one goes on. A
configuration is trained with several seeds, each a retraining of its own (``repeat`` 1, 2, ...).

Patience and schedules have one horizon. Learning rates that fall and noise that fades are
stretched over the most epochs of a retraining, as a trial's are over its epochs. So patience
counts no epoch before they have ended (`ModelConfig.settled_in`): a training that stops in between
has rates and noise with which nobody would want to end.

The supervisor hands retrainings out to workers, and sets the ranks (`search/supervisor/finish.py`).
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from typing import Any

from optuna.trial import FixedTrial, FrozenTrial

from models.base import Model, ModelConfig, evaluating, parameter_count
from models.data.images import ImageSplits
from models.errors import CheckpointError, StopRequested
from models.seeds import derive_seed
from models.training.loop import EpochResult, fit
from models.training.step_curve import StepCurve
from search.messages import (
    PREVIEW,
    EpochEnded,
    NotRetrained,
    Pictured,
    Released,
    Resumed,
    Retrained,
    Retraining,
)
from search.setup.inputs import describe_base
from search.trials.epoch_report import name_measures
from search.trials.outcomes import describe_error, is_out_of_memory
from search.trials.retraining_files import BEST, LAST
from search.trials.retraining_record import (
    MOST_EPOCHS,
    PATIENCE,
    FailedRetraining,
    RetrainingRecord,
    read_record,
    retraining_identity,
)
from search.worker.checkpoints import Checkpoint, Checkpoints
from search.worker.context import WorkerContext
from search.worker.diagnosis import GanDiagnosis, health_of_curve, trial_attributes
from search.worker.interruptions import is_interruption
from search.worker.pictures import (
    forget_rows,
    is_pictured,
    keep_row,
    without_picture,
)
from search.worker.trial_epochs import CHECKPOINT_EVERY, SHORT_EPOCH
from storage.database.job_claims import JobLost
from storage.files.atomic import atomic_file

ANIMATED = 36  # samples of a row: the export's animation shows them all
PREVIEWS = 10  # images in the picture of an epoch
log = logging.getLogger("genstudy")


def retrain(context: WorkerContext, number: int, repeat: int = 1, claim: int | None = None) -> None:
    """Train trial ``number``'s configuration until its patience ends; leave a record.

    claim: the number without which nothing of it is put into FILES; None: there is no FILES

    A training that fails in its first epoch leaves a record of that. One that diverges later
    keeps its best epoch. A trial that somebody has added to the study may lack parameters: then
    there is no configuration to train, and the next best trial takes its place.
    """
    try:
        _retrain(context, number, repeat, claim)
    except JobLost as error:
        log.warning("the retraining is another machine's by now: %s", error)
        context.send(Released(number=number, retraining=True, repeat=repeat))


def _retrain(context: WorkerContext, number: int, repeat: int, claim: int | None) -> None:
    """Do so. Raises `JobLost`."""
    try:
        run = RetrainingRun(context, number, repeat, claim)
    except Exception as error:
        if is_interruption(error) or isinstance(error, OSError) or is_out_of_memory(error):
            raise
        log.error("trial %d cannot be made again\n%s", number, traceback.format_exc())
        reason = f"no model of its parameters ({describe_error(error)})"
        _give_up(context, number, repeat, reason, claim=claim)
        return
    run.run()


def _give_up(
    context: WorkerContext,
    number: int,
    repeat: int,
    reason: str,
    parameters: dict[str, Any] | None = None,
    claim: int | None = None,
) -> None:
    """Leave a record of a retraining that gives no model."""
    failed = FailedRetraining(
        trial=number,
        token=context.run.token,
        failed=reason,
        parameters=parameters,
        repeat=repeat,
    )
    failed.write(context.retraining_paths(number, repeat).record)
    context.share_retraining(number, repeat, claim)
    context.send(NotRetrained(number=number, repeat=repeat, reason=reason))


def load_retrained(context: WorkerContext, record: RetrainingRecord) -> Model:
    """Return the model of a record's best epoch.

    Raises `CheckpointError` where its weights cannot be used any more. They are set aside then,
    with a line, and the supervisor has them made again.
    """
    config, _ = read_configuration(context, record.trial)
    model = context.make_model(config, record.seed)
    kept = Checkpoints(
        path=context.retraining_paths(record.trial, record.repeat).best,
        of=record.identity(),
        tell=context.tell,
    )
    for found in kept.read():
        if found.epoch != record.best_epoch:
            kept.refuse(found.path, CheckpointError(f"the best epoch is {record.best_epoch}"))
        elif kept.load(found, model):
            return model
    raise CheckpointError(f"trial {record.trial} has no weights of its best epoch any more")


def retraining_seed(study_seed: int, number: int, repeat: int) -> int:
    """Return the seed of a retraining; the first is that which older versions took."""
    more = () if repeat == 1 else (repeat,)
    return derive_seed(study_seed, "retrain", number, *more)


def read_trial(context: WorkerContext, number: int) -> FrozenTrial:
    """Return trial ``number`` as it is stored, once the database answers."""
    queue = context.queue
    return queue.retry.wait_for(lambda: queue.storage.get_trial(queue.id_of(number)))


def read_configuration(context: WorkerContext, number: int) -> tuple[ModelConfig, dict[str, Any]]:
    """Return the configuration that trial ``number`` trained, and its parameters."""
    trial = read_trial(context, number)
    return context.spec.suggest(FixedTrial(trial.params, number=number)), trial.params


def measure_baseline(
    model: Model, images: ImageSplits, metric: str, part: str
) -> dict[str, Any] | None:
    """Return what the model has to beat on ``part``, as the record keeps it; None: nothing is."""
    with evaluating(model):
        found = model.baseline(images, part)
    if found is None or metric not in found.values:
        return None
    return {"what": found.what, part: found.values[metric]}


class RetrainingRun:
    """One retraining: its model, its epochs so far, and what happens to them."""

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
            config=asdict(self.model.config),
            seed=self.seed,
            horizon=self._horizon(),
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

    def run(self) -> None:
        """Go on from the checkpoints, train, and write the record."""
        context = self.context
        context.begin_training()
        self._clear_record()
        self.best.fetch_newer()
        self.last.fetch_newer()
        self._resume()
        for picture in [] if self.curve else self.paths.pictures():
            picture.unlink()  # of an earlier training, or of a deleted study of this name
        forget_rows(self.paths.rows(), beyond=len(self.curve))
        context.send(
            Retraining(
                number=self.number,
                repeat=self.repeat,
                epochs=context.run.retrain_epochs,
                seed=self.seed,
                parameters=self.parameters,
                past=[self._name_measures(epoch) for epoch in self.curve],
            )
        )
        if self.curve and not self._is_out_of_patience():
            context.send(Resumed(number=self.number, repeat=self.repeat, epoch=len(self.curve)))
        failure = None
        try:
            self._train()
        except StopRequested:
            self._settle_copies()
            context.send(Released(number=self.number, retraining=True, repeat=self.repeat))
            return
        except Exception as error:
            if is_interruption(error) or isinstance(error, OSError | JobLost):
                raise
            log.error("retraining of trial %d failed\n%s", self.number, traceback.format_exc())
            failure = f"{type(error).__name__}: {error}"
        if failure is not None and not self.curve:
            _give_up(context, self.number, self.repeat, failure, self.parameters, self.claim)
            return
        record = self._make_record(failure)
        record.write(self.paths.record)
        context.share_retraining(self.number, self.repeat, self.claim)
        self.last.remove()
        self.best.earlier.unlink(missing_ok=True)
        context.send(
            Retrained(
                number=self.number,
                repeat=self.repeat,
                epochs=record.epochs,
                ended_by=record.ended_by,
                best_epoch=record.best_epoch,
                best=record.valid[context.spec.quality],
            )
        )

    def _train(self) -> None:
        """Add epochs to the curve until the patience ends, keeping the best and the last one."""
        context = self.context
        over = self._is_out_of_patience()
        for result in fit(
            self.model,
            context.images,
            epochs=len(self.curve) if over else context.run.retrain_epochs,
            seed=self.seed,
            start=len(self.curve),
            judge=context.evaluator,
            interrupted=context.interrupted,
        ):
            context.check_images()
            self.curve.append(_plain_epoch(result))
            self.steps.add(result.number, result.sampled)
            keep_row(context, self.paths.row(result.number), self.model, ANIMATED)
            if self._best_epoch() == result.number:
                self._save(self.best)
            try:
                self._save(self.last)
            except OSError as error:
                context.warn_once("checkpoints of retrainings", error)
            else:
                self._copy(result.seconds)
            if is_pictured(context.spec, result.number):
                self._draw_epoch(result)
            self._announce(result)
            if self._is_out_of_patience():
                break

    def _clear_record(self) -> None:
        """Remove the record: its weights are about to be replaced. One that was not written here
        is set aside."""
        record = self.paths.record
        if not record.exists():
            return
        token = self.context.run.token
        if read_record(record, token=token, trial=self.number, repeat=self.repeat) is not None:
            record.unlink(missing_ok=True)
        else:
            self.best.refuse(record, CheckpointError("it is damaged, or of another study's trial"))

    def _resume(self) -> None:
        """Bring curve and model to where an interrupted retraining got.

        That is the latest checkpoint whose best epoch is kept, too. The best epoch may be later
        than the last, where a full disk had no room for the last.
        """
        kept = {found.epoch: found for found in self._read(self.best)}
        states = sorted([*kept.values(), *self._read(self.last)], key=lambda found: found.epoch)
        for found in reversed(states):
            self.curve = found.note["curve"]
            self.steps = StepCurve.from_plain(found.note.get("steps"))
            best = self._best_epoch()
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
        """See to it that the newest checkpoint of the best epochs is that of ``epoch``."""
        if kept is None:  # the model has just been brought there
            self._save(self.best)
        elif kept.path != self.best.path:
            kept.path.replace(self.best.path)

    def _save(self, checkpoints: Checkpoints) -> None:
        steps = self.steps.to_plain()
        note = {"curve": self.curve, "steps": steps, "token": self.context.run.token}
        checkpoints.save(self.model, epoch=len(self.curve), note=note, copy=False)

    def _copy(self, seconds: float) -> None:
        """Copy the checkpoints to FILES when it is time: the best first, without which the last is
        of no use.

        seconds: that the epoch took
        """
        due = seconds > SHORT_EPOCH or time.monotonic() - self.copied >= CHECKPOINT_EVERY
        if self.last.copies is None or self.best.copies is None or not due:
            return
        best = self._best_epoch()
        if best != self.copied_best:
            self.best.copies.keep(self.best.path, epoch=best)
        self.last.copies.keep(self.last.path, epoch=len(self.curve))
        self.context.share_pictures_of_retraining(self.paths, self.claim)
        self.copied, self.copied_best = time.monotonic(), best

    def _settle_copies(self) -> None:
        """Wait until the last checkpoints are where others find them. Raises `JobLost`."""
        if self.last.copies is not None:
            self.last.copies.settle()

    def _best_epoch(self) -> int:
        spec = self.context.spec
        values = [epoch["valid"][spec.quality] for epoch in self.curve]
        best = min(values) if spec.minimizes else max(values)
        return values.index(best) + 1

    def _is_out_of_patience(self) -> bool:
        """Whether no epoch has been better for long; none counts that a schedule still changes."""
        if not self.curve:
            return False
        waited = len(self.curve) - max(self._best_epoch(), self.settled - 1)
        return waited >= self.context.spec.patience

    def _horizon(self) -> int | None:
        """Return the epochs over which the schedules are stretched; None: they are not."""
        most = self.context.run.retrain_epochs
        return most if self.settled == most > 1 else None

    def _draw_epoch(self, result: EpochResult) -> None:
        """Draw what the model does after an epoch, where the study asks for it."""
        context = self.context
        value = result.valid[context.spec.quality]
        title = f"{context.run.study} trial {self.number}, retrained, epoch {result.number}"
        with without_picture(context, what="pictures of epochs"):
            with evaluating(self.model):
                preview = self.model.preview(context.images, "valid", PREVIEWS)
            if preview is not None:
                path = self.paths.picture(result.number)
                with atomic_file(path) as beside:
                    preview.draw(beside, f"{title} · {context.spec.quality.upper()} {value:.5f}")
                context.send(
                    Pictured(
                        number=self.number,
                        epoch=result.number,
                        name=PREVIEW,
                        path=str(path),
                        retraining=True,
                        repeat=self.repeat,
                    )
                )

    def _announce(self, result: EpochResult) -> None:
        self.context.send(
            EpochEnded(
                number=self.number,
                repeat=self.repeat,
                epoch=result.number,
                epochs=self.context.run.retrain_epochs,
                value=result.valid[self.context.spec.quality],
                seconds=result.seconds,
                measured=self._name_measures(self.curve[-1]),
                retraining=True,
            )
        )

    def _name_measures(self, epoch: Mapping[str, Any]) -> dict[str, float]:
        """Return all that was measured in an epoch of the curve, by name."""
        judging = None if self.context.evaluator is None else epoch.get("judging")
        return name_measures(epoch["train"], epoch["valid"], epoch["seconds"], judging)

    def _make_record(self, failure: str | None) -> RetrainingRecord:
        """Return all that is known of the retraining: the export's provenance."""
        context, model, curve = self.context, self.model, self.curve
        run, spec, images, evaluator = context.run, context.spec, context.images, context.evaluator
        best = self._best_epoch()
        trial = read_trial(context, self.number)
        diagnosis = GanDiagnosis(None if evaluator is None else evaluator.floor, prunes=False)
        verdict = diagnosis.final(health_of_curve(curve)) if evaluator is not None else None
        ended_by = PATIENCE if self._is_out_of_patience() else MOST_EPOCHS
        return RetrainingRecord(
            study=run.study,
            token=run.token,
            study_file=run.name,
            trial=self.number,
            repeat=self.repeat,
            horizon=self._horizon(),
            trial_value=None if trial.values is None else trial.values[0],
            parameters=self.parameters,
            starts_from=None if run.base_folder is None else describe_base(run.base_folder),
            config=asdict(model.config),
            model=type(model).__name__,
            model_parameters=parameter_count(model),
            data=images.name,
            images={part: len(getattr(images, part)) for part in ("train", "valid", "test")},
            pixels=images.fingerprint,
            metric=spec.quality,
            direction=spec.goals[0].direction,
            seed=self.seed,
            study_seed=run.seed,
            epochs=len(curve),
            most_epochs=run.retrain_epochs,
            patience=spec.patience,
            ended_by=failure or ended_by,
            best_epoch=best,
            valid=curve[best - 1]["valid"],
            judge=None if evaluator is None else evaluator.record,
            verdict=trial_attributes(verdict),
            test=None,
            tables=[],
            curve=curve,
            steps=self.steps.to_plain() if self.steps.at else None,
            seconds=round(sum(epoch["seconds"] for epoch in curve), 1),
            device=context.device_name,
            revision=run.revision,
            baseline=measure_baseline(model, images, spec.quality, "valid"),
            remarks=run.remarks,
            made=datetime.now(UTC).isoformat(timespec="seconds"),
        )


def _plain_epoch(result: EpochResult) -> dict[str, Any]:
    """Return an epoch as the record keeps it; what single steps measured stands apart."""
    plain = asdict(result)
    del plain["sampled"]
    return plain
