"""The best configurations: retrained with patience, judged once, exported.

`retrain` trains one configuration afresh, with a seed of its own, on the
training split until the validation value has not improved for the study's
patience. `export` writes it out. Only the first rank meets the test set, once:
its record is kept, and a run that finds it does not look again.

Both run in workers; `search/supervisor/loop.py` hands them out and sets the ranks.
"""

from __future__ import annotations

import logging
import traceback
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from optuna.trial import FixedTrial

from models.base import Model, ModelConfig, parameter_count
from models.errors import CheckpointError, StopRequested
from models.seeds import derive_seed
from models.training.checkpoint import checkpoint_size, load_checkpoint, read_note, save_checkpoint
from models.training.loop import EpochResult, fit
from search.setup.inputs import describe_base
from search.worker import diagnosis
from search.worker.context import WorkerContext, make_model, warn_once
from search.worker.pictures import ANIMATED, draw_epoch, forget_rows, is_pictured, keep_row
from storage.files.atomic import atomic_file, write_json
from storage.paths import RetrainingPaths

log = logging.getLogger("genstudy")


def retrain(context: WorkerContext, number: int) -> None:
    """Train trial ``number``'s configuration until its patience ends; leave a record.

    One that fails in its first epoch leaves a record with the reason under ``failed``; one that
    diverges later keeps its best epoch.
    """
    paths = context.run.paths.retraining(context.run.study, number)
    paths.record.unlink(missing_ok=True)  # it speaks of weights that are about to be replaced
    seed = derive_seed(context.run.seed, "retrain", number)
    model = _build(context, number, seed)
    curve = _go_on(context, paths, model)
    for picture in [] if curve else paths.pictures():
        picture.unlink()  # of an earlier training, or of a deleted study of this name
    forget_rows(paths.rows(), beyond=len(curve))
    context.say("retraining", number=number, epochs=context.run.retrain_epochs)
    failure = None
    try:
        _train(context, number, seed, model, curve)
    except StopRequested:
        context.say("released", number=number)
        return
    except Exception as error:
        if isinstance(error, OSError):
            raise
        log.error("retraining of trial %d failed\n%s", number, traceback.format_exc())
        failure = f"{type(error).__name__}: {error}"
    if not curve:
        write_json(paths.record, {"token": context.run.token, "trial": number, "failed": failure})
        context.say("not_retrained", number=number, reason=failure)
        return
    record = _record(context, number, seed, model, curve, failure)
    write_json(paths.record, record)
    paths.last.unlink(missing_ok=True)
    told = {key: record[key] for key in ("epochs", "ended_by", "best_epoch")}
    context.say("retrained", number=number, best=record["valid"][context.spec.metric], **told)


def _train(
    context: WorkerContext, number: int, seed: int, model: Model, curve: list[dict[str, Any]]
) -> None:
    """Add epochs to ``curve`` until the patience ends, keeping the best and the last one."""
    paths = context.run.paths.retraining(context.run.study, number)
    for result in fit(
        model,
        context.images,
        epochs=len(curve) if _out_of_patience(context, curve) else context.run.retrain_epochs,
        seed=seed,
        start=len(curve),
        judge=context.judge,
        interrupted=context.interrupted,
    ):
        curve.append(asdict(result))
        keep_row(context, paths.row(result.number), model, ANIMATED)
        if _best_epoch(context, curve) == result.number:
            _keep(context, paths.best, model, curve)
        try:
            _keep(context, paths.last, model, curve)
        except OSError as error:
            warn_once(context, "checkpoints of retrainings", error)
        if is_pictured(context.spec, result.number):
            draw_epoch(context, paths.picture(result.number), model, number, result)
        _announce(context, number, result)
        if _out_of_patience(context, curve):
            break


def configuration(context: WorkerContext, number: int) -> tuple[ModelConfig, dict[str, Any]]:
    """The configuration that trial ``number`` trained, and its parameters."""
    queue = context.queue
    trial = queue.retry.wait_for(lambda: queue.storage.get_trial(queue.id_of(number)))
    return context.spec.suggest(FixedTrial(trial.params, number=number)), trial.params


