"""What is left in FILES, and under RUNS, of trials that have ended elsewhere or by a kill.

    remove_ended(files, queue, run)
    remove_deleted(files, queue)          # of studies that somebody has deleted

A worker removes a trial's checkpoints when the trial ends. One that is killed at that moment does
not, nor does it know of what the same trial has left in the RUNS of another machine.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import replace
from functools import partial

from search.run import StudyRun
from search.setup.stored_study import token_of
from search.trials.files_access import FilesAccess
from search.trials.queue import TrialQueue
from storage.database.file_records import file_tokens
from storage.files.shared_files import SharedFiles

OF_TRIAL = re.compile(r"trial-([0-9]{1,9})(?:-[a-z0-9-]+)?")


def remove_ended(access: FilesAccess, queue: TrialQueue, run: StudyRun) -> None:
    """Remove the checkpoints of trials that have ended; what FILES is away for stays."""
    names: list[str] = []
    access.try_to(lambda files: names.extend(files.names()), left="nothing is cleaned up there")
    folder = run.paths.checkpoints(run.study)
    here = {path: OF_TRIAL.fullmatch(path.stem) for path in folder.glob("trial-*.*")}
    there = {name: OF_TRIAL.fullmatch(name) for name in names}
    numbers = {int(found[1]) for found in (*here.values(), *there.values()) if found}
    ended = {number for number in numbers if _has_ended(queue, number)}
    for path, found in here.items():
        if found and int(found[1]) in ended:
            with suppress(OSError):
                path.unlink()
    for name, found in there.items():
        if found and int(found[1]) in ended:
            access.try_to(partial(_forget, name=name), left="what ended stays there")


def remove_deleted(access: FilesAccess, queue: TrialQueue) -> None:
    """Remove the files of studies that are not in the database any more."""
    storage = queue.storage
    tokens = queue.retry.wait_for(lambda: file_tokens(storage.engine))  # first: studies are added
    studies = queue.retry.wait_for(storage.get_all_studies)
    known = {token_of(study.user_attrs) for study in studies}
    for token in tokens:
        if token in known:
            continue
        left = replace(access.files, token=token)
        for name in queue.retry.wait_for(left.names):
            access.try_to(partial(_forget_of, left=left, name=name), left="it stays there")


def _forget_of(files: SharedFiles, *, left: SharedFiles, name: str) -> None:
    left.forget(name)


def _has_ended(queue: TrialQueue, number: int) -> bool:
    """Whether a trial has ended, or is none of the study's any more."""
    try:
        trial_id = queue.id_of(number)
        trial = queue.retry.wait_for(lambda: queue.storage.get_trial(trial_id))
    except KeyError:
        return True
    return trial.state.is_finished()


def _forget(files: SharedFiles, *, name: str) -> None:
    files.forget(name)
