"""Pictures in the dashboard: the winner's with the study, and every few epochs with a trial.

No others pile up there.
"""

from __future__ import annotations

import json
from pathlib import Path

import optuna
import pytest
from optuna.artifacts import get_all_artifact_meta
from optuna_dashboard.artifact import _backend as dashboard

from storage.database.connection import open_storage
from storage.database.optuna_storage import TrialStorage
from storage.files.artifacts import KEY, ArtifactFolder, attach_to_trial, show_with_study
from storage.paths import RunPaths
from tests.user import User, WriteStudy


@pytest.fixture
def study(storage_url: str) -> optuna.Study:
    return optuna.create_study(study_name="s", storage=open_storage(storage_url))


def backend(study: optuna.Study) -> TrialStorage:
    storage = study._storage
    found = getattr(storage, "_backend", storage)
    assert isinstance(found, TrialStorage)
    return found


def pictures(folder: Path, **content: bytes) -> list[Path]:
    folder.mkdir(exist_ok=True)
    files = [folder / f"{name}.png" for name in content]
    for file, words in zip(files, content.values(), strict=True):
        file.write_bytes(words)
    return files


def shown(study: optuna.Study, artifacts: Path) -> dict[str, bytes]:
    """As Optuna lists them and the dashboard's store reads them."""
    listed = get_all_artifact_meta(study)
    found = {}
    for about in listed:
        with ArtifactFolder(artifacts).open_reader(about.artifact_id) as file:
            found[about.filename] = file.read()
    assert len(found) == len(listed)  # no name twice
    return found


def test_a_studys_pictures_are_replaced(study: optuna.Study, tmp_path: Path) -> None:
    artifacts, storage = tmp_path / "artifacts", backend(study)
    number = study._study_id
    first = pictures(tmp_path / "first", curve=b"1", plane=b"2")
    for _ in range(2):
        show_with_study(artifacts, storage, number, "token", first)
        assert shown(study, artifacts) == {"curve.png": b"1", "plane.png": b"2"}
    show_with_study(
        artifacts, storage, number, "token", pictures(tmp_path / "next", curve=b"3", pca=b"4")
    )
    assert shown(study, artifacts) == {"curve.png": b"3", "pca.png": b"4"}
    assert len(list(artifacts.iterdir())) == 2


def test_what_others_have_attached_stays(study: optuna.Study, tmp_path: Path) -> None:
    artifacts, storage = tmp_path / "artifacts", backend(study)
    number = study._study_id
    (mine,) = pictures(tmp_path, mine=b"0")
    artifacts.mkdir()
    attach_to_trial(artifacts, study, mine)
    storage.set_study_system_attr(number, f"{KEY}deleted", json.dumps(None))  # by the dashboard
    storage.set_study_system_attr(number, "dashboard:note", "kept")
    other = optuna.create_study(study_name="other", storage=storage)
    show_with_study(
        artifacts, storage, other._study_id, "another", pictures(tmp_path / "o", curve=b"9")
    )
    show_with_study(artifacts, storage, number, "token", pictures(tmp_path / "a", curve=b"1"))
    show_with_study(artifacts, storage, number, "token", pictures(tmp_path / "b", pca=b"2"))
    storage.forget_study_artifact(number, f"{KEY}deleted")  # Optuna's own list ends on it
    assert shown(study, artifacts) == {"mine.png": b"0", "pca.png": b"2"}
    assert shown(other, artifacts) == {"curve.png": b"9"}
    assert storage.get_study_system_attrs(number)["dashboard:note"] == "kept"


def test_where_the_schema_is_unknown_the_dashboard_still_lists_them(
    study: optuna.Study, tmp_path: Path
) -> None:
    artifacts, storage = tmp_path / "artifacts", backend(study)
    storage.known = False
    show_with_study(
        artifacts, storage, study._study_id, "token", pictures(tmp_path / "a", curve=b"1")
    )
    show_with_study(
        artifacts, storage, study._study_id, "token", pictures(tmp_path / "b", pca=b"2")
    )
    attributes = storage.get_study_system_attrs(study._study_id)
    (listed,) = dashboard.list_study_artifacts(attributes)
    assert listed["filename"] == "pca.png"
    assert len(list(artifacts.iterdir())) == 1


def test_a_trial_and_the_export_show_how_the_model_came_about(
    user: User, study_file: WriteStudy
) -> None:
    replaced = "epochs=5, retrain_epochs=5, patience=5, pictures_every=2,"
    name = study_file(replace={"epochs=2, retrain_epochs=2,": replaced})
    stale = RunPaths(user.runs).retraining("small", 0).picture(1)  # of a deleted namesake
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"another study's")
    code, _, error = user.run(NAME=name, TRIALS=1, WORKERS=1, TOP=1)
    assert (code, error) == (0, "")
    storage = open_storage(user.url)
    (trial,) = optuna.load_study(study_name="small", storage=storage).trials
    shown = [meta.filename for meta in get_all_artifact_meta(trial, storage=storage)]
    storage.engine.dispose()
    epochs = [f"reconstructions-epoch-{epoch:03}.png" for epoch in (2, 4)]
    assert sorted(shown) == sorted(["reconstructions.png", *epochs])
    folder = user.runs / "exports" / "small" / "1"
    found = json.loads((folder / "provenance.json").read_text())
    kept = [f"epoch_{epoch:03}.png" for epoch in (2, 4) if epoch <= found["best_epoch"]]
    assert kept, "the small study goes on getting better"
    assert [file for file in found["pictures"] if file.startswith("epoch_")] == kept
    assert all((folder / file).stat().st_size > 1000 for file in kept)
