"""The table of reference section C: its arithmetic, its rule, and what its rows train on."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
from optuna.trial import BaseTrial

from models.augmentation import AugmentedGANConfig
from models.data.images import ImageSplits
from models.evaluation.sample_evaluator import SampleEvaluator
from search.reporting.summary import summarise
from search.run import StudyRun
from search.setup.loading import load_study
from search.strategies.pruners import make_pruner
from search.strategies.samplers import grid_size, make_sampler
from search.studies import augmentation
from search.trials.owner import owner_name
from search.trials.queue import open_queue
from search.worker.context import WorkerContext
from search.worker.trial import run_trial
from storage import curves, trials
from storage.database.connection import open_storage
from tests.trials import known_evaluators


def measured(row: str, modes: list[float], verdicts: list[str], coverage: list[float]) -> Any:
    return [
        {"row": row, "valid_modes": m, "verdict": v, "valid_coverage": c}
        for m, v, c in zip(modes, verdicts, coverage, strict=True)
    ]


def concluded(rows: list[dict[str, Any]], realism: float = 0.4) -> dict[str, dict[str, Any]]:
    """The study's summary of these runs, by row."""
    rows = [{"state": "COMPLETE", "number": number, **row} for number, row in enumerate(rows)]
    frame = pd.DataFrame(rows)
    epochs = frame[["number", "valid_modes", "valid_coverage"]].assign(
        epoch=1, value=1.0, valid_class_kl=0.1, valid_recall=0.5, valid_frechet=20.0,
        valid_realism=realism,
    )  # fmt: skip
    table = augmentation.summary(frame.drop(columns=["valid_modes", "valid_coverage"]), epochs)
    return {str(row[0]): dict(zip(table.columns, row, strict=True)) for row in table.rows}


FINE, LOST = ["healthy"] * 3, ["collapsed", "collapsed", "healthy"]


