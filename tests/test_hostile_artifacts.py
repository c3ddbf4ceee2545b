"""Artifacts in a database that others write to: ids that lead elsewhere, pictures that are none."""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.artifacts import ArtifactMeta
from optuna.artifacts.exceptions import ArtifactNotFound
from PIL import Image

from search.reporting.report import write_report
from storage.database.connection import open_storage
from storage.files.artifacts import (
    ArtifactFolder,
    show_with_study,
    study_pictures,
    trial_pictures,
)
from storage.paths import RunPaths
from tests.test_security import POSTSCRIPT


@pytest.mark.parametrize("artifact", ["{private}", "../../private", "..", ".", "", "a/b", "x\0y"])
def test_an_artifact_of_a_shared_database_leads_nowhere_else(tmp_path: Path, artifact: str) -> None:
    paths = RunPaths(tmp_path / "runs")
    paths.artifacts.mkdir(parents=True)
    private = tmp_path / "private"
    Image.new("L", (8, 8)).save(private, format="PNG")
    artifact = artifact.format(private=private)
    storage = open_storage(paths.database_url)
    study = optuna.create_study(study_name="s", storage=storage)
    trial = study.ask()
    about = asdict(ArtifactMeta(artifact, "x.png", mimetype="image/png", encoding=None))
    values: dict[str, Any] = {
        "artifacts:1": json.dumps(about), "artifacts:2": about, "artifacts:3": "no JSON",
        "artifacts:4": "[1]", "artifacts:5": json.dumps({**about, "artifact_id": 7}),
        "artifacts:6": json.dumps({**about, "filename": None}), "artifacts:7": "null",
    }  # fmt: skip
    for key, value in values.items():
        storage.set_trial_system_attr(trial._trial_id, key, value)
        storage.set_study_system_attr(study._study_id, key, value)
    study.tell(trial, 0.5)
    assert trial_pictures(storage, trial._trial_id) == {}
    assert study_pictures("token", storage, study._study_id) == {}
    show_with_study(paths.artifacts, storage, study._study_id, "token", [])
    store = ArtifactFolder(paths.artifacts)
    with pytest.raises(ArtifactNotFound, match="is no id of an artifact"):
        store.open_reader(artifact)
    with pytest.raises(ArtifactNotFound):
        store.write(artifact, io.BytesIO(b"x"))
    store.remove(artifact)
    assert private.is_file()
    folder = write_report("s", paths.database_url, paths)
    assert not list(folder.glob("*.png"))


def test_an_artifact_that_is_no_picture_is_left_out_of_a_report(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path / "runs")
    paths.artifacts.mkdir(parents=True)
    (tmp_path / "secret").write_text("secret")
    Image.new("L", (8, 8)).save(tmp_path / "secret.png")
    contents = {"a": b"secret", "b": b"<svg/>", "c": POSTSCRIPT, "d": b"\x89PNG\r\n\x1a\n"}
    study = optuna.create_study(study_name="s", storage=open_storage(paths.database_url))
    trial = study.ask()
    for name, content in contents.items():
        (paths.artifacts / name).write_bytes(content)
    (paths.artifacts / "e").symlink_to(tmp_path / "secret.png")
    for name in (*contents, "e"):
        about = ArtifactMeta(name, f"{name}.png", mimetype="image/svg+xml", encoding=None)
        record = json.dumps(asdict(about))
        study._storage.set_trial_system_attr(trial._trial_id, f"artifacts:{name}", record)
    study.tell(trial, 0.5)
    folder = write_report("s", paths.database_url, paths)
    assert not list(folder.glob("*.png"))
