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
from models.errors import CheckpointError, Interrupted
from models.seeds import derive_seed
from models.training.checkpoint import checkpoint_size, load_checkpoint, read_note, save_checkpoint
from models.training.loop import EpochResult, fit
from search.setup.inputs import describe_base
from search.worker import diagnosis
from search.worker.context import Bench, go_without, make_model
from search.worker.pictures import ANIMATED, draw_epoch, forget_rows, is_pictured, keep_row
from storage.files.atomic import whole_file, write_json
from storage.paths import RetrainingPaths

log = logging.getLogger("genstudy")


def retrain(bench: Bench, number: int) -> None:
    """Train trial ``number``'s configuration until its patience ends; leave a record.

    One that fails in its first epoch leaves a record with the reason under ``failed``; one that
    diverges later keeps its best epoch.
    """
    paths = bench.run.paths.retraining(bench.run.study, number)
    paths.record.unlink(missing_ok=True)  # it speaks of weights that are about to be replaced
    seed = derive_seed(bench.run.seed, "retrain", number)
    model = _build(bench, number, seed)
    curve = _go_on(bench, paths, model)
    for picture in [] if curve else paths.pictures():
        picture.unlink()  # of an earlier training, or of a deleted study of this name
    forget_rows(paths.rows(), beyond=len(curve))
    bench.say("retraining", number=number, epochs=bench.run.retrain_epochs)
    failure = None
    try:
        _train(bench, number, seed, model, curve)
    except Interrupted:
        bench.say("released", number=number)
        return
    except Exception as error:
        if isinstance(error, OSError):
            raise
        log.error("retraining of trial %d failed\n%s", number, traceback.format_exc())
        failure = f"{type(error).__name__}: {error}"
    if not curve:
        write_json(paths.record, {"token": bench.run.token, "trial": number, "failed": failure})
        bench.say("not_retrained", number=number, reason=failure)
        return
    record = _record(bench, number, seed, model, curve, failure)
    write_json(paths.record, record)
    paths.last.unlink(missing_ok=True)
    told = {key: record[key] for key in ("epochs", "ended_by", "best_epoch")}
    bench.say("retrained", number=number, best=record["valid"][bench.spec.metric], **told)


def _train(bench: Bench, number: int, seed: int, model: Model, curve: list[dict[str, Any]]) -> None:
    """Add epochs to ``curve`` until the patience ends, keeping the best and the last one."""
    paths = bench.run.paths.retraining(bench.run.study, number)
    for result in fit(
        model,
        bench.images,
        epochs=len(curve) if _out_of_patience(bench, curve) else bench.run.retrain_epochs,
        seed=seed,
        start=len(curve),
        judge=bench.judge,
        interrupted=bench.interrupted,
    ):
        curve.append(asdict(result))
        keep_row(bench, paths.row(result.number), model, ANIMATED)
        if _best_epoch(bench, curve) == result.number:
            _keep(bench, paths.best, model, curve)
        try:
            _keep(bench, paths.last, model, curve)
        except OSError as error:
            go_without(bench, "checkpoints of retrainings", error)
        if is_pictured(bench.spec, result.number):
            draw_epoch(bench, paths.picture(result.number), model, number, result)
        _announce(bench, number, result)
        if _out_of_patience(bench, curve):
            break


def configuration(bench: Bench, number: int) -> tuple[ModelConfig, dict[str, Any]]:
    """The configuration that trial ``number`` trained, and its parameters."""
    claims = bench.claims
    trial = claims.patience.wait_for(lambda: claims.storage.get_trial(claims.id_of(number)))
    return bench.spec.suggest(FixedTrial(trial.params, number=number)), trial.params


def _build(bench: Bench, number: int, seed: int) -> Model:
    config, _ = configuration(bench, number)
    return make_model(bench, config, seed)


def _go_on(bench: Bench, paths: RetrainingPaths, model: Model) -> list[dict[str, Any]]:
    """The epochs an interrupted retraining has done; the model is brought to their end.

    The best epoch is later than the last where a full disk had no room for the last.
    """
    curves = {path: _curve(bench, path) for path in (paths.best, paths.last)}
    usable = [path for path, curve in curves.items() if 0 < len(curve) <= bench.run.retrain_epochs]
    if paths.best not in usable:
        return []
    latest = max(usable, key=lambda path: len(curves[path]))
    try:
        load_checkpoint(latest, model)
    except CheckpointError:
        return []
    return curves[latest]


def _curve(bench: Bench, path: Path) -> list[dict[str, Any]]:
    """The epochs that stand in a checkpoint of this study; none where there is no such file."""
    try:
        note = read_note(path)
    except CheckpointError:
        return []
    return list(note["curve"]) if note.get("token") == bench.run.token else []


def _keep(bench: Bench, path: Path, model: Model, curve: list[dict[str, Any]]) -> None:
    with whole_file(path, needs=checkpoint_size(model)) as beside:
        note = {"curve": curve, "token": bench.run.token}
        save_checkpoint(beside, model, epoch=len(curve), note=note)


def _best_epoch(bench: Bench, curve: list[dict[str, Any]]) -> int:
    values = [epoch["valid"][bench.spec.metric] for epoch in curve]
    best = min(values) if bench.spec.direction == "minimize" else max(values)
    return values.index(best) + 1


def _out_of_patience(bench: Bench, curve: list[dict[str, Any]]) -> bool:
    return bool(curve) and len(curve) - _best_epoch(bench, curve) >= bench.spec.patience


def _announce(bench: Bench, number: int, result: EpochResult) -> None:
    bench.say(
        "epoch",
        number=number,
        epoch=result.number,
        epochs=bench.run.retrain_epochs,
        value=result.valid[bench.spec.metric],
        seconds=result.seconds,
        retraining=True,
    )


def _record(
    bench: Bench,
    number: int,
    seed: int,
    model: Model,
    curve: list[dict[str, Any]],
    failure: str | None,
) -> dict[str, Any]:
    """All that is known of a retraining, as plain values: the export's provenance."""
    _, parameters = configuration(bench, number)
    best = _best_epoch(bench, curve)
    trial = bench.claims.storage.get_trial(bench.claims.id_of(number))
    return {
        "study": bench.run.study,
        "token": bench.run.token,
        "study_file": bench.run.name,
        "trial": number,
        "trial_value": trial.value,
        "parameters": parameters,
        "starts_from": bench.run.base_folder and describe_base(bench.run.base_folder),
        "config": asdict(model.config),
        "model": type(model).__name__,
        "model_parameters": parameter_count(model),
        "data": bench.images.name,
        "images": {part: len(getattr(bench.images, part)) for part in ("train", "valid", "test")},
        "pixels": bench.images.fingerprint,
        "metric": bench.spec.metric,
        "direction": bench.spec.direction,
        "seed": seed,
        "study_seed": bench.run.seed,
        "epochs": len(curve),
        "most_epochs": bench.run.retrain_epochs,
        "patience": bench.spec.patience,
        "ended_by": failure or ("patience" if _out_of_patience(bench, curve) else "most epochs"),
        "best_epoch": best,
        "valid": curve[best - 1]["valid"],
        "judge": None if bench.judge is None else bench.judge.record,
        "verdict": diagnosis.told(diagnosis.final(bench, diagnosis.of_curve(curve))),
        "test": None,
        "tables": [],
        "curve": curve,
        "seconds": round(sum(epoch["seconds"] for epoch in curve), 1),
        "device": bench.device_name,
        "revision": bench.run.revision,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
    }
