"""What a running trial shows in the dashboard, and the rows of samples for its pictures.

After every epoch a row of samples of the same noise is kept beside the checkpoint, so that an
interrupted training keeps the rows of its epochs. At its end a trial has these pictures, in this
order:

    reconstructions.png, ...    what the model does with validation images: its own preview
    game.png                    losses, accuracies, quality and verdicts over a GAN's epochs
    losses.png, losses.csv      losses of single steps, drawn and as numbers
    learned.png                 the rows, one under the other

Neither a full disk nor an error in drawing stops a training: it goes on without rows and pictures.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from optuna.trial import Trial

from models.base import Model, evaluating
from models.evaluation.gan_diagnosis import Health, Verdict
from models.evaluation.gan_figure import draw_game
from models.evaluation.step_losses import draw_step_losses
from models.figures.sample_history import COLUMNS, draw_learned, write_row
from models.results import file_stem
from search.events import Pictured
from search.study import StudySpec
from search.trials.outcomes import describe_error, is_out_of_memory
from search.worker.context import WorkerContext
from search.worker.interruptions import is_interruption
from search.worker.progress import TrialProgress
from storage.files.artifacts import artifact_address, attach_to_trial
from storage.files.atomic import atomic_file, temporary_folder

PREVIEWS = 6  # images in a trial's picture: few, so that the dashboard's thumbnail is legible
log = logging.getLogger("genstudy")


class TrialPictures:
    """The pictures of one trial.

    progress: how far it is, and what it measured
    latest: id of the last preview that was attached; None: there is none
    shown: name -> address in the dashboard, of the pictures that its note shows
    missing: where ``no_picture`` is noted when one could not be written
    """

    def __init__(
        self,
        context: WorkerContext,
        trial: Trial,
        progress: TrialProgress,
        missing: dict[str, str],
    ) -> None:
        self.context = context
        self.trial = trial
        self.progress = progress
        self.missing = missing
        self.latest: str | None = None
        self.shown: dict[str, str] = {}
        self.title = f"{context.run.study} trial {trial.number}"

    def keep_row(self, epoch: int, model: Model) -> None:
        """Keep what ``model`` makes of the same noise after ``epoch``."""
        run = self.context.run
        keep_row(self.context, run.paths.trial_row(run.study, self.trial.number, epoch), model)

    def rows(self) -> dict[int, Path]:
        """Return the stored rows, by epoch."""
        run = self.context.run
        return run.paths.trial_rows(run.study, self.trial.number)

    def share_rows(self, epoch: int) -> None:
        """Copy the rows to FILES, where the trial may go on elsewhere. Raises `TrialLost`."""
        rows, copies = self.rows(), self.context.copies_of_trial(self.trial, "-rows")
        if rows and copies is not None:
            copies.keep_all(list(rows.values()), epoch=epoch)

    def bring_rows(self) -> None:
        """Bring the rows of an attempt on another machine."""
        run, copies = self.context.run, self.context.copies_of_trial(self.trial, "-rows")
        if copies is not None:
            copies.bring_all(run.paths.checkpoints(run.study))

    def forget_copies(self) -> None:
        """Remove the rows in FILES: the trial has ended."""
        copies = self.context.copies_of_trial(self.trial, "-rows")
        if copies is not None:
            copies.forget()

    def forget_rows(self, *, beyond: int = 0) -> None:
        """Remove the rows of epochs after ``beyond``."""
        forget_rows(self.rows(), beyond=beyond)

    def show_preview(self, model: Model, *, is_last: bool = False) -> None:
        """Attach what the model does with validation images.

        is_last: the picture stays; otherwise that of a later epoch replaces it
        """
        self.latest = preview = None
        with without_picture(self.context, self.missing), evaluating(model):
            preview = model.preview(self.context.images, "valid", PREVIEWS)
        if preview is None:
            return
        title, draw = self.title, preview.draw
        if self.context.run.shown is None:  # else a person is to choose by the picture alone
            title += f" · best {self.context.spec.quality} {self.progress.best:.4g}"
        suffix = "" if is_last else f"-epoch-{self.progress.epoch:03}"
        name = f"{file_stem(preview.name)}{suffix}.png"
        self.latest = self._attach(name, lambda path: draw(path, title))

    def show_end(self, model: Model, verdict: Verdict | None) -> None:
        """Attach what the model does at its end, and how its training went."""
        self._wait_for(lambda: self.show_preview(model, is_last=True))
        history = self.progress.diagnosis.history
        self._wait_for(lambda: self._show_health(history, verdict))
        self._wait_for(self._show_steps)
        self._wait_for(self._show_rows)

    def show_broken(self, epoch: int) -> None:
        """Attach how a training went until ``epoch``, in which it diverged."""
        broken = Health(epoch=epoch, loss_g=math.nan, loss_d=math.nan)
        diagnosis = self.progress.diagnosis
        history = [*diagnosis.history, broken]
        verdict = diagnosis.final(history)
        self._wait_for(lambda: self._show_health(history, verdict))
        self._wait_for(self._show_steps)
        self._wait_for(self._show_rows)

    def _show_health(self, history: Sequence[Health], verdict: Verdict | None) -> None:
        floor, best = self.progress.diagnosis.floor, self.progress.best
        if verdict is None or floor is None:
            return
        title = self.title
        if best is not None:
            title += f" · best {self.context.spec.quality} {best:.4g}"
        title += f" · {verdict.words}"
        self._attach("game.png", lambda path: draw_game(path, history, floor, title))

    def _show_steps(self) -> None:
        """Attach what single steps measured, as a picture and as numbers."""
        steps = self.progress.steps
        if steps.at:
            title = f"{self.title} · losses of single steps"
            self._attach("losses.png", lambda path: draw_step_losses(path, steps, title))
            self._attach("losses.csv", lambda path: steps.write(path))

    def _show_rows(self) -> None:
        rows = self.rows()
        if rows:
            self._attach("learned.png", lambda path: draw_learned(path, rows, self.title))

    def _attach(self, name: str, draw: Callable[[Path], None]) -> str | None:
        """Attach what ``draw`` writes as ``name``; returns its id, None where that fails."""
        artifacts, attached = self.context.run.paths.artifacts, None
        with (
            without_picture(self.context, self.missing),
            temporary_folder(artifacts) as folder,
        ):
            path = folder / name
            with atomic_file(path) as beside:  # names the place where that disk is full
                draw(beside)
            attached = attach_to_trial(artifacts, self.trial, path)
            self._note(name, attached)
            self.context.share_picture(self.trial, attached)
            self._announce(name, artifacts / attached)
        return attached

    def _announce(self, name: str, path: Path) -> None:
        """Tell the supervisor of a picture, under a name that is the same for each epoch."""
        if name.endswith(".png"):
            series, number = name.removesuffix(".png").partition("-epoch-")[0], self.trial.number
            epoch = self.progress.epoch
            self.context.send(Pictured(number=number, epoch=epoch, name=series, path=str(path)))

    def _note(self, name: str, artifact: str) -> None:
        """Keep where a picture is shown; one of a later epoch takes the place of earlier ones."""
        earlier = [other for other in self.shown if "-epoch-" in other]
        for other in earlier:
            del self.shown[other]
        if not name.endswith(".png"):
            return
        queue = self.context.queue
        self.shown[name] = artifact_address(queue.study_id, self.trial._trial_id, artifact)

    def _wait_for(self, call: Callable[[], None]) -> None:
        self.context.queue.retry.wait_for(call)


@contextmanager
def without_picture(
    context: WorkerContext,
    missing: dict[str, str] | None = None,
    *,
    what: str = "pictures of trials",
    unless: tuple[type[Exception], ...] = (),
) -> Iterator[None]:
    """Go on if a picture cannot be drawn or written, and say so once.

    missing: where ``no_picture`` is noted; what: is left out; unless: errors that are raised
    """
    try:
        yield
    except Exception as error:
        if is_interruption(error) or isinstance(error, unless) or is_out_of_memory(error):
            raise
        if not isinstance(error, OSError):
            log.exception("an error in drawing: %s", what)
        if missing is not None:
            missing["no_picture"] = describe_error(error)
        context.warn_once(what, error)


def keep_row(context: WorkerContext, path: Path, model: Model, count: int = COLUMNS) -> None:
    """Write ``count`` images that ``model`` makes of the same noise in every epoch.

    Nothing is written for a model that makes no images of noise.
    """
    with without_picture(context, what="rows of samples"):
        with evaluating(model):
            images = model.fixed_samples(context.images, "valid", count)
        if images is not None:
            with atomic_file(path, lasting=False) as beside:
                write_row(beside, images)


def forget_rows(rows: Mapping[int, Path], *, beyond: int = 0) -> None:
    """Remove the rows of epochs after ``beyond``: they are drawn again, or are another study's."""
    for epoch, path in rows.items():
        if epoch > beyond:
            path.unlink(missing_ok=True)


def is_pictured(spec: StudySpec, epoch: int) -> bool:
    """Whether the study asks for a picture after ``epoch``."""
    return spec.pictures_every is not None and epoch % spec.pictures_every == 0
