"""Studies that ask for a picture every few epochs: in the dashboard and in the export."""

from __future__ import annotations

import json

import optuna
from optuna.artifacts import get_all_artifact_meta

from storage.database.connection import open_storage
from storage.paths import RunPaths
from tests.user import User, WriteStudy


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
