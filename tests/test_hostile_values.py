"""Attributes in a database that others write to: views show what they can read."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import optuna
import pytest

from search.__main__ import main
from search.trials.trial_attributes import NUMBERS, TEXTS, WHOLE, is_sound, sound_attributes
from storage.database.connection import open_storage
from storage.paths import RunPaths

TABLE = '{"table": {"title": "t", "columns": ["a"], "rows": %s, "note": %s}, "ended": %s}'
VALUES: list[Any] = [
    None, 7, -1.5, float("inf"), float("nan"), True, "x", "[/x] <b>", "\x1b]0;owned\x07", "",
    [], [1, 2], ["a"], {}, {"a": {"b": 1}}, "{", "null", "[1]", "7", "a" * 3000,
    '{"token": 3, "data": 4, "shape": "x", "model": [], "space": 3}',
    '{"command": 1, "trials": "x", "top": [], "retrain_epochs": null, "sampler": 2, "pruner": 3, '
    '"devices": 4, "images": 5, "shape": [1]}',
    TABLE % ('[["x", "y"]]', '"n"', 1), TABLE % ("[[{}]]", "null", 1), TABLE % ("7", '"n"', '"x"'),
    TABLE % ('[["x"]]', '"n", "seeds": {"a": 1}', 1),
    "[" * 9000,
]  # fmt: skip
OF_STUDIES = ("definition", "remarks", "version")
OF_SYSTEM = ("genstudy:summary", "genstudy:run", "study:metric_names")


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    """A study with a trial for each of `VALUES`, which all of its attributes have."""
    paths = RunPaths(tmp_path_factory.mktemp("stored") / "runs")
    storage = open_storage(paths.database_url)
    study = optuna.create_study(study_name="s", storage=storage)
    for number, value in enumerate(VALUES):
        trial = study.ask()
        trial.suggest_float("a", 0, 1)
        for name in (*TEXTS, *NUMBERS, *WHOLE, "modes", "traceback"):
            trial.set_user_attr(name, value)
        failed = number % 2
        study.tell(
            trial, None if failed else number, optuna.trial.TrialState.FAIL if failed else None
        )
    storage.engine.dispose()
    return paths


@pytest.fixture
def runs(stored: RunPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunPaths:
    """A copy of `stored`, which the commands of a test are told of."""
    paths = RunPaths(tmp_path / "runs")
    shutil.copytree(stored.root, paths.root)
    monkeypatch.setenv("RUNS", str(paths.root))
    monkeypatch.setenv("NAME", "s")
    return paths


@pytest.mark.parametrize("value", [0, 1, 8, 12, 15, 16, 17, 20, 21, 22, 23, 24, 25, 26])
def test_whatever_stands_in_a_shared_database_ends_no_view(
    runs: RunPaths, capfd: pytest.CaptureFixture[str], value: int
) -> None:
    storage = open_storage(runs.database_url)
    for name in OF_STUDIES:
        storage.set_study_user_attr(1, name, VALUES[value])
    for name in OF_SYSTEM:
        storage.set_study_system_attr(1, name, VALUES[value])
    commands = ("trials", "studies", "report") if value < 9 else ("trials", "report")
    for command in commands:
        assert main([command]) == 0
    said = capfd.readouterr()
    assert "\x1b" not in said.out + said.err
    assert said.err == ""


@pytest.mark.parametrize(
    ("name", "value", "sound"),
    [
        ("reason", "why", True), ("reason", None, False), ("reason", ["why"], False),
        ("seconds", 3, True), ("seconds", 0.5, True), ("seconds", float("inf"), False),
        ("epochs", 3, True), ("epochs", 3.0, True), ("epochs", 3.5, False), ("epochs", True, False),
        ("epochs", float("nan"), False), ("bound", "1", False), ("mine", [1], True),
    ],
)  # fmt: skip
def test_an_attribute_of_ours_has_one_kind_of_value(name: str, value: Any, sound: bool) -> None:
    assert is_sound(name, value) is sound
    assert (name in sound_attributes({name: value})) is sound