def _build(context: WorkerContext, number: int, seed: int) -> Model:
    config, _ = configuration(context, number)
    return make_model(context, config, seed)


def _go_on(context: WorkerContext, paths: RetrainingPaths, model: Model) -> list[dict[str, Any]]:
    """The epochs an interrupted retraining has done; the model is brought to their end.

    The best epoch is later than the last where a full disk had no room for the last.
    """
    curves = {path: _curve(context, path) for path in (paths.best, paths.last)}
    usable = [
        path for path, curve in curves.items() if 0 < len(curve) <= context.run.retrain_epochs
    ]
    if paths.best not in usable:
        return []
    latest = max(usable, key=lambda path: len(curves[path]))
    try:
        load_checkpoint(latest, model)
    except CheckpointError:
        return []
    return curves[latest]


def _curve(context: WorkerContext, path: Path) -> list[dict[str, Any]]:
    """The epochs that stand in a checkpoint of this study; none where there is no such file."""
    try:
        note = read_note(path)
    except CheckpointError:
        return []
    return list(note["curve"]) if note.get("token") == context.run.token else []


def _keep(context: WorkerContext, path: Path, model: Model, curve: list[dict[str, Any]]) -> None:
    with atomic_file(path, needs=checkpoint_size(model)) as beside:
        note = {"curve": curve, "token": context.run.token}
        save_checkpoint(beside, model, epoch=len(curve), note=note)


def _best_epoch(context: WorkerContext, curve: list[dict[str, Any]]) -> int:
    values = [epoch["valid"][context.spec.metric] for epoch in curve]
    best = min(values) if context.spec.direction == "minimize" else max(values)
    return values.index(best) + 1


def _out_of_patience(context: WorkerContext, curve: list[dict[str, Any]]) -> bool:
    return bool(curve) and len(curve) - _best_epoch(context, curve) >= context.spec.patience


def _announce(context: WorkerContext, number: int, result: EpochResult) -> None:
    context.say(
        "epoch",
        number=number,
        epoch=result.number,
        epochs=context.run.retrain_epochs,
        value=result.valid[context.spec.metric],
        seconds=result.seconds,
        retraining=True,
    )


def _record(
    context: WorkerContext,
    number: int,
    seed: int,
    model: Model,
    curve: list[dict[str, Any]],
    failure: str | None,
) -> dict[str, Any]:
    """All that is known of a retraining, as plain values: the export's provenance."""
    _, parameters = configuration(context, number)
    best = _best_epoch(context, curve)
    trial = context.queue.storage.get_trial(context.queue.id_of(number))
    return {
        "study": context.run.study,
        "token": context.run.token,
        "study_file": context.run.name,
        "trial": number,
        "trial_value": trial.value,
        "parameters": parameters,
        "starts_from": context.run.base_folder and describe_base(context.run.base_folder),
        "config": asdict(model.config),
        "model": type(model).__name__,
        "model_parameters": parameter_count(model),
        "data": context.images.name,
        "images": {part: len(getattr(context.images, part)) for part in ("train", "valid", "test")},
        "pixels": context.images.fingerprint,
        "metric": context.spec.metric,
        "direction": context.spec.direction,
        "seed": seed,
        "study_seed": context.run.seed,
        "epochs": len(curve),
        "most_epochs": context.run.retrain_epochs,
        "patience": context.spec.patience,
        "ended_by": failure or ("patience" if _out_of_patience(context, curve) else "most epochs"),
        "best_epoch": best,
        "valid": curve[best - 1]["valid"],
        "judge": None if context.judge is None else context.judge.record,
        "verdict": diagnosis.told(diagnosis.final(context, diagnosis.of_curve(curve))),
        "test": None,
        "tables": [],
        "curve": curve,
        "seconds": round(sum(epoch["seconds"] for epoch in curve), 1),
        "device": context.device_name,
        "revision": context.run.revision,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
    }
