"""What all jobs of a worker share: the study, its images, its trials, the device.

context = open_context(run, "cuda:0", control, owner)      # `search.worker.startup`
model = context.make_model(config, seed)
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING

from models.base import Model, ModelConfig, build
from models.data.images import ImageSplits
from models.data.watching import WatchedImages
from models.errors import ImagesChanged
from models.model_config import fit_batch
from search.console import shorten_path
from search.events import Event, Warned
from search.run import StudyRun
from search.study import StudySpec
from search.trials.files_access import FilesAccess, trial_file
from search.trials.outcomes import describe_error
from search.trials.queue import TrialQueue
from search.trials.retraining_files import PICTURES, drawn_files, share_retraining
from search.worker.evaluator import StudyEvaluators
from search.worker.shared_copies import SharedCopies
from search.worker.uploads import Uploads
from storage.database.file_records import Guard
from storage.database.job_claims import check_job
from storage.errors import FilesAway
from storage.files.shared_files import may_always
from storage.paths import RetrainingPaths

if TYPE_CHECKING:
    from optuna.trial import Trial

    from models.evaluation.sample_evaluator import SampleEvaluator

log = logging.getLogger("genstudy")


@dataclass
class WorkerContext:
    """Everything that the trials of one worker share.

    base: the exported model that every model starts from, if the study has one
    device_name: of the device, with the GPU's model
    send: tells the supervisor; interrupted: whether it wants the trial back
    evaluators: of samples; None for a study whose values are not measured on samples
    memory_before: bytes that the process took before its first trial; 0: unknown
    begun: how many attempts at trials this process has begun
    got_on: when a step, an evaluation or an epoch began, on the monotonic clock
    held: the trials that it is at
    is_steady: whether it trains as it will from now on; else it tries how many trials to fuse
    watched: the cached file from which the images are mapped; None: they lie on a GPU
    files: what every machine sees; None: RUNS is all there is
    """

    run: StudyRun
    spec: StudySpec
    queue: TrialQueue
    images: ImageSplits
    base: Model | None
    device: str
    device_name: str
    send: Callable[[Event], None]
    interrupted: Callable[[], bool]
    evaluators: StudyEvaluators | None = None
    memory_before: int = 0
    begun: int = 0
    watched: WatchedImages | None = None
    files: FilesAccess | None = None
    got_on: float = field(default_factory=time.monotonic)
    held: set[int] = field(default_factory=set)
    is_steady: bool = True

    @cached_property
    def uploads(self) -> Uploads | None:
        """What puts copies into FILES while a training goes on; None: there is no FILES."""
        return None if self.files is None else Uploads(self.files)

    @property
    def evaluator(self) -> SampleEvaluator | None:
        """The study's own evaluator of samples, by the validation images."""
        return None if self.evaluators is None else self.evaluators.own

    def make_model(self, config: ModelConfig, seed: int) -> Model:
        """Return a fresh model on the worker's device, from the study's base if it has one."""
        family = self.spec.model
        fitted = family.fitted(config, self.images)
        shown = family.images_per_epoch(fitted, self.images)
        return build(
            family,
            fit_batch(fitted, shown, least_steps=self.run.least_steps),
            self.images.shape,
            seed=seed,
            device=self.device,
            base=self.base,
        )

    def warn_once(self, what: str, error: Exception) -> None:
        """Say that ``what`` is left out: each time in the log, once to the user."""
        log.warning("without %s: %s", what, error)
        cause = str(error) if isinstance(error, OSError) else describe_error(error)
        self.send(Warned(what=what, message=f"goes on without {what}: {cause}"))

    def check_images(self) -> None:
        """Raise `ImagesChanged` if the images have changed while they were used."""
        if self.watched is None:
            return
        try:
            self.watched.check()
        except ImagesChanged as error:
            self.tell(f"{error}: they are read again, and work goes on from the last checkpoint")
            raise

    def tell(self, line: str) -> None:
        """Tell the user a line, once, and write it into the log."""
        tell_user(self.send, line)

    def get_on(self) -> None:
        """Note that a step, an evaluation or an epoch begins."""
        self.got_on = time.monotonic()

    @contextmanager
    def holding(self, number: int) -> Iterator[None]:
        """Count trial ``number`` among the trials of this process inside the block."""
        self.get_on()
        if not self.held:
            self.begin_training()
        self.held.add(number)
        try:
            yield
        finally:
            self.held.discard(number)

    def begin_training(self) -> None:
        """Forget the uploads of the training before this one."""
        if self.uploads is not None:
            self.uploads.clear()

    def copies_of_trial(self, trial: Trial, suffix: str = "") -> SharedCopies | None:
        """Return the copies of a trial's checkpoints in FILES; None: there is no FILES.

        Only the latest attempt at the trial may write them.
        suffix: of the name, for files beside the checkpoints
        """
        if self.uploads is None:
            return None
        return SharedCopies(
            uploads=self.uploads,
            name=trial_file(trial.number) + suffix,
            guard=self._guard_of_trial(trial),
            tell=self.tell,
        )

    def share_picture(self, trial: Trial, artifact: str) -> None:
        """Put a picture of a trial into FILES, while the trial goes on.

        Raises what the guard has raised at an earlier upload of this picture.
        """
        if self.uploads is not None:
            guard = self._guard_of_trial(trial)
            of = trial_file(trial.number)
            self.uploads.share(artifact, self.run.paths.artifacts, guard, of=of)

    def share_artifacts(self, artifacts: Iterable[str]) -> None:
        """Put pictures of the study into FILES, and wait until they are there."""
        if self.uploads is not None:
            for artifact in artifacts:
                self.uploads.share(artifact, self.run.paths.artifacts, may_always)
            self.uploads.wait()

    def copies_of_retraining(
        self, stem: str, claim: int | None, suffix: str
    ) -> SharedCopies | None:
        """Return the copies of a retraining's checkpoints in FILES; None: there is no FILES.

        Only the latest claim on the retraining may write them.
        """
        if self.uploads is None or claim is None:
            return None
        guard = self._guard_of(stem, claim)
        return SharedCopies(uploads=self.uploads, name=stem + suffix, guard=guard, tell=self.tell)

    def share_retraining(self, number: int, repeat: int, claim: int | None) -> None:
        """Put a retraining that has ended into FILES. Raises `JobLost`."""
        if self.files is None or self.uploads is None or claim is None:
            return
        self.uploads.wait()
        paths = self.retraining_paths(number, repeat)
        guard = self._guard_of(paths.stem, claim)
        try:
            self.files.wait_for(partial(share_retraining, paths=paths, guard=guard))
        except FilesAway as error:
            self.tell(f"{error}: the retraining stays in {shorten_path(paths.record)}")

    def share_pictures_of_retraining(self, paths: RetrainingPaths, claim: int | None) -> None:
        """Copy the pictures of a retraining's epochs to FILES. Raises `JobLost`."""
        copies = self.copies_of_retraining(paths.stem, claim, PICTURES)
        if copies is not None and (drawn := drawn_files(paths)):
            copies.keep_all(drawn, epoch=0)

    def _guard_of_trial(self, trial: Trial) -> Guard:
        storage, trial_id = self.queue.storage, trial._trial_id
        return lambda connection: storage.check_attempt(connection, trial_id)

    def _guard_of(self, stem: str, claim: int) -> Guard:
        token = self.run.token
        return lambda connection: check_job(connection, token, stem, claim)

    def retraining_paths(self, number: int, repeat: int = 1) -> RetrainingPaths:
        """Return the paths of trial ``number``'s retraining with one of its seeds."""
        return self.run.paths.retraining(self.run.study, number, repeat)


def tell_user(send: Callable[[Event], None], line: str) -> None:
    """Tell the user a line, once, and write it into the log."""
    log.warning("%s", line)
    send(Warned(what=line, message=shorten_path(line)))
