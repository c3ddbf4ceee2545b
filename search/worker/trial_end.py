"""How an attempt leaves its trial: released, paused at a rung, or ended.

release(attempt)                 # it goes on later, here or elsewhere
pause(attempt)                   # likewise, once it is promoted
is_kept(attempt)                 # before it ends: the database has all that it was told
clear_up(attempt)                # after it has ended
"""

from __future__ import annotations

import logging
from contextlib import suppress

from models.base import Model
from models.errors import DivergedError, StopRequested
from search.events import Ended, Paused, Released
from search.trials.outcomes import Ending
from search.worker.attempt import TrialAttempt
from search.worker.diagnosis import trial_attributes
from storage.database.fences import TrialLost
from storage.database.preferences import PICTURE
from storage.database.retry import DatabaseLost, GaveUp
from storage.database.vectors import VIOLATION

log = logging.getLogger("genstudy")


class NoPicture(Exception):
    """A trial that a person is to choose by its picture has none."""


def end_complete(attempt: TrialAttempt) -> Ending:
    """End a trial that trained all its epochs. Where a person chooses, it needs a picture."""
    ending = attempt.goals.end_complete(attempt.progress.reported, attempt.progress.epoch)
    if attempt.context.run.shown is None:
        return ending
    if attempt.pictures.latest is None:
        reason = attempt.missing.get("no_picture", "the model's preview() gave none")
        return Ending.failed(NoPicture(f"no picture to choose by: {reason}"))
    return ending.with_attributes({PICTURE: attempt.pictures.latest})


def end_unpromoted(attempt: TrialAttempt, model: Model) -> Ending:
    """End a paused trial as pruned at its rung, with pictures of its checkpoint."""
    verdict = attempt.diagnosis.final()
    if attempt.progress.epoch:  # else the checkpoint is lost, and the model untrained
        attempt.pictures.show_end(model, verdict)
    ending = Ending.pruned(max(attempt.progress.reported) + 1, None)
    return ending.with_attributes(trial_attributes(verdict))


def end_diverged(attempt: TrialAttempt, error: DivergedError) -> Ending:
    """End a trial whose training has diverged, with pictures of the epochs before."""
    attempt.pictures.show_broken(error.epoch)
    about = trial_attributes(attempt.diagnosis.diverged(error))
    return Ending.diverged(error, attempt.context.run.epochs).with_attributes(about)


def release(attempt: TrialAttempt) -> None:
    """Give the trial back, once its last checkpoint is in FILES. While the database is away, its
    lease runs out instead."""
    with suppress(StopRequested, DatabaseLost):
        attempt.settle_copies()
    if not attempt.lost.is_set():
        words = attempt.note.describe_pause(attempt.progress.reported)
        with suppress(DatabaseLost, TrialLost):
            attempt.queue.try_write_note(attempt.trial._trial_id, words)
    if not attempt.queue.try_release(attempt.number):
        log.warning("trial %d is not given back: the database is away", attempt.number)
    attempt.context.send(Released(number=attempt.number))


def pause(attempt: TrialAttempt) -> None:
    """Give the trial back until it is promoted, or until nothing else is left to do."""
    reported = attempt.progress.reported
    with suppress(StopRequested, DatabaseLost):
        attempt.settle_copies()
    with suppress(DatabaseLost, TrialLost):
        attempt.queue.try_write_note(attempt.trial._trial_id, attempt.note.describe_rung(reported))
    if not attempt.queue.try_release(attempt.number):
        log.warning("trial %d is not given back: the database is away", attempt.number)
    assert attempt.progress.best is not None
    epoch, best = attempt.progress.epoch, attempt.progress.best
    attempt.context.send(Paused(number=attempt.number, epoch=epoch, value=best))


def is_kept(attempt: TrialAttempt) -> bool:
    """Whether the database still has all that this attempt has reported.

    It lacks some of it if an older state of the database was put back. Then the trial is made
    again.
    """
    queue, progress = attempt.queue, attempt.progress
    stored = queue.retry.wait_for(lambda: queue.storage.get_trial(queue.id_of(attempt.number)))
    told = progress.reported.keys() - {report.epoch - 1 for report in progress.unwritten}
    lacking = told - stored.intermediate_values.keys()
    if not lacking and stored.params == attempt.trial.params and "seed" in stored.user_attrs:
        return True
    what = f"the report of epoch {min(lacking) + 1}" if lacking else "its parameters"
    attempt.context.tell(
        f"trial {attempt.number} is made again: the trial database has lost {what}; it was put "
        "back to an older state while the trial ran"
    )
    return False


def write_last_note(attempt: TrialAttempt, ending: Ending) -> None:
    """Write how the trial ends into its note, before the end of the trial is stored.

    The dashboard does not ask for the note of an ended trial again.
    """
    reported = attempt.progress.reported
    words = attempt.note.describe_end(str(ending.outcome), reported, ending.attributes)
    attempt.queue.write_note(attempt.trial._trial_id, words)


def clear_up(attempt: TrialAttempt) -> None:
    """Remove the files that an ended trial needs no more.

    A trial that may go on, in a study with more epochs or trials, keeps its last checkpoint.
    """
    try:
        kept = attempt.queue.select_kept([attempt.number], all_of_them=attempt.context.run.keeps)
    except GaveUp:  # the end of the next run looks again
        return
    if kept:
        attempt.progress.checkpoints.keep_last()
        return
    attempt.progress.checkpoints.remove()
    attempt.pictures.forget_rows()
    attempt.pictures.forget_copies()


def announce(attempt: TrialAttempt, ending: Ending) -> None:
    """Tell the supervisor how the trial has ended."""
    attempt.context.send(
        Ended(
            number=attempt.number,
            outcome=ending.outcome,
            value=ending.value,
            values=[*(ending.values or ())],
            violates=VIOLATION in ending.attributes,
            reason=ending.reason,
            verdict=ending.attributes.get("verdict"),
            place=ending.attributes.get("place", ""),
        )
    )
