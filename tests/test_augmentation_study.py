"""The table of reference section C: its arithmetic, its rule, and what its rows train on."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest

from models.augmentation import AugmentedGAN
from models.export import load_export
from search.studies import augmentation
from storage import trials
from tests.test_runs import User, user

__all__ = ["user"]  # the fixture


def measured(row: str, modes: list[float], verdicts: list[str], coverage: list[float]) -> Any:
    return [
        {"row": row, "valid_modes": m, "verdict": v, "valid_coverage": c}
        for m, v, c in zip(modes, verdicts, coverage, strict=True)
    ]


def concluded(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The study's summary of these runs, by row."""
    frame = pd.DataFrame(rows).assign(number=range(len(rows)), state="COMPLETE")
    epochs = frame[["number", "valid_modes", "valid_coverage"]].assign(
        epoch=1, value=1.0, valid_class_kl=0.1, valid_recall=0.5, valid_frechet=20.0
    )
    table = augmentation.summary(frame.drop(columns=["valid_modes", "valid_coverage"]), epochs)
    return {str(row[0]): dict(zip(table.columns, row, strict=True)) for row in table.rows}


FINE, LOST = ["healthy"] * 3, ["collapsed", "collapsed", "healthy"]


def test_the_table_says_what_was_measured_beside_what_was_reported() -> None:
    found = concluded(
        [
            *measured("5,000", [4, 3, 8], LOST, [0.1, 0.2, 0.3]),
            *measured("all", [10, 10, 9], FINE, [0.7, 0.8, 0.9]),
            *measured("5,000 + autoencoder 1", [10, 10, 10], FINE, [0.4, 0.4, 0.4]),
            *measured("5,000 + autoencoder 2", [9, 9, 10], FINE, [0.4, 0.5, 0.6]),
            *measured("5,000 + autoencoder 3", [9, 9, 10], FINE, [0.4, 0.4, 0.4]),
        ]
    )
    assert list(found) == list(augmentation.ROWS)[:-1], "in the report's order"
    said = {
        row: (cells["measured"], cells["reported"], cells["agrees"]) for row, cells in found.items()
    }
    assert said == {
        "all": ("covers", "covers", "yes"),
        "5,000": ("collapse", "collapse", "yes"),
        "5,000 + autoencoder 1": ("covers", "collapse", "no"),
        "5,000 + autoencoder 2": ("between", "better", "yes"),
        "5,000 + autoencoder 3": ("between", "covers", "no"),
    }
    first = found["5,000"]
    assert (first["runs"], first["modes"]) == (3, "5.0 ± 2.6")
    assert first["coverage"] == "0.200 ± 0.100"
    assert first["verdicts"] == "2 collapsed, 1 healthy"


@pytest.mark.parametrize(
    ("ours", "verdicts", "agrees"),
    [
        ([0.36, 0.36, 0.36], FINE, "yes"),  # above the baseline by more than its deviation, 0.1
        ([0.29, 0.29, 0.29], FINE, "no"),
        ([0.36, 0.36, 0.36], LOST, "no"),
        ([0.36], FINE[:1], "too few runs"),
    ],
)
def test_better_is_clearly_better_than_the_real_images_alone(
    ours: list[float], verdicts: list[str], agrees: str
) -> None:
    baseline = measured("5,000", [4, 3, 8], LOST, [0.1, 0.2, 0.3])
    row = measured("5,000 + autoencoder 2", [10.0] * len(ours), verdicts, ours)
    assert concluded(baseline + row)["5,000 + autoencoder 2"]["agrees"] == agrees


def test_every_row_is_trained_for_as_many_images() -> None:
    shown = {
        augmentation.suggest(optuna.trial.FixedTrial({"row": row, "repeat": 0})).epoch_images
        for row in augmentation.ROWS
    }
    assert shown == {augmentation.EPOCH_IMAGES}
    assert augmentation.STUDY.trials == len(augmentation.ROWS) * augmentation.REPEATS


NARROW = """
'''The study in a reduced width, of its row with an autoencoder.'''
from dataclasses import replace
from search.studies import augmentation as full

def suggest(trial):
    return replace(full.suggest(trial), width=0.02, epoch_images=300, drawn=100)

STUDY = replace(full.STUDY, suggest=suggest)
"""


def test_the_study_runs_to_its_table_and_its_export(user: User, tmp_path: Path) -> None:
    file = tmp_path / "augmentation.py"
    file.write_text(NARROW)
    code, out, error = user.run(
        NAME=file, DATA="digits", TRIALS=1, EPOCHS=1, RETRAIN_EPOCHS=1, WORKERS=1, TOP=1
    )
    assert (code, error) == (0, "")
    title = "Mode collapse by what the GAN was trained on"
    assert out.index(title) < out.index("validation FRECHET"), "before the ranking"
    folder = user.runs / "exports" / "augmentation-digits"
    with (folder / "summary.csv").open(newline="", encoding="utf-8") as written:
        (row,) = list(csv.DictReader(written))
    (trial,) = trials("augmentation-digits", storage=user.url).to_dict("records")
    assert (row["trained on"], row["runs"]) == (trial["row"], "1")
    assert row["verdicts"] == f"1 {trial['verdict'].replace('_', ' ')}"
    assert float(row["Fréchet"]) == pytest.approx(trial["value"], abs=0.06), "of one epoch"
    provenance = json.loads((folder / "1" / "provenance.json").read_text())
    assert provenance["config"]["extra"] == augmentation.ROWS[trial["row"]][0].get("extra", "none")
    model = load_export(folder / "1")
    assert isinstance(model, AugmentedGAN)
    assert model.sample(3).shape == (3, 1, 28, 28)