def test_the_table_says_what_was_measured_beside_what_was_reported() -> None:
    found = concluded(
        [
            *measured("5,000", [4, 3, 8], LOST, [0.1, 0.2, 0.3]),
            *measured("all", [10, 10, 9], FINE, [0.7, 0.8, 0.9]),
            *measured("5,000 + drawn, 1 layer", [10, 10, 10], FINE, [0.4, 0.4, 0.4]),
            *measured("5,000 + drawn, 2 layers", [9, 9, 10], FINE, [0.4, 0.5, 0.6]),
            *measured("5,000 + drawn, 3 layers", [9, 9, 10], FINE, [0.4, 0.4, 0.4]),
        ]
    )
    assert list(found) == list(augmentation.ROWS)[:5], "in the report's order"
    said = {
        row: (cells["measured"], cells["reported"], cells["agrees"]) for row, cells in found.items()
    }
    assert said == {
        "all": ("covers", "covers", "yes"),
        "5,000": ("collapse", "collapse", "yes"),
        "5,000 + drawn, 1 layer": ("covers", "collapse", "no"),
        "5,000 + drawn, 2 layers": ("between", "better", "yes"),
        "5,000 + drawn, 3 layers": ("between", "covers", "no"),
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
    row = measured("5,000 + drawn, 2 layers", [10.0] * len(ours), verdicts, ours)
    assert concluded(baseline + row)["5,000 + drawn, 2 layers"]["agrees"] == agrees


def test_the_table_says_which_codes_an_autoencoder_decodes() -> None:
    found = concluded(
        [
            *measured("5,000", [10] * 3, FINE, [0.5, 0.5, 0.5]),
            *measured("5,000 + drawn, 3 layers", [10] * 3, FINE, [0.3, 0.3, 0.3]),
            *measured("5,000 + reconstructions, 3 layers", [10] * 3, FINE, [0.45, 0.45, 0.45]),
        ]
    )
    said = {row: cells["the autoencoder decodes"] for row, cells in found.items()}
    assert said == {
        "5,000": "-",
        "5,000 + drawn, 3 layers": "drawn codes",
        "5,000 + reconstructions, 3 layers": "codes of the images",
    }
    for row in augmentation.ROWS:
        config = augmentation.suggest(optuna.trial.FixedTrial({"row": row, "repeat": 0}))
        assert ("drawn" in row) == (config.extra == "autoencoder")
        assert ("reconstructions" in row) == (config.extra == "reconstructions")
        assert config.extra != "reconstructions" or f", {config.layers} layer" in row


def test_a_run_that_diverged_stands_among_the_verdicts_only() -> None:
    rows = measured("5,000", [10, 10], ["healthy", "diverged"], [0.5, 0.0])
    rows[1]["state"] = "PRUNED"
    (row,) = concluded(rows).values()
    assert (row["runs"], row["coverage"]) == (1, "0.500")
    assert row["verdicts"] == "1 healthy, 1 diverged"


def test_noise_is_no_collapse() -> None:
    rows = measured("5,000", [0, 0, 1], ["collapsed"] * 3, [0.0, 0.0, 0.0])
    (row,) = concluded(rows, realism=0.02).values()
    assert (row["measured"], row["agrees"]) == ("noise", "unknown")


def test_what_no_report_has_agrees_with_none() -> None:
    (row,) = concluded(measured("5,000 + ADA", [10.0] * 3, FINE, [0.6] * 3)).values()
    assert (row["measured"], row["reported"], row["agrees"]) == ("covers", "-", "-")


def test_every_row_is_trained_for_as_many_images() -> None:
    shown = {
        augmentation.suggest(optuna.trial.FixedTrial({"row": row, "repeat": 0})).epoch_images
        for row in augmentation.ROWS
    }
    assert shown == {augmentation.EPOCH_IMAGES}
    assert len(augmentation.ROWS) == 11
    assert augmentation.STUDY.trials == len(augmentation.ROWS) * augmentation.REPEATS


def test_two_trials_of_the_grid_end_in_a_table(
    tmp_path: Path, digits: ImageSplits, judge: SampleEvaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.augmentation.AE_EPOCHS", 2)
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    storage = open_storage(url)
    optuna.create_study(study_name="rows", storage=storage)
    queue = open_queue("rows", url, owner=owner_name(os.getpid()))
    study = load_study("augmentation")
    queue.study.sampler = make_sampler("grid", seed=0, space=study.space)
    queue.study.pruner = make_pruner("none")
    assert grid_size(queue.study.sampler) == study.spec.trials
    run = StudyRun(
        name="augmentation", study="rows", storage=url, runs=str(tmp_path), images="", seed=0,
        trials=2, epochs=2, retrain_epochs=1, revision="abc", token="t",
    )  # fmt: skip

    def narrow(trial: BaseTrial) -> AugmentedGANConfig:
        return replace(augmentation.suggest(trial), width=0.02, epoch_images=200, drawn=100)

    context = WorkerContext(
        run=run, spec=replace(study.spec, suggest=narrow), queue=queue, images=digits, base=None,
        device="cpu", device_name="cpu", send=lambda event: None, interrupted=lambda: False,
        evaluators=known_evaluators(run, digits, queue, judge),
    )  # fmt: skip
    for _ in range(run.trials):
        trial = queue.claim(run.trials)
        assert trial is not None
        run_trial(context, trial)
    frame, epochs = trials("rows", storage=url), curves("rows", storage=url)
    assert frame["state"].tolist() == ["COMPLETE"] * 2
    assert frame["seed"].nunique() == 2
    table = summarise(study, frame, epochs)
    found = {str(row[0]): dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert set(found) == set(frame["row"])
    last = epochs[epochs["epoch"] == 2].merge(frame[["number", "row"]], on="number")
    for name, cells in found.items():
        mean = last[last["row"] == name]["valid_frechet"].mean()
        assert float(str(cells["Fréchet"]).split(" ±")[0]) == pytest.approx(mean, abs=0.06)
    for opened in (storage, queue.storage):
        opened.engine.dispose()
