"""What an older version wrote is read, and goes on, as if nothing had changed.

`fixtures/old_run` was written by revision c199df4, before files and names moved: the study
`small.py` with SEED=7, TRIALS=3, TOP=1 and WORKERS=1. It keeps the trial database, the best export
(without its programs and pictures), `tables.json` with what `storage.trials` and `storage.curves`
returned then, and `outputs.safetensors` with what the exported model made of `inputs`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from models.autoencoder import Autoencoder
from models.export import load_export
from storage import curves, trials
from storage.files.exports import read_provenance
from tests.user import User

OLD = Path(__file__).parent / "fixtures" / "old_run"
EXPORT = OLD / "exports" / "small" / "1"
SAME_RUN: dict[str, Any] = {"SEED": 7, "TOP": 0, "WORKERS": 1}

# Another CPU adds in another order, and two epochs carry that on: values agree to four digits
# there. On the machine that wrote the tables they agree to the last digit.
ROUNDING = 1e-4
NEW = ["code", "environment"]  # columns that the older version did not write


def recorded(name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((OLD / "tables.json").read_text())[name]
    return rows


def plain_rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a frame as `tables.json` keeps them: times as text, numbers to the last digit."""
    for name in frame.select_dtypes(["datetime", "timedelta"]):
        frame[name] = frame[name].astype(str)
    rows = frame.to_dict("records")
    return [dict(row) for row in rows]  # type: ignore[arg-type]  # whose names are texts


@pytest.fixture
def old_user(user: User) -> User:
    """A user whose RUNS is what the older version left."""
    shutil.copytree(OLD, user.runs)
    return user


def test_the_tables_of_an_old_run_are_the_same(old_user: User) -> None:
    assert plain_rows(trials("small", storage=old_user.url)) == recorded("trials")
    assert plain_rows(curves("small", storage=old_user.url)) == recorded("curves")


def test_an_old_study_goes_on_with_the_same_command(old_user: User) -> None:
    code, out, error = old_user.run(NAME=OLD / "small.py", TRIALS=5, **SAME_RUN)
    assert (code, error) == (0, "")
    assert "study small goes on after 3 trials: 5 trials of 2 epochs" in out
    frame = trials("small", storage=old_user.url)
    assert frame["number"].tolist() == list(range(5))
    assert frame["state"].tolist() == ["COMPLETE"] * 5
    old = frame[frame["number"] < 3]
    assert old[NEW].isna().all(axis=None)
    assert plain_rows(old.drop(columns=NEW)) == recorded("trials")
    epochs = curves("small", storage=old_user.url)
    assert plain_rows(epochs[epochs["number"] < 3].copy()) == recorded("curves")
    assert (old_user.runs / "exports" / "small" / "1" / "weights.safetensors").read_bytes() == (
        EXPORT / "weights.safetensors"
    ).read_bytes()


def test_a_fresh_run_of_the_same_study_has_the_same_table(user: User) -> None:
    code, _, error = user.run(NAME=OLD / "small.py", TRIALS=3, **SAME_RUN)
    assert (code, error) == (0, "")
    frame = trials("small", storage=user.url)
    assert list(frame.drop(columns=NEW)) == list(recorded("trials")[0])
    for row, old in zip(frame.to_dict("records"), recorded("trials"), strict=True):
        for name in ("number", "state", "channels", "latent", "lr", "seed", "outcome", "epochs"):
            assert row[name] == old[name], name
        assert row["value"] == pytest.approx(old["value"], rel=ROUNDING)
    epochs = curves("small", storage=user.url)
    assert list(epochs) == list(recorded("curves")[0])
    for row, old in zip(epochs.to_dict("records"), recorded("curves"), strict=True):
        assert (row["number"], row["epoch"]) == (old["number"], old["epoch"])
        for name in ("value", "train_mse", "valid_mse"):
            assert row[name] == pytest.approx(old[name], rel=ROUNDING), name


def test_an_old_export_makes_the_same_of_the_same_images() -> None:
    model = load_export(EXPORT)
    assert isinstance(model, Autoencoder)
    inputs = torch.linspace(0, 1, 2 * 28 * 28).reshape(2, 1, 28, 28)
    old = load_file(OLD / "outputs.safetensors")
    with torch.no_grad():
        torch.testing.assert_close(model.encode(inputs), old["codes"])
        torch.testing.assert_close(model(inputs), old["images"])


def test_the_provenance_of_an_old_export_is_read() -> None:
    found = read_provenance(EXPORT)
    assert found is not None
    best = min(recorded("trials"), key=lambda row: row["value"])
    assert (found["study"], found["trial"], found["rank"]) == ("small", best["number"], 1)
    assert found["trial_value"] == best["value"]
    assert found["parameters"] == {name: best[name] for name in ("channels", "latent", "lr")}
