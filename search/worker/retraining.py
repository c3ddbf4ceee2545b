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
import traceback
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from models.base import evaluating, parameter_count
from models.errors import StopRequested
from models.training.loop import EpochResult, fit
from search.events import (
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
from search.trials.retraining_record import (
    MOST_EPOCHS,
    PATIENCE,
    FailedRetraining,
    RetrainingRecord,
)
from search.worker.context import WorkerContext
from search.worker.diagnosis import GanDiagnosis, health_of_curve, trial_attributes
from search.worker.interruptions import is_interruption
from search.worker.pictures import (
    forget_rows,
    is_pictured,
    keep_row,
    without_picture,
)
from search.worker.retrained_model import measure_baseline, read_trial
from search.worker.retraining_progress import RetrainingProgress
from storage.database.job_claims import JobLost
from storage.files.atomic import atomic_file

ANIMATED = 36  # samples of a row: the export's animation shows them all
PREVIEWS = 10  # images in the picture of an epoch
log = logging.getLogger("genstudy")


def retrain(context: WorkerContext, number: int, repeat: int = 1, claim: int | None = None) -> None:
    """Train trial ``number``'s configuration until its patience ends; leave a record.

    claim: the number that a write into FILES needs; None: there is no FILES

    A training that fails in its first epoch leaves a record of the failure. A training that
    diverges later keeps its best epoch. A trial that somebody has added to the study may lack
    parameters. It then has no configuration to train, and the next best trial takes its place.
    """
    try:
        _retrain(context, number, repeat, claim)
    except JobLost as error:
        log.warning("the retraining is another machine's by now: %s", error)
        context.send(Released(number=number, retraining=True, repeat=repeat))


def _retrain(context: WorkerContext, number: int, repeat: int, claim: int | None) -> None:
    """Do what `retrain` says. Raises `JobLost`."""
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


class RetrainingRun:
    """One retraining: it trains, draws, announces and records the epochs."""

    def __init__(
        self, context: WorkerContext, number: int, repeat: int = 1, claim: int | None = None
    ) -> None:
        self.context = context
        self.claim = claim
        self.number = number
        self.repeat = repeat
        self.paths = context.retraining_paths(number, repeat)
        self.progress = RetrainingProgress(context, number, repeat, claim)

    def run(self) -> None:
        """Go on from the checkpoints, train, and write the record."""
        self._resume()
        failure = None
        try:
            self._train()
        except StopRequested:
            self.progress.settle_copies()
            self.context.send(Released(number=self.number, retraining=True, repeat=self.repeat))
            return
        except Exception as error:
            if is_interruption(error) or isinstance(error, OSError | JobLost):
                raise
            log.error("retraining of trial %d failed\n%s", self.number, traceback.format_exc())
            failure = f"{type(error).__name__}: {error}"
        if failure is None or self.progress.curve:
            self._finish(failure)
            return
        parameters = self.progress.parameters
        _give_up(self.context, self.number, self.repeat, failure, parameters, self.claim)

    def _resume(self) -> None:
        """Bring the progress to the latest checkpoint, and tell the supervisor."""
        self.context.begin_training()
        self.progress.clear_record()
        self.progress.best.fetch_newer()
        self.progress.last.fetch_newer()
        self.progress.resume()
        done = len(self.progress.curve)
        for picture in [] if done else self.paths.pictures():
            picture.unlink()  # of an earlier training, or of a deleted study of this name
        forget_rows(self.paths.rows(), beyond=done)
        self.context.send(
            Retraining(
                number=self.number,
                repeat=self.repeat,
                epochs=self.context.run.retrain_epochs,
                seed=self.progress.seed,
                parameters=self.progress.parameters,
                past=[self._name_measures(epoch) for epoch in self.progress.curve],
            )
        )
        if done and not self.progress.is_out_of_patience():
            self.context.send(Resumed(number=self.number, repeat=self.repeat, epoch=done))

    def _finish(self, failure: str | None) -> None:
        """Write and share the record, and remove the checkpoints that it does not need.

        failure: the error that ended the training, if one did
        """
        record = self._make_record(failure)
        record.write(self.paths.record)
        self.context.share_retraining(self.number, self.repeat, self.claim)
        self.progress.last.remove()
        self.progress.best.earlier.unlink(missing_ok=True)
        self.context.send(
            Retrained(
                number=self.number,
                repeat=self.repeat,
                epochs=record.epochs,
                ended_by=record.ended_by,
                best_epoch=record.best_epoch,
                best=record.valid[self.context.spec.quality],
            )
        )

    def _train(self) -> None:
        """Add epochs to the curve until the patience ends, keeping the best and the last one."""
        context = self.context
        over = self.progress.is_out_of_patience()
        for result in fit(
            self.progress.model,
            context.images,
            epochs=len(self.progress.curve) if over else context.run.retrain_epochs,
            seed=self.progress.seed,
            start=len(self.progress.curve),
            judge=context.evaluator,
            interrupted=context.interrupted,
        ):
            context.check_images()
            self.progress.curve.append(_plain_epoch(result))
            self.progress.steps.add(result.number, result.sampled)
            keep_row(context, self.paths.row(result.number), self.progress.model, ANIMATED)
            if self.progress.best_epoch() == result.number:
                self.progress.save(self.progress.best)
            try:
                self.progress.save(self.progress.last)
            except OSError as error:
                context.warn_once("checkpoints of retrainings", error)
            else:
                self.progress.copy(result.seconds)
            if is_pictured(context.spec, result.number):
                self._draw_epoch(result)
            self._announce(result)
            if self.progress.is_out_of_patience():
                break

    def _draw_epoch(self, result: EpochResult) -> None:
        """Draw what the model does after an epoch, where the study asks for it."""
        context = self.context
        value = result.valid[context.spec.quality]
        title = f"{context.run.study} trial {self.number}, retrained, epoch {result.number}"
        with without_picture(context, what="pictures of epochs"):
            with evaluating(self.progress.model):
                preview = self.progress.model.preview(context.images, "valid", PREVIEWS)
            if preview is not None:
                path = self.paths.picture(result.number)
                with atomic_file(path) as beside:
                    preview.draw(beside, f"{title} · {context.spec.quality} {value:.4g}")
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
                measured=self._name_measures(self.progress.curve[-1]),
                retraining=True,
            )
        )

    def _name_measures(self, epoch: Mapping[str, Any]) -> dict[str, float]:
        """Return all that was measured in an epoch of the curve, by name."""
        judging = None if self.context.evaluator is None else epoch.get("judging")
        return name_measures(epoch["train"], epoch["valid"], epoch["seconds"], judging)

    def _make_record(self, failure: str | None) -> RetrainingRecord:
        """Return all that is known of the retraining: the export's provenance."""
        context, model, curve = self.context, self.progress.model, self.progress.curve
        run, spec, images, evaluator = context.run, context.spec, context.images, context.evaluator
        best = self.progress.best_epoch()
        trial = read_trial(context, self.number)
        diagnosis = GanDiagnosis(None if evaluator is None else evaluator.floor, prunes=False)
        verdict = diagnosis.final(health_of_curve(curve)) if evaluator is not None else None
        ended_by = PATIENCE if self.progress.is_out_of_patience() else MOST_EPOCHS
        return RetrainingRecord(
            study=run.study,
            token=run.token,
            study_file=run.name,
            trial=self.number,
            repeat=self.repeat,
            horizon=self.progress.horizon(),
            trial_value=None if trial.values is None else trial.values[0],
            parameters=self.progress.parameters,
            starts_from=None if run.base_folder is None else describe_base(run.base_folder),
            config=model.config.sealed(),
            model=type(model).__name__,
            model_parameters=parameter_count(model),
            data=images.name,
            images={part: len(getattr(images, part)) for part in ("train", "valid", "test")},
            pixels=images.fingerprint,
            metric=spec.quality,
            direction=spec.goals[0].direction,
            seed=self.progress.seed,
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
            steps=self.progress.steps.to_plain() if self.progress.steps.at else None,
            seconds=round(sum(epoch["seconds"] for epoch in curve), 1),
            device=context.device_name,
            revision=run.revision,
            baseline=measure_baseline(model, images, spec.quality, "valid"),
            remarks=run.remarks,
            made=datetime.now(UTC).isoformat(timespec="seconds"),
        )


def _plain_epoch(result: EpochResult) -> dict[str, Any]:
    """Return an epoch as the record keeps it, without the measures of single steps."""
    plain = asdict(result)
    del plain["sampled"]
    return plain
