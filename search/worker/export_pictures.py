"""The pictures of an export: its training, the model's own, what became of the same noise.

captions = draw_pictures(context, model, record, folder)      # file -> caption
"""

from __future__ import annotations

import shutil
from pathlib import Path

from models.base import Model, evaluating
from models.evaluation.gan_figure import draw_game
from models.evaluation.step_losses import draw_step_losses
from models.figures.curves import draw_learning_curve
from models.figures.sample_history import draw_learned, write_animation
from models.results import file_stem
from models.training.step_curve import StepCurve
from search.events import Drawing
from search.trials.retraining_record import RetrainingRecord
from search.worker.context import WorkerContext
from search.worker.diagnosis import health_of_curve
from search.worker.pictures import without_picture


def draw_pictures(
    context: WorkerContext, model: Model, record: RetrainingRecord, folder: Path
) -> dict[str, str]:
    """Draw learning curves, the model's own pictures and its training; returns file -> caption."""
    title = f"{record.study} trial {record.trial}"
    captions = _draw_curves(record, folder, f"{title}, retrained")
    part = "valid" if record.test is None else "test"
    # a disk that is full is said of the export as a whole, and one of them is enough
    with (
        without_picture(context, what="pictures of exports", unless=(OSError,)),
        evaluating(model),
    ):
        for picture in model.pictures(context.images, part):
            context.send(Drawing(number=record.trial, what=picture.name))
            with without_picture(context, what="pictures of exports", unless=(OSError,)):
                picture.draw(folder / picture.file, title)
                captions[picture.file] = picture.caption
            if picture.file not in captions:
                (folder / picture.file).unlink(missing_ok=True)
    captions |= draw_training(context, record, folder, title)
    paths = context.retraining_paths(record.trial, record.repeat)
    for epoch in range(1, record.best_epoch + 1):
        if paths.picture(epoch).exists():
            shutil.copy(paths.picture(epoch), folder / f"epoch_{epoch:03}.png")
            captions[f"epoch_{epoch:03}.png"] = f"after epoch {epoch}"
    return captions


def _draw_curves(record: RetrainingRecord, folder: Path, title: str) -> dict[str, str]:
    """Draw a picture for each metric that was measured on both parts, the study's first.

    Of a GAN the study's alone: `draw_training` shows the others. Returns file -> caption.
    """
    chosen, first = record.metric, record.curve[0]
    others = [name for name in first["valid"] if name in first["train"] and name != chosen]
    if record.judge is not None and "loss_d" in first["train"]:
        others = []
    captions = {}
    for metric in (chosen, *others):
        suffix = "" if metric == chosen else f"_{file_stem(metric)}"
        file = f"learning_curve{suffix}.png"
        draw_learning_curve(
            folder / file,
            {
                name: [epoch[part][metric] for epoch in record.curve]
                for part, name in (("train", "train"), ("valid", "validation"))
                if metric in first[part]
            },
            metric=metric,
            title=title,
            best_epoch=record.best_epoch,
        )
        captions[file] = f"{metric} over the epochs"
    return captions


def draw_training(
    context: WorkerContext, record: RetrainingRecord, folder: Path, title: str
) -> dict[str, str]:
    """Draw how a GAN's training went and what the same noise became; returns file -> caption."""
    captions = {}
    if record.judge is not None:
        history = health_of_curve(record.curve)
        words = f"{title}, retrained · kept: epoch {record.best_epoch}"
        draw_game(folder / "game.png", history, record.judge["floor"], words)
        captions["game.png"] = "how the training went; coloured where it went wrong"
    if record.steps is not None:
        steps = StepCurve.from_plain(record.steps)
        draw_step_losses(folder / "losses.png", steps, f"{title}, retrained · single steps")
        captions["losses.png"] = "the losses of G and D in single steps, and their running means"
    rows = context.retraining_paths(record.trial, record.repeat).rows()
    rows = {epoch: path for epoch, path in rows.items() if epoch <= record.epochs}
    if rows:
        best = record.best_epoch
        draw_learned(folder / "learned.png", rows, f"{title}, retrained", best=best)
        captions["learned.png"] = "what the same noise became, epoch after epoch"
        write_animation(folder / "learned.gif", rows)
        captions["learned.gif"] = "the same, moving"
    return captions
