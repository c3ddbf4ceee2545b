"""What a running trial shows in the dashboard, and the rows of samples it is drawn from.

After every epoch a row of samples of the same noise is kept beside the checkpoint, so that an
interrupted training keeps those of its epochs. At a trial's end stand, in this order,

    reconstructions.png, ...    what the model does with validation images: its own preview
    game.png                    losses, accuracies, quality and verdicts over a GAN's epochs
    learned.png                 the rows under each other

A full disk costs rows and pictures, and no training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from optuna.trial import Trial

from models.base import Model, evaluating
from models.evaluation.gan_diagnosis import Health, Verdict
from models.evaluation.gan_figure import draw_game
from models.figures.sample_history import COLUMNS, draw_learned, write_row
from search.study import StudySpec
from search.trials.outcomes import describe_error
from search.worker.context import WorkerContext
from search.worker.progress import TrialProgress
from storage.files.artifacts import attach_to_trial
from storage.files.atomic import atomic_file

PREVIEWS = 6  # images in a trial's picture: few, so that the dashboard's thumbnail is legible


class TrialPictures:
    """The pictures of one trial.

    latest: id of the last preview that was attached; None: there is none
    missing: where ``no_picture`` is noted when one could not be written
    """

    def __init__(self, context: WorkerContext, trial: Trial, missing: dict[str, str]) -> None:
        self.context = context
        self.trial = trial
        self.missing = missing
        self.latest: str | None = None
        self.title = f"{context.run.study} trial {trial.number}"

    def keep_row(self, epoch: int, model: Model) -> None:
        """Keep what ``model`` makes of the same noise after ``epoch``."""
        run = self.context.run
        keep_row(self.context, run.paths.trial_row(run.study, self.trial.number, epoch), model)

    def rows(self) -> dict[int, Path]:
        """Return the rows that are kept, by epoch."""
        run = self.context.run
        return run.paths.trial_rows(run.study, self.trial.number)

    def forget_rows(self, *, beyond: int = 0) -> None:
        """Remove the rows of epochs after ``beyond``."""
        forget_rows(self.rows(), beyond=beyond)

    def show_preview(self, model: Model, best: float | None, suffix: str = "") -> None:
        """Attach what the model does with validation images.

        best: the best value so far, for the title; suffix: of the file's name
        """
        self.latest = None
        with evaluating(model):
            preview = model.preview(self.context.images, "valid", PREVIEWS)
        if preview is None:
            return
        title = self.title
        if self.context.run.shown is None:  # else a person is to choose by the picture alone
            title += f" · best {self.context.spec.metric.upper()} {best:.5f}"
        self.latest = self._attach(
            f"{preview.name}{suffix}.png", lambda path: preview.draw(path, title)
        )

    def show_end(self, model: Model, progress: TrialProgress, verdict: Verdict | None) -> None:
        """Attach what the model does in the end, and how it got there."""
        self._wait_for(lambda: self.show_preview(model, progress.best))
        history = progress.diagnosis.history
        self._wait_for(lambda: self._show_health(progress, history, verdict))
        self._wait_for(self._show_rows)

    def show_broken(self, progress: TrialProgress, epoch: int) -> None:
        """Attach how a training got to ``epoch``, in which it left the finite numbers."""
        broken = Health(epoch=epoch, loss_g=math.nan, loss_d=math.nan)
        history = [*progress.diagnosis.history, broken]
        verdict = progress.diagnosis.final(history)
        self._wait_for(lambda: self._show_health(progress, history, verdict))
        self._wait_for(self._show_rows)

    def _show_health(
        self, progress: TrialProgress, history: Sequence[Health], verdict: Verdict | None
    ) -> None:
        floor = progress.diagnosis.floor
        if verdict is None or floor is None:
            return
        title = self.title
        if progress.best is not None:
            title += f" · best {self.context.spec.metric.upper()} {progress.best:.4g}"
        title += f" · {verdict.words}"
        self._attach("game.png", lambda path: draw_game(path, history, floor, title))

    def _show_rows(self) -> None:
        rows = self.rows()
        if rows:
            self._attach("learned.png", lambda path: draw_learned(path, rows, self.title))

    def _attach(self, name: str, draw: Callable[[Path], None]) -> str | None:
        """Attach what ``draw`` writes as ``name``; returns its id, None where the disk is full."""
        artifacts = self.context.run.paths.artifacts
        try:
            with TemporaryDirectory() as folder:
                path = Path(folder) / name
                with atomic_file(path) as beside:  # names the place where that disk is full
                    draw(beside)
                artifacts.mkdir(parents=True, exist_ok=True)
                return attach_to_trial(artifacts, self.trial, path)
        except OSError as error:
            self.missing["no_picture"] = describe_error(error)
            self.context.warn_once("pictures of trials", error)
            return None

    def _wait_for(self, call: Callable[[], None]) -> None:
        self.context.queue.retry.wait_for(call)


def keep_row(context: WorkerContext, path: Path, model: Model, count: int = COLUMNS) -> None:
    """Write ``count`` images that ``model`` makes of the same noise in every epoch.

    Nothing is written for a model that makes no images of noise.
    """
    with evaluating(model):
        images = model.fixed_samples(context.images, "valid", count)
    if images is None:
        return
    try:
        with atomic_file(path) as beside:
            write_row(beside, images)
    except OSError as error:
        context.warn_once("rows of samples", error)


def forget_rows(rows: Mapping[int, Path], *, beyond: int = 0) -> None:
    """Remove the rows of epochs after ``beyond``: they are trained again, or another study's."""
    for epoch, path in rows.items():
        if epoch > beyond:
            path.unlink(missing_ok=True)


def is_pictured(spec: StudySpec, epoch: int) -> bool:
    """Whether the study asks for a picture after ``epoch``."""
    return spec.pictures_every is not None and epoch % spec.pictures_every == 0
