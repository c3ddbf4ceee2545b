"""A worker starts: it loads the study, the images and the database once, for all its jobs.

context = open_context(run, "cuda:0", control, owner)
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Protocol

from search.errors import StudyChanged
from search.events import Event, Preparing
from search.run import StudyRun
from search.setup.inputs import open_base
from search.setup.loading import load_study
from search.setup.stored_study import check_unchanged, read_identity
from search.setup.study_files import digest_rooms
from search.setup.warm import Warm, read_warm, remembered_warm
from search.strategies.pruners import make_pruner
from search.strategies.samplers import make_sampler
from search.strategies.stopping import with_stop
from search.strategies.warm import with_warm
from search.study import Study
from search.trials.files_access import open_files
from search.trials.next_trial import Drawing
from search.trials.owner import hold_mark
from search.trials.queue import TrialQueue, open_queue
from search.worker.context import WorkerContext, tell_user
from search.worker.device import forget_peak, taken_memory, use_device
from search.worker.evaluator import StudyEvaluators
from search.worker.fusing_choice import may_train_together
from search.worker.images import open_run_images
from storage.database.retry import DatabaseRetry

if TYPE_CHECKING:
    import optuna


class Supervision(Protocol):
    """A worker's connection to its supervisor: `search.worker.control.Control`."""

    def send(self, event: Event) -> None: ...

    def interrupted(self) -> bool: ...

    def warn_of_database(self, message: str) -> None: ...


def open_context(run: StudyRun, device: str, control: Supervision, owner: str) -> WorkerContext:
    """Load the study, its images and its database for all jobs of this process.

    owner: the name of this process in leases
    Raises `GaveUp` and `StopRequested` if the supervisor ends it before that is done.
    """
    if run.code and run.code != digest_rooms():
        raise StudyChanged(
            "genstudy's own files have changed since this run began, by an update or an edit: its "
            "workers would not compute alike; the same command goes on with the new files"
        )
    study = load_study(run.name, sources=run.sources)
    hold_mark(owner)
    queue = _open_queue(run, study, control, owner)
    files = open_files(run, queue, control.interrupted, partial(tell_user, control.send))
    mapped, watched = open_run_images(run, partial(tell_user, control.send))
    images = mapped.to(device)
    fuses = may_train_together(run.fuse, study.spec.model, device)
    device_name = use_device(device, fuses=fuses)
    evaluators = None
    if study.spec.judges_samples:
        evaluators = StudyEvaluators(
            run,
            images,
            queue,
            encoder=open_base(run.encoder_folder),
            labelled=study.spec.model.labelled,
            say=lambda line: control.send(Preparing(line=line)),
            tell=partial(tell_user, control.send),
            interrupted=control.interrupted,
        )
    watched.check()  # all that was made of them until now
    forget_peak(device)  # of what an extractor took to train
    return WorkerContext(
        run=run,
        spec=study.spec,
        queue=queue,
        images=images,
        base=open_base(run.base_folder),
        device=device,
        device_name=device_name,
        send=control.send,
        interrupted=control.interrupted,
        evaluators=evaluators,
        memory_before=taken_memory(device),
        watched=watched if device == "cpu" else None,
        files=files,
    )


def _open_queue(run: StudyRun, study: Study, control: Supervision, owner: str) -> TrialQueue:
    """Return the queue of the stored study, which has to match the study's file.

    The supervisor has opened the database before, so an outage of it is waited for.
    """
    retry = DatabaseRetry(control.interrupted, control.warn_of_database)
    warm = read_warm(run.warm, study.space)
    drawing = _draw_with(warm, run, study)

    def find_begun(opened: optuna.Study) -> Drawing | None:
        """Return what trials are drawn with if another machine has begun the study otherwise."""
        stored = remembered_warm(opened, study.space)
        if stored.given == warm.given:
            return None
        tell_user(control.send, f"another machine began it with WARM={','.join(stored.given)}")
        return _draw_with(stored, run, study)

    pruner = "none" if run.shown is not None else run.pruner or study.spec.pruner
    queue = retry.wait_for(
        lambda: open_queue(
            run.study,
            run.storage,
            owner=owner,
            sampler=drawing.sampler,
            pruner=make_pruner(pruner, study.spec.goals),
            references=drawing.references,
            suggest=study.spec.suggest,
            shown=run.shown,
            retry=retry,
            version=run.version,
            epochs=run.epochs,
            find_begun=find_begun,
        )
    )
    stored = retry.wait_for(lambda: read_identity(queue.study))
    if stored is not None:
        check_unchanged(stored, study)
    return queue


def _draw_with(warm: Warm, run: StudyRun, study: Study) -> Drawing:
    """Return what trials are drawn with in a study that began with ``warm``."""
    chosen, goals = run.sampler or study.spec.sampler, study.spec.goals
    sampler = make_sampler(chosen, seed=run.seed, space=study.space, goals=goals)
    sampler = with_warm(sampler, warm.sources, study.space)
    return Drawing(
        sampler=with_stop(sampler, run.stop, trials=run.trials),
        references={**run.tries, **warm.shared, **study.spec.references},
    )
