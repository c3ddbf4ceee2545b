"""Pictures and tables that optuna-dashboard shows with trials and studies, as Optuna's artifacts.

    attach_to_trial(paths.artifacts, trial, Path("samples.png"))
    show_with_study(paths.artifacts, storage, study_id, token, [Path("samples.png")])
    listed_artifacts(storage.get_trial_system_attrs(trial_id))      # of anybody

The dashboard shows the pictures of a trial also while the study runs. The pictures of a study are
those of its best trial: `show_with_study` replaces the pictures of an earlier best trial.

Whoever may write to a shared database chooses the ids there. An id is a file's name in the folder
of artifacts, and never a path that leads out of it.
"""

from __future__ import annotations

import io
import json
import re
import secrets
import shutil
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO
from uuid import UUID, uuid5

from optuna import Study, Trial
from optuna.artifacts import ArtifactMeta, FileSystemArtifactStore
from optuna.artifacts.exceptions import ArtifactNotFound

from storage.database.json_texts import parse_json
from storage.database.optuna_storage import TrialStorage
from storage.errors import FilesAway, short
from storage.files.atomic import atomic_file, sync, temporary_folder
from storage.files.object_store import ObjectStore

KEY = "artifacts:"  # Optuna lists an artifact under this and its id
MIME_TYPES = {".gif": "image/gif", ".csv": "text/csv", ".svg": "image/svg+xml"}  # others are PNG
ID = re.compile(r"[0-9A-Za-z_-]{1,200}")  # Optuna's are UUIDs
# the namespace from which the ids of `show_with_study` are derived
OURS = UUID("7f0e2a52-5c64-4a5c-9a35-6a1f2d1c0b77")


class ArtifactFolder(FileSystemArtifactStore):
    """Optuna's folder of artifacts; its files appear only when they are whole.

    shared: where those of other machines are; None: there are none
    """

    def __init__(self, folder: Path, shared: ObjectStore | None = None) -> None:
        super().__init__(folder)
        self.folder = folder
        self.shared = shared

    def _get_filepath(self, artifact_id: str) -> Path:
        if not ID.fullmatch(artifact_id):
            raise ArtifactNotFound(f"{short(artifact_id)!r} is no id of an artifact")
        return self.folder / artifact_id

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """Open an artifact of this machine, or else of another."""
        try:
            return super().open_reader(artifact_id)
        except ArtifactNotFound:
            if self.shared is None:
                raise
        try:
            return self.shared.open_reader(shared_name(artifact_id))
        except FilesAway as error:
            raise ArtifactNotFound(str(error)) from error

    def bring(self, artifact_id: str) -> Path:
        """Return the path of an artifact, which is copied here first if only FILES has it.

        Raises `FilesAway`, and `ArtifactNotFound` for what is no id.
        """
        path = self._get_filepath(artifact_id)
        if self.shared is not None and not path.exists():
            with temporary_folder(self.folder) as beside:
                if self.shared.read(shared_name(artifact_id), beside / "copy"):
                    (beside / "copy").replace(path)
        return path

    def remove(self, artifact_id: str) -> None:
        """Remove an artifact; where there is none, a study can be deleted all the same."""
        with suppress(ArtifactNotFound):
            super().remove(artifact_id)
        if self.shared is not None:
            with suppress(FilesAway):
                self.shared.remove(shared_name(artifact_id))

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        path = Path(self._get_filepath(artifact_id))
        with atomic_file(path) as beside, beside.open("wb") as file:
            shutil.copyfileobj(content_body, file)
        if self.shared is not None:
            self.shared.write(shared_name(artifact_id), path)


def shared_name(artifact_id: str) -> str:
    """Return the name of an artifact's object in FILES."""
    return f"artifacts/{artifact_id}"


def attach_to_trial(folder: Path, owner: Trial | Study, file: Path) -> str:
    """Show ``file`` with ``owner`` in the dashboard, under the file's name. Return its id.

    This is Optuna's `upload_artifact`, with ids that rise with time. Databases list artifacts by
    id, so the first one attached stands first. A trial that goes on after a kill attaches the same
    pictures again: a picture then replaces the earlier one of its name.

    The database gets the id before the file gets its name. A kill in between leaves a file with a
    temporary name, which is removed later, and no file that nobody knows.
    """
    artifact = _attached_before(owner, file.name) if isinstance(owner, Trial) else None
    artifact = artifact or str(UUID(int=time.time_ns() << 64 | secrets.randbits(64)))
    about = ArtifactMeta(artifact, file.name, mimetype=_mime_type(file), encoding=None)
    record = json.dumps(asdict(about))
    with atomic_file(folder / artifact) as beside:
        shutil.copyfile(file, beside)
        sync(beside)  # the disk may be full
        if isinstance(owner, Trial):
            owner.storage.set_trial_system_attr(owner._trial_id, KEY + artifact, record)
        else:
            owner._storage.set_study_system_attr(owner._study_id, KEY + artifact, record)
    return artifact


