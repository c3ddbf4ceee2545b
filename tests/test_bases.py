"""Studies that start from another study's export, and reference trials."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from search.errors import StudyFileError
from search.setup.loading import load_study
from storage import trials
from tests.user import User, WriteStudy

FEW_DIGITS = True

HEAD = """
    '''A head on the small study's codes.'''
    from models.classifier import Classifier, ClassifierConfig
    from search.study import StudySpec

    def suggest(trial):
        return ClassifierConfig(
            hidden=trial.suggest_int("hidden", 8, 16), lr=trial.suggest_float("lr", 1e-3, 1e-2)
        )

    STUDY = StudySpec(
        model=Classifier, suggest=suggest, data="digits", shape=(1, 28, 28), metric="accuracy",
        direction="maximize", pruner="none", trials=2, epochs=1, retrain_epochs=1,
        starts_from="BASE",
    )
"""
SIZES: dict[str, Any] = {"WORKERS": 2, "TOP": 1}


def test_a_study_starts_from_the_best_export_of_another(user: User, study_file: WriteStudy) -> None:
    base = study_file("small")
    head = study_file("head", HEAD.replace("BASE", str(base)))
    code, _, error = user.run(NAME=head, **SIZES)
    assert code == 2
    assert error.startswith("error: study 'head' starts from the best export of 'small', and ")
    assert "FIRST=1 runs" in error
    assert error.count("\n") == 1
    code, out, error = user.run(NAME=head, FIRST=1, TRIALS=2, EPOCHS=1, **SIZES)
    assert (code, error) == (0, "")
    assert "study small starts" in out
    assert "study head starts" in out
    exported = json.loads((user.runs / "exports/head/1/provenance.json").read_text())
    small = json.loads((user.runs / "exports/small/1/provenance.json").read_text())
    assert exported["starts_from"]["trial"] == small["trial"]
    assert exported["starts_from"]["weights"] == small["sha256"]["weights.safetensors"]
    assert exported["tables"][1]["title"] == "Accuracy on the test images"
    assert (user.runs / "exports/head/1/confusion.png").exists()
    # another base: its values would not compare
    code, _, error = user.run(NAME=base, TRIALS=3, EPOCHS=1, TOP=2, WORKERS=2)
    assert (code, error) == (0, "")
    records = [json.loads(path.read_text()) for path in user.runs.glob("exports/small/*/prov*")]
    rank = next(record["rank"] for record in records if record["trial"] != small["trial"])
    other = user.runs / "exports" / "small" / str(rank)
    code, _, error = user.run(NAME=head, TRIALS=4, EPOCHS=1, FROM=other, **SIZES)
    assert code == 2
    assert "start from or are judged by small trial" in error


def test_references_are_the_first_trials(user: User, study_file: WriteStudy) -> None:
    replaced = 'epochs=2, retrain_epochs=2, references={"good": {"channels": 3, "latent": 7, '
    replaced += '"lr": 0.005}, "bad": {"channels": 1, "latent": 2, "lr": 0.0001}},'
    name = study_file(replace={"epochs=2, retrain_epochs=2,": replaced})
    code, _, error = user.run(NAME=name, TRIALS=4, WORKERS=2, TOP=0)
    assert (code, error) == (0, "")
    frame = trials("small", storage=user.url)
    assert frame["channels"].tolist()[:2] == [3, 1]
    assert frame["lr"].tolist()[:2] == [0.005, 0.0001]
    assert frame["reference"].tolist()[:2] == ["good", "bad"]
    assert frame["number"].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ('{"chanels": 3}', "reference 'r': unknown parameter 'chanels'"),
        ('{"channels": 30, "latent": 7, "lr": 0.005}', "channels=30 is outside"),
        ('{"channels": 3, "latent": "x", "lr": 0.005}', "latent='x' is outside"),
        ('{"channels": 3, "latent": 7}', "reference 'r': .*lr"),
    ],
)
def test_a_reference_that_suggest_cannot_use_is_found_when_the_study_is_loaded(
    study_file: WriteStudy, reference: str, message: str
) -> None:
    replaced = f'epochs=2, retrain_epochs=2, references={{"r": {reference}}},'
    path: Path = study_file(replace={"epochs=2, retrain_epochs=2,": replaced})
    with pytest.raises(StudyFileError, match=message):
        load_study(str(path))
