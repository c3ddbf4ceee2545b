"""What is left in FILES, and under RUNS, of trials that have ended elsewhere or by a kill.

    remove_ended(files, queue, run)
    remove_deleted(files, queue)          # of studies that somebody has deleted
    remove_deleted_here(queue, run)       # likewise, under RUNS

A worker removes a trial's checkpoints when the trial ends, unless it may go on later. One that is
killed at that moment does not, nor does it know of what the same trial has left in the RUNS of
another machine. And a trial that could have been promoted may be behind too many others by now.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from models.sealed_files import glance_at_seal
from search.run import StudyRun
from search.setup.stored_study import token_of
from search.trials.files_access import FilesAccess
from search.trials.queue import TrialQueue
from storage.database.address import address_digest
from storage.database.file_records import file_tokens
from storage.files.shared_files import SharedFiles

OF_TRIAL = re.compile(r"trial-([0-9]{1,9})(?:-[a-z0-9-]+)?")
KEPT_IN = "kept-in-"  # how the name of a note begins: which database has the studies of a folder
UNKNOWN = "unknown"  # ends the note of a folder in which an older version left checkpoints


def remove_ended(access: FilesAccess | None, queue: TrialQueue, run: StudyRun) -> None:
    """Remove the checkpoints of trials that have ended and do not go on; what FILES is away for
    stays. access: None: there are no FILES"""
    names: list[str] = []
    if access is not None:
        access.try_to(lambda files: names.extend(files.names()), left="nothing is cleaned up there")
    here = {path: OF_TRIAL.fullmatch(path.stem) for path in _trial_files(run)}
    there = {name: OF_TRIAL.fullmatch(name) for name in names}
    numbers = {int(found[1]) for found in (*here.values(), *there.values()) if found}
    ended = {number for number in numbers if _has_ended(queue, number)}
    existing = {number for number in ended if _exists(queue, number)}
    ended -= queue.select_kept(existing, all_of_them=run.keeps)
    # another database may have a study of this name in this RUNS
    ours = {path for path in here if _token_in(path) == run.token}
    own = ended & {int(found[1]) for path, found in here.items() if found and path in ours}
    _unlink(path for path, found in here.items() if found and int(found[1]) in own)
    for name, found in there.items():
        if access is not None and found and int(found[1]) in ended:
            access.try_to(partial(_forget, name=name), left="what ended stays there")


def remove_deleted(access: FilesAccess, queue: TrialQueue) -> None:
    """Remove the files of studies that are not in the database any more."""
    storage = queue.storage
    tokens = queue.retry.wait_for(lambda: file_tokens(storage.engine))  # first: studies are added
    known = _known_tokens(queue)
    for token in tokens:
        if token in known:
            continue
        left = replace(access.files, token=token)
        for name in queue.retry.wait_for(left.names):
            access.try_to(partial(_forget_of, left=left, name=name), left="it stays there")


def remove_deleted_here(queue: TrialQueue, run: StudyRun) -> None:
    """Remove, under RUNS, the checkpoints of trials whose studies are not in the database any more.

    A folder of checkpoints has a note of the databases whose studies it is for. One that is for
    another database, too, is left alone; so is one in which an older version, which wrote no notes,
    left checkpoints.
    """
    folder = run.paths.checkpoints(run.study)
    note = KEPT_IN + address_digest(run.storage)
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        if _trial_files(run) and not any(folder.glob(KEPT_IN + "*")):
            (folder / (KEPT_IN + UNKNOWN)).touch()
        (folder / note).touch()
    known = _known_tokens(queue)
    for each in folder.parent.iterdir() if folder.parent.is_dir() else ():
        if [path.name for path in each.glob(KEPT_IN + "*")] == [note]:
            tokens = {path: _token_in(path) for path in each.glob("trial-*.safetensors")}
            left = [path for path, token in tokens.items() if token and token not in known]
            _unlink(left)
            _unlink(row for path in left for row in each.glob(f"{path.stem}-row-*.png"))


def _trial_files(run: StudyRun) -> list[Path]:
    return list(run.paths.checkpoints(run.study).glob("trial-*.*"))


def _token_in(path: Path) -> str | None:
    """Return the token of the study that a checkpoint is of; None: it does not say so."""
    seal = glance_at_seal(path) if path.suffix == ".safetensors" else None
    token = None if seal is None else seal.of.get("study")
    return token if isinstance(token, str) else None


def _known_tokens(queue: TrialQueue) -> set[str | None]:
    studies = queue.retry.wait_for(queue.storage.get_all_studies)
    return {token_of(study.user_attrs) for study in studies}


def _unlink(paths: Iterable[Path]) -> None:
    for path in paths:
        with suppress(OSError):
            path.unlink()


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


def _exists(queue: TrialQueue, number: int) -> bool:
    try:
        queue.id_of(number)
    except KeyError:
        return False
    return True


def _forget(files: SharedFiles, *, name: str) -> None:
    files.forget(name)
