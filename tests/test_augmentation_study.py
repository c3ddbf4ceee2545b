"""The table of reference section C: its arithmetic, its rule, and what its rows train on."""

from __future__ import annotations

from typing import Any

import optuna
import pandas as pd
import pytest

from search.studies import augmentation


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
