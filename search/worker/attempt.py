"""One attempt at a trial: the state that its parts share.

attempt = TrialAttempt(context, trial)
attempt.interrupted()          # another process has the trial, or the supervisor wants it back
attempt.settle_copies()        # waits until its checkpoint and pictures are in FILES
"""

from __future__ import annotations

import os
import socket
import threading
import time
from functools import cached_property
from typing import Any

from optuna.pruners import NopPruner
from optuna.trial import Trial

from models.base import Model
from models.errors import StopRequested
from models.seeds import derive_seed
from search.setup.code_digest import describe_environment
from search.trials.study_code import code_attributes
from search.trials.trial_note import TrialNote
from search.worker.checkpoints import Checkpoints
from search.worker.context import WorkerContext
from search.worker.device import TrialMemory
from search.worker.diagnosis import GanDiagnosis
from search.worker.goals import TrialGoals
from search.worker.own_time import OwnTime
from search.worker.pictures import TrialPictures
from search.worker.progress import TrialProgress
from search.worker.rungs import TrialRungs
from storage.database import leases
from storage.database.fences import TrialLost


class TrialAttempt:
    """What is known of a trial while a worker holds it."""

    def __init__(self, context: WorkerContext, trial: Trial) -> None:
        self.context = context
        self.trial = trial
        self.number = trial.number
        self.queue = context.queue
        self.seed = derive_seed(context.run.seed, "trial", trial.number)
        self.memory = TrialMemory(context.device, before=context.memory_before)
        evaluator = context.evaluator
        self.diagnosis = GanDiagnosis(
            None if evaluator is None else evaluator.floor,
            prunes=not isinstance(context.queue.study.pruner, NopPruner),
        )
        self.progress = TrialProgress(
            checkpoints=Checkpoints(
                path=context.run.paths.trial_checkpoint(context.run.study, trial.number),
                tell=context.tell,
                attempt=context.queue.attempt_at(trial),
                copies=context.copies_of_trial(trial),
            ),
            token=context.run.token,
            metric=context.spec.quality,
            is_better=context.spec.is_better,
            diagnosis=self.diagnosis,
            reported={},
        )
        self.rungs = TrialRungs(context, trial)
        self.goals = TrialGoals(context, trial)
        self.lost = threading.Event()  # set when the trial has become somebody else's
        self.missing: dict[str, str] = {}  # what could not be written, and why
        self.pictures = TrialPictures(context, trial, self.progress, self.missing)
        self.note = TrialNote(
            metric=context.spec.quality if context.run.shown is None else None,
            minimize=context.spec.minimizes,
            place=f"{context.device_name} of {socket.gethostname()}",
            pictures=self.pictures.shown,
        )
        self.own = OwnTime()
        self.is_unpromoted = False  # it pauses, and ends since nothing else is left to do
        self.earlier_seconds = 0.0  # of earlier attempts, until the checkpoint

    @cached_property
    def trains_to_the_end(self) -> bool:
        """Whether the trial neither pauses nor is pruned."""
        return self.queue.trains_to_the_end(self.trial)

    def record_start(self) -> None:
        """Write where and from what the trial runs; after an interruption, where it ran last."""
        about = {
            "device": self.context.device_name,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "seed": self.seed,
            "revision": self.context.run.revision,
            **code_attributes(
                self.trial.user_attrs, self.context.run.version, describe_environment()
            ),
        }
        if self.context.evaluators is not None:
            about |= self.context.evaluators.trial_attributes()
        self.queue.set_attributes(self.trial, about)

    def identify(self, model: Model) -> dict[str, Any]:
        """Return what the checkpoints of this trial belong to."""
        return {
            "kind of file": "trial",
            "study": self.context.run.token,
            "trial": self.number,
            "parameters": self.trial.params,
            "configuration": model.config.sealed(),
            "seed": self.seed,
        }

    def interrupted(self) -> bool:
        """Whether another process has taken the trial, or the supervisor wants it back."""
        return self.lost.is_set() or self.context.interrupted()

    def is_stuck(self) -> bool:
        """Whether this worker stands still, at this trial or another: its leases are to expire."""
        return time.monotonic() - self.context.got_on > leases.STUCK

    def write_reports(self) -> None:
        """Report the epochs that could not be reported while the database was away."""
        while self.progress.unwritten:
            self.queue.report(self.trial, self.progress.unwritten[0])
            del self.progress.unwritten[0]

    def settle_copies(self) -> None:
        """Wait for the last checkpoint in FILES. Raises `StopRequested` if another attempt has the
        trial."""
        copies = self.progress.checkpoints.copies
        if copies is None:
            return
        try:
            copies.settle_own()
        except TrialLost as error:
            self.lost.set()
            raise StopRequested from error
