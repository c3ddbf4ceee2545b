"""Files that are whole or not there, and pictures attached to trials and studies.

A picture attached with `attach_to_trial` is an Optuna artifact: optuna-dashboard shows it
with the trial, also while the study runs. Those of a study are its winner's: `show_with_study`
puts them in the place of an earlier winner's.
"""

from __future__ import annotations

import json
import secrets
import shutil
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO
from uuid import UUID, uuid5

from optuna import Study, Trial
from optuna.artifacts import ArtifactMeta, FileSystemArtifactStore

from storage.database.optuna_storage import TrialStorage
from storage.files.atomic import atomic_file

KEY = "artifacts:"  # begins Optuna's name of the attribute that lists an artifact
OURS = UUID(
    "7f0e2a52-5c64-4a5c-9a35-6a1f2d1c0b77"
)  # what the ids of `show_with_study` are derived from


class ArtifactFolder(FileSystemArtifactStore):
    """Optuna's folder of artifacts, whose files appear only when they are whole."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.folder = folder
        self.written: list[Path] = []

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        path = Path(self._get_filepath(artifact_id))
        with atomic_file(path) as beside, beside.open("wb") as file:
            shutil.copyfileobj(content_body, file)
        self.written.append(path)


def attach_to_trial(folder: Path, owner: Trial | Study, file: Path) -> str:
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


def show_with_study(
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
