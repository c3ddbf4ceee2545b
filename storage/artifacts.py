"""Files that are whole or not there, and pictures attached to trials and studies.

A picture attached with `attach` is an Optuna artifact: optuna-dashboard shows it
with the trial, also while the study runs. Those of a study are its winner's: `show`
puts them in the place of an earlier winner's.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from uuid import UUID, uuid4, uuid5

from optuna import Study, Trial
from optuna.artifacts import ArtifactMeta, FileSystemArtifactStore

from storage.errors import DiskFull

if TYPE_CHECKING:
    from storage.trial_storage import TrialStorage

KEY = "artifacts:"  # begins Optuna's name of the attribute that lists an artifact
OURS = UUID("7f0e2a52-5c64-4a5c-9a35-6a1f2d1c0b77")  # what the ids of `show` are derived from

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # on the disk, of one's share, in a file


@contextmanager
def whole_file(path: Path, *, needs: int = 0) -> Iterator[Path]:
    """A temporary path to write to; it becomes ``path`` at the end, or nothing does.

    The old file stays as it was when writing fails or the process is killed.
    needs: bytes that it takes at least, for the message of `DiskFull`
    """
    beside = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield beside
        with beside.open("rb") as written:
            os.fsync(written.fileno())
        beside.replace(path)
    except OSError as error:
        with suppress(OSError):
            beside.unlink()
        if is_full(error):
            raise disk_full(path, error, needs=needs) from error
        raise
    finally:
        beside.unlink(missing_ok=True)


def is_full(error: BaseException) -> bool:
    """Whether there was no space to write."""
    return isinstance(error, DiskFull) or (isinstance(error, OSError) and error.errno in NO_SPACE)


def disk_full(place: Path, error: OSError, *, needs: int = 0, file: str = "") -> DiskFull:
    """What is said when ``place`` (in it, ``file``) does not fit; ``needs``: bytes at least."""
    free = shutil.disk_usage(_existing(place)).free
    cause = error.__cause__ if isinstance(error, DiskFull) else error
    where = f"{place} ({file})" if file else str(place)
    least = f"it takes at least {needs:,} bytes, " if needs else ""
    told = DiskFull(
        f"cannot write {where}: {getattr(cause, 'strerror', cause)}; {least}{free:,} are free; "
        "make room, then the same command goes on"
    )
    told.place = place
    return told


def _existing(place: Path) -> Path:
    return place if place.exists() else _existing(place.parent)


def write_json(path: Path, content: Any) -> None:
    with whole_file(path) as beside:
        beside.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


class ArtifactFolder(FileSystemArtifactStore):
    """Optuna's folder of artifacts, whose files appear only when they are whole."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.folder = folder
        self.written: list[Path] = []

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        path = Path(self._get_filepath(artifact_id))
        with whole_file(path) as beside, beside.open("wb") as file:
            shutil.copyfileobj(content_body, file)
        self.written.append(path)


def attach(folder: Path, owner: Trial | Study, file: Path) -> str:
    """Show ``file`` with ``owner`` in the dashboard under the file's name. Returns its id.

    As Optuna's `upload_artifact`, but ids rise with time: databases list artifacts by them, and
    so the first that was attached stands first.
    """
    artifact = str(UUID(int=time.time_ns() << 64 | secrets.randbits(64)))
    about = ArtifactMeta(artifact, file.name, mimetype=_kind(file), encoding=None)
    told, store = json.dumps(asdict(about)), ArtifactFolder(folder)
    try:
        with file.open("rb") as content:
            store.write(artifact, content)
        if isinstance(owner, Trial):
            owner.storage.set_trial_system_attr(owner._trial_id, KEY + artifact, told)
        else:
            owner._storage.set_study_system_attr(owner._study_id, KEY + artifact, told)
    except BaseException:
        for path in store.written:  # nobody would find what the database does not name
            path.unlink(missing_ok=True)
        raise
    return artifact


def show(
    folder: Path, storage: TrialStorage, study_id: int, token: str, files: Iterable[Path]
) -> None:
    """Show the pictures ``files`` with a study in the dashboard, and no others of earlier calls.

    An id follows from the study's own ``token`` and the file's name. So a picture replaces the
    one of the same name, a call that was killed can be repeated, and whatever somebody else has
    attached to the study stays.
    """
    wanted = {_id(token, file.name): file for file in files}
    for artifact, file in wanted.items():
        with file.open("rb") as content:
            ArtifactFolder(folder).write(artifact, content)
        about = ArtifactMeta(artifact, file.name, mimetype=_kind(file), encoding=None)
        storage.set_study_system_attr(study_id, KEY + artifact, json.dumps(asdict(about)))
    for key, value in storage.get_study_system_attrs(study_id).items():
        listed = json.loads(value) if key.startswith(KEY) else None  # the dashboard leaves nulls
        if not listed or listed["artifact_id"] in wanted:
            continue
        if listed["artifact_id"] == _id(token, listed["filename"]):
            storage.forget_study_artifact(study_id, key)
            (folder / listed["artifact_id"]).unlink(missing_ok=True)


def _kind(file: Path) -> str:
    return "image/gif" if file.suffix == ".gif" else "image/png"


def _id(token: str, name: str) -> str:
    return str(uuid5(OURS, f"{token}/{name}"))
