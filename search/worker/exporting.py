"""What an export shows: the winner's numbers on the test images, and pictures.

The test images are met once, by the first rank: metrics and the model's own tables.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from models.base import Model, evaluating
from models.data.images import STACKED
from models.evaluation.quality_table import Judged, quality_table
from models.export import check_export, export_size, write_export
from models.figures.curves import draw_learning_curve
from models.training.checkpoint import load_weights
from models.training.loop import evaluate
from search.worker.context import WorkerContext
from search.worker.evaluator import test_judge
from search.worker.pictures import draw_training
from search.worker.retraining import _build
from storage.files.artifacts import show_with_study
from storage.files.atomic import write_json
from storage.files.exports import atomic_folder, publish


def judge(context: WorkerContext, model: Model, record: dict[str, Any]) -> None:
    """The test images, met once: metrics, and the tables that the model has to show."""
    number = record["trial"]
    with evaluating(model):
        tables = model.tables(
            context.images, lambda what: context.say("judging", number=number, what=what)
        )
        record["tables"] = [table.to_plain() for table in tables]
    record["test"] = evaluate(model, context.images.test)
    if context.judge is not None:
        context.say("judging", number=number, what="samples beside the test images")
        judge = test_judge(context)
        record["test"] |= judge.measure_model(model, context.images)
        record["test_judge"] = judge.record


def draw(
    context: WorkerContext, model: Model, record: dict[str, Any], folder: Path
) -> dict[str, str]:
    """Learning curves and the model's own pictures; file -> caption."""
    title = f"{record['study']} trial {record['trial']}"
    captions = _draw_curves(record, folder, f"{title}, retrained")
    part = "valid" if record["test"] is None else "test"
    with evaluating(model):
        for picture in model.pictures(context.images, part):
            context.say("drawing", number=record["trial"], what=picture.name)
            picture.draw(folder / picture.file, title)
            captions[picture.file] = picture.caption
    captions |= draw_training(context, record, folder, title)
    paths = context.run.paths.retraining(context.run.study, record["trial"])
    for epoch in range(1, record["best_epoch"] + 1):
        if paths.picture(epoch).exists():
            shutil.copy(paths.picture(epoch), folder / f"epoch_{epoch:03}.png")
            captions[f"epoch_{epoch:03}.png"] = f"after epoch {epoch}"
    return captions


def tables(context: WorkerContext, model: Model, record: dict[str, Any]) -> list[dict[str, Any]]:
    """Of an export's model card: how good its samples are, and what the model has to show."""
    judged = []
    for part, measured, judge in (
        ("validation", "valid", "judge"),
        ("test", "test", "test_judge"),
    ):
        if record.get(judge) is not None:
            judged.append(Judged(part=part, measured=record[measured], record=record[judge]))
    quality = [quality_table(*judged).to_plain()] if judged else []
    if context.judge is not None and context.images.name == STACKED:
        from models.evaluation.mode_table import (
            mode_table,  # with all that judges, which others do not need
        )

        quality.append(mode_table(model, context.judge, context.images).to_plain())
    return [*quality, *record["tables"]]


def show_winner(context: WorkerContext, pictures: list[Path]) -> None:
    """The winner's pictures become the study's in the dashboard: its trial takes no more."""
    queue, run = context.queue, context.run
    queue.retry.wait_for(
        lambda: show_with_study(
            run.paths.artifacts, queue.storage, queue.study_id, run.token, pictures
        )
    )


def _draw_curves(record: dict[str, Any], folder: Path, title: str) -> dict[str, str]:
    """One picture a metric that was measured on both parts, the study's first; of a game that
    one alone: a picture of its own shows the others."""
    chosen = record["metric"]
    measured = record["curve"][0]
    others = [name for name in measured["valid"] if name in measured["train"] and name != chosen]
    if record.get("judge") is not None and "loss_d" in measured["train"]:
        others = []
    captions = {}
    for metric in (chosen, *others):
        file = "learning_curve.png" if metric == chosen else f"learning_curve_{metric}.png"
        draw_learning_curve(
            folder / file,
            {
                name: [epoch[part][metric] for epoch in record["curve"]]
                for part, name in (("train", "train"), ("valid", "validation"))
                if metric in measured[part]
            },
            metric=metric,
            title=title,
            best_epoch=record["best_epoch"],
        )
        captions[file] = f"{metric} over the epochs"
    return captions


def export(context: WorkerContext, number: int, rank: int) -> None:
    """Write trial ``number`` as ``rank``, checked against the live model; rank 1 is judged."""
    context.say("exporting", number=number)
    paths = context.run.paths.retraining(context.run.study, number)
    record = json.loads(paths.record.read_text())
    model = load_weights(paths.best, _build(context, number, record["seed"]))
    if rank == 1 and record["test"] is None:
        judge(context, model, record)
        write_json(paths.record, record)
    folder = context.run.paths.export(context.run.study, rank)
    with atomic_folder(folder, needs=export_size(model)) as staging:
        write_export(model, staging)
        made: dict[str, Any] = {"rank": rank, "usage": model.usage}
        made["output_differences"] = check_export(model, staging)
        made["tables"] = tables(context, model, record)
        made["pictures"] = draw(context, model, record, staging)
        publish(staging, {**record, **made})
        if rank == 1:  # before the folder has its name: a run that is killed here comes back
            show_winner(context, [staging / file for file in made["pictures"]])
    context.say("exported", number=number, rank=rank, folder=str(folder), record=_summary(record))


def _summary(record: dict[str, Any]) -> dict[str, Any]:
    return {key: record[key] for key in ("trial", "epochs", "valid", "test", "metric")}
