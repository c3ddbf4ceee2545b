"""Files that are whole or not there, and pictures attached to trials.

A picture attached with `attach` is an Optuna artifact: optuna-dashboard shows it
with the trial, also while the study runs.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

from optuna import Study, Trial
from optuna.artifacts import FileSystemArtifactStore, upload_artifact


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path to write to; it becomes ``path`` at the end, or nothing does.

    The old file stays as it was when writing fails or the process is killed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        yield beside
        with beside.open("rb") as written:
            os.fsync(written.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    with whole_file(path) as beside:
        beside.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


class ArtifactFolder(FileSystemArtifactStore):
    """Optuna's folder of artifacts, whose files appear only when they are whole."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.folder = folder

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        with whole_file(self._get_filepath(artifact_id)) as beside, beside.open("wb") as file:
            shutil.copyfileobj(content_body, file)


def attach(folder: Path, owner: Trial | Study, file: Path) -> str:
    """Show ``file`` with ``owner`` in the dashboard under the file's name. Returns its id."""
    return upload_artifact(
        artifact_store=ArtifactFolder(folder), file_path=str(file), study_or_trial=owner
    )
