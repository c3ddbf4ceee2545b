"""Retrainings in FILES: their records, weights and pictures, which every machine sees.

    share_retraining(files, paths, guard=guard)  # after the record was written under RUNS
    exchange_retrainings(access, run)            # before records are read there
    bring_pictures(access, paths)                # before an export is drawn

A record is put last and fetched last: where it is, the weights of its best epoch are, too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from contextlib import suppress
from functools import partial
from pathlib import Path

from search.run import StudyRun
from search.trials.files_access import FilesAccess
from search.trials.retraining_record import read_record
from storage.database.file_records import FileRecord, Guard
from storage.files.shared_files import SharedFiles, may_always
from storage.paths import RETRAINING, RetrainingPaths

# Behind the stem: the weights of the best epoch, of the last one; rows of samples and pictures.
BEST, LAST, PICTURES = "-best", "-last", "-pictures"


def drawn_files(paths: RetrainingPaths) -> list[Path]:
    """Return the rows of samples and the pictures of a retraining's epochs."""
    return [*paths.rows().values(), *paths.pictures()]


def share_retraining(files: SharedFiles, paths: RetrainingPaths, *, guard: Guard) -> None:
    """Put a retraining that has ended: its weights, its pictures, its record.

    Raises `FilesAway`, and what the guard raises.
    """
    epoch = _best_epoch(paths.record)
    if epoch and paths.best.exists():
        newest = next(iter(files.kept(paths.stem + BEST)), None)
        if newest is None or newest.sha256 != _digest(paths.best):
            files.put(paths.stem + BEST, paths.best, epoch=epoch, guard=guard)
    if drawn := drawn_files(paths):
        files.put_all(paths.stem + PICTURES, drawn, guard=guard)
    files.put(paths.stem, paths.record, guard=guard)
    files.forget(paths.stem + LAST)


def bring_pictures(access: FilesAccess, paths: RetrainingPaths) -> None:
    """Bring the pictures of a retraining's epochs that are not here."""
    for record in access.wait_for(lambda files: files.kept(paths.stem + PICTURES))[:1]:
        access.wait_for(partial(_unpack, record=record, folder=paths.folder))


def exchange_retrainings(
    access: FilesAccess, run: StudyRun, *, besides: Collection[str] = ()
) -> None:
    """Bring the retrainings of other machines that are not here, and put those that are only here.

    besides: names of those that are trained here now
    """
    newest = access.wait_for(lambda files: files.newest())
    for name, record in newest.items():
        found = RETRAINING.fullmatch(name)
        if found is None or name in besides:
            continue
        paths = run.paths.retraining(run.study, int(found[1]), int(found[2] or 1))
        if _digest(paths.record) != record.sha256:
            access.wait_for(partial(_bring, record=record, paths=paths))
    for place in run.paths.checkpoints(run.study).glob("retrain-*.json"):
        found = RETRAINING.fullmatch(place.stem)
        if found is None or place.stem in newest or place.stem in besides:
            continue
        number, repeat = int(found[1]), int(found[2] or 1)
        if read_record(place, token=run.token, trial=number, repeat=repeat) is not None:
            paths = run.paths.retraining(run.study, number, repeat)
            access.wait_for(partial(share_retraining, paths=paths, guard=may_always))


def _unpack(files: SharedFiles, *, record: FileRecord, folder: Path) -> bool:
    return files.fetch_all(record, folder)


def _bring(files: SharedFiles, *, record: FileRecord, paths: RetrainingPaths) -> None:
    """Bring one retraining: weights first. What is damaged is not brought, and is trained again."""
    paths.folder.mkdir(parents=True, exist_ok=True)
    copy = paths.folder / f"{paths.stem}-fetched.json"
    try:
        if not files.fetch(record, copy):
            files.drop(record)
            return
        epoch = _best_epoch(copy)
        weights = [kept for kept in files.kept(paths.stem + BEST) if kept.epoch == epoch]
        if epoch and not any(
            _digest(paths.best) == kept.sha256 or files.fetch(kept, paths.best) for kept in weights
        ):
            return
        copy.replace(paths.record)
    finally:
        copy.unlink(missing_ok=True)


def _best_epoch(record: Path) -> int:
    """Return the best epoch that a record names; 0: it has none, or cannot be read."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        return int(json.loads(record.read_text(encoding="utf-8"))["best_epoch"])
    return 0


def _digest(path: Path) -> str:
    """Return the SHA-256 of a file; empty where there is none."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""