def _attached_before(trial: Trial, name: str) -> str | None:
    """Return the id of the picture ``name`` that an earlier attempt at the trial has attached."""
    return _names_to_ids(trial.storage.get_trial_system_attrs(trial._trial_id)).get(name)


def artifact_address(study_id: int, trial_id: int | None, artifact: str) -> str:
    """Return where the dashboard serves an artifact of a trial or, with None, of a study.

    This is optuna-dashboard's `get_artifact_path`, which takes a second to import.
    """
    owner = f"{study_id}" if trial_id is None else f"{study_id}/{trial_id}"
    return f"/artifacts/{owner}/{artifact}"


def trial_pictures(storage: TrialStorage, trial_id: int) -> dict[str, str]:
    """Return the pictures that a trial ended with, name -> id, the first one first."""
    return {
        about.filename: about.artifact_id
        for about in listed_artifacts(storage.get_trial_system_attrs(trial_id))
        if "-epoch-" not in about.filename and about.mimetype.startswith("image/")
    }


def study_pictures(token: str, storage: TrialStorage, study_id: int) -> dict[str, str]:
    """Return the pictures of `show_with_study`, name -> id."""
    return {
        name: artifact
        for name, artifact in _names_to_ids(storage.get_study_system_attrs(study_id)).items()
        if artifact == study_artifact(token, name)
    }


def listed_artifacts(attributes: Mapping[str, Any]) -> list[ArtifactMeta]:
    """Return the artifacts in the system attributes of a trial or a study, the first one first.

    What is no entry of Optuna's, or no id, is left out.
    """
    found = []
    for key in sorted(attributes):
        if not key.startswith(KEY):
            continue
        try:
            about = ArtifactMeta(**parse_json(attributes[key]))
        except (ValueError, TypeError):  # also null, which the dashboard leaves of a removed one
            continue
        texts = (about.artifact_id, about.filename, about.mimetype)
        if all(isinstance(text, str) for text in texts) and ID.fullmatch(about.artifact_id):
            found.append(about)
    return found


def _names_to_ids(attributes: Mapping[str, Any]) -> dict[str, str]:
    return {about.filename: about.artifact_id for about in listed_artifacts(attributes)}


def show_with_study(
    folder: Path, storage: TrialStorage, study_id: int, token: str, files: Iterable[Path]
) -> list[str]:
    """Show the pictures ``files`` with a study in the dashboard; remove those of earlier calls.

    Returns their ids. An id follows from the study's own ``token`` and the file's name. So a
    picture replaces the one of the same name, a killed call can be repeated, and pictures that
    other people have attached to the study stay.
    """
    wanted = {study_artifact(token, file.name): file for file in files}
    for artifact, file in wanted.items():
        with file.open("rb") as content:
            ArtifactFolder(folder).write(artifact, content)
        about = ArtifactMeta(artifact, file.name, mimetype=_mime_type(file), encoding=None)
        storage.set_study_system_attr(study_id, KEY + artifact, json.dumps(asdict(about)))
    for listed in listed_artifacts(storage.get_study_system_attrs(study_id)):
        ours = listed.artifact_id == study_artifact(token, listed.filename)
        if ours and listed.artifact_id not in wanted:
            storage.forget_study_artifact(study_id, KEY + listed.artifact_id)
            (folder / listed.artifact_id).unlink(missing_ok=True)
    return list(wanted)


def show_drawing(
    folder: Path, storage: TrialStorage, study_id: int, token: str, name: str, content: str
) -> str:
    """Show a drawing of a whole study in the dashboard; it replaces the earlier one of this name.

    The pictures of the study's best trial stay. Returns its id.
    """
    artifact = str(uuid5(OURS, f"{token}/drawing/{name}"))
    ArtifactFolder(folder).write(artifact, io.BytesIO(content.encode()))
    about = ArtifactMeta(artifact, name, mimetype=MIME_TYPES[Path(name).suffix], encoding=None)
    storage.set_study_system_attr(study_id, KEY + artifact, json.dumps(asdict(about)))
    return artifact


def _mime_type(file: Path) -> str:
    return MIME_TYPES.get(file.suffix, "image/png")


def study_artifact(token: str, name: str) -> str:
    """Return the id of a study's picture, by the study's token and the file's name."""
    return str(uuid5(OURS, f"{token}/{name}"))
