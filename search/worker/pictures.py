"""How a model learned: rows of samples while it trains, and what is drawn at the end.

After every epoch a row of samples of the same noise is kept beside the checkpoint, so that an
interrupted training keeps those of its epochs. At its end stand

    game.png       losses, accuracies, quality of the samples and verdicts over the epochs
    learned.png    the rows under each other; learned.gif, of a retraining: one after the other

with a trial in the dashboard, after what the model makes in the end, and in an export. A full disk
costs rows and pictures, no training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from optuna.trial import Trial

from models.base import Model, evaluating
from models.evaluation.gan_diagnosis import Health
from models.evaluation.gan_figure import draw_game
from models.figures.sample_history import COLUMNS, draw_learned, write_animation, write_row
from models.training.loop import EpochResult
from search.study import StudySpec
from search.trials import outcomes
from search.worker import diagnosis
from search.worker.context import WorkerContext, warn_once
from search.worker.progress import TrialProgress
from storage.files.artifacts import attach_to_trial
from storage.files.atomic import atomic_file

PREVIEWS = 6  # images in a trial's picture: few, so that the dashboard's thumbnail is legible
SHOWN = 10  # images in the picture of an epoch


ANIMATED = 36  # samples of a retraining's row: its animation shows them all


def keep_row(context: WorkerContext, path: Path, model: Model, count: int = COLUMNS) -> None:
    """Write what ``model`` makes of the same noise now; nothing where it makes no images of it."""
    with evaluating(model):
        images = model.fixed_samples(context.images, "valid", count)
    if images is None:
        return
    try:
        with atomic_file(path) as beside:
            write_row(beside, images)
    except OSError as error:
        warn_once(context, "rows of samples", error)


def forget_rows(rows: Mapping[int, Path], *, beyond: int = 0) -> None:
    """Remove those of epochs after ``beyond``: they are trained again, or were another study's."""
    for epoch, path in rows.items():
        if epoch > beyond:
            path.unlink(missing_ok=True)


def trial_row(context: WorkerContext, trial: Trial, epoch: int) -> Path:
    return context.run.paths.trial_row(context.run.study, trial.number, epoch)


def trial_rows(context: WorkerContext, trial: Trial) -> dict[int, Path]:
    return context.run.paths.trial_rows(context.run.study, trial.number)


def show_end(context: WorkerContext, trial: Trial, model: Model, progress: TrialProgress) -> None:
    """What the trial makes in the end, and how it got there, for the dashboard: in this order."""
    wait_for = context.queue.retry.wait_for
    wait_for(lambda: picture(context, trial, model, progress))
    wait_for(lambda: _show_game(context, trial, progress, progress.history))
    wait_for(lambda: _show_learned(context, trial, progress))


def show_broken(context: WorkerContext, trial: Trial, progress: TrialProgress, epoch: int) -> None:
    """As `show_end`, of a trial that left the finite numbers in ``epoch``: it makes no images."""
    wait_for = context.queue.retry.wait_for
    broken = Health(epoch=epoch, loss_g=math.nan, loss_d=math.nan)
    wait_for(lambda: _show_game(context, trial, progress, [*progress.history, broken]))
    wait_for(lambda: _show_learned(context, trial, progress))


def _show_game(
    context: WorkerContext, trial: Trial, progress: TrialProgress, history: list[Health]
) -> None:
    verdict = diagnosis.final(context, history)
    if verdict is None or context.judge is None:
        return
    floor = context.judge.floor
    title = f"{context.run.study} trial {trial.number}"
    if progress.best is not None:
        title += f" · best {context.spec.metric.upper()} {progress.best:.4g}"
    title += f" · {verdict.words}"
    show(context, trial, progress, "game.png", lambda path: draw_game(path, history, floor, title))


def _show_learned(context: WorkerContext, trial: Trial, progress: TrialProgress) -> None:
    rows = trial_rows(context, trial)
    if rows:
        title = f"{context.run.study} trial {trial.number}"
        show(context, trial, progress, "learned.png", lambda path: draw_learned(path, rows, title))


def draw_training(
    context: WorkerContext, record: dict[str, Any], folder: Path, title: str
) -> dict[str, str]:
    """The same of a retraining, into its export's ``folder``; file -> caption."""
    captions = {}
    if record.get("judge") is not None:
        history = diagnosis.of_curve(record["curve"])
        words = f"{title}, retrained · kept: epoch {record['best_epoch']}"
        draw_game(folder / "game.png", history, record["judge"]["floor"], words)
        captions["game.png"] = "how the training went; coloured where it went wrong"
    rows = context.run.paths.retraining(context.run.study, record["trial"]).rows()
    rows = {epoch: path for epoch, path in rows.items() if epoch <= record["epochs"]}
    if rows:
        best = record["best_epoch"]
        draw_learned(folder / "learned.png", rows, f"{title}, retrained", best=best)
        captions["learned.png"] = "what the same noise became, epoch after epoch"
        write_animation(folder / "learned.gif", rows)
        captions["learned.gif"] = "the same, moving"
    return captions


def is_pictured(spec: StudySpec, epoch: int) -> bool:
    return spec.pictures_every is not None and epoch % spec.pictures_every == 0


def picture(
    context: WorkerContext, trial: Trial, model: Model, progress: TrialProgress, suffix: str = ""
) -> None:
    """What the model makes of validation images, for the dashboard."""
    progress.picture = None
    metric = context.spec.metric.upper()
    with evaluating(model):
        picture = model.preview(context.images, "valid", PREVIEWS)
    if picture is None:
        return
    title = f"{context.run.study} trial {trial.number}"
    if context.run.shown is None:  # else a person is to judge by the picture alone
        title += f" · best {metric} {progress.best:.5f}"
    progress.picture = show(
        context,
        trial,
        progress,
        f"{picture.name}{suffix}.png",
        lambda path: picture.draw(path, title),
    )


def show(
    context: WorkerContext,
    trial: Trial,
    progress: TrialProgress,
    name: str,
    draw: Callable[[Path], None],
) -> str | None:
    """Attach what ``draw`` writes to ``trial`` as ``name``; its id. A full disk costs it, and no
    more."""
    try:
        with TemporaryDirectory() as folder:
            path = Path(folder) / name
            with atomic_file(path) as beside:  # which names the place when that disk is full
                draw(beside)
            context.run.paths.artifacts.mkdir(parents=True, exist_ok=True)
            return attach_to_trial(context.run.paths.artifacts, trial, path)
    except OSError as error:
        progress.missing["no_picture"] = outcomes.describe_error(error)
        warn_once(context, "pictures of trials", error)
        return None


def draw_epoch(
    context: WorkerContext, path: Path, model: Model, number: int, result: EpochResult
) -> None:
    with evaluating(model):
        picture = model.preview(context.images, "valid", SHOWN)
    if picture is not None:
        value = result.valid[context.spec.metric]
        title = f"{context.run.study} trial {number}, retrained, epoch {result.number}"
        try:
            with atomic_file(path) as beside:
                picture.draw(beside, f"{title} · {context.spec.metric.upper()} {value:.5f}")
        except OSError as error:
            warn_once(context, "pictures of epochs", error)
