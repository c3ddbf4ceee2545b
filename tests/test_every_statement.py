"""A database that is away for a moment, at any statement of a study: as if nothing had been."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from search.__main__ import main
from storage import curves, trials
from storage.database import retry
from tests.faulty_sqlite import Fault, failing_at
from tests.local_pool import LocalPool
from tests.user import WriteStudy

FEW_DIGITS = True

Run = Callable[..., tuple[Fault, str]]


@pytest.fixture
def run(
    tmp_path: Path, study_file: WriteStudy, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str], quick_export: None, cache: Path,
) -> Run:  # fmt: skip
    """Run a study of two trials in this process, with one fault; what it ends with."""
    monkeypatch.setattr("search.cli.study_command.WorkerPool", LocalPool)
    monkeypatch.setattr("search.__main__.start_early", lambda: None)
    monkeypatch.setattr("gc.freeze", lambda: None)
    monkeypatch.setattr(retry, "FIRST", 0.001)
    study = study_file(replace={"epochs=2, retrain_epochs=2": "epochs=1, retrain_epochs=1"})

    def once(
        name: str, command: str = "study", codes: tuple[int, ...] = (0,), **fault: Any
    ) -> tuple[Fault, str]:
        runs = tmp_path / name
        runs.mkdir(exist_ok=True)
        if not (runs / "cache").exists():
            (runs / "cache").symlink_to(cache)
        given = {"NAME": study, "RUNS": runs, "TRIALS": 2, "GPUS": "none", "WORKERS": 1}
        for key, value in ({"TOP": 0} | given).items():
            monkeypatch.setenv(key, os.environ.get(key) or str(value))
        monkeypatch.setenv("RUNS", str(runs))
        with failing_at(monkeypatch, **fault) as met:
            found = main([command])
        said = capfd.readouterr()
        assert found in codes, f"{met}: {said.out}{said.err}"
        assert "Traceback" not in said.out + said.err
        return met, said.out + said.err

    return once


def content(runs: Path) -> tuple[Any, Any]:
    url = f"sqlite:///{runs / 'studies.db'}"
    found = trials("small", storage=url)[["number", "state", "value", "channels", "latent", "lr"]]
    return found.to_dict("records"), curves("small", storage=url)[
        ["number", "epoch", "value"]
    ].to_dict("records")


SAMPLE = 5  # of some hundred statements: all of them take minutes


@pytest.mark.parametrize("late", [False, True])
def test_a_study_ends_as_if_its_database_had_been_there(
    run: Run, tmp_path: Path, late: bool
) -> None:
    """With EVERY=1 each statement fails once. late: the commit is done that is said to fail"""
    alone, _ = run("alone", at=0)
    expected = content(tmp_path / "alone")
    every = int(os.environ.get("EVERY") or alone.count // SAMPLE)
    broken: list[object] = []
    faults = 0
    for at in range(1 + every // 2, alone.count + 1, every):
        try:
            met, said = run(f"at-{at}", at=at, late=late)
            faults += met.said is not None  # a quicker run renews fewer leases, and ends before
            assert content(tmp_path / f"at-{at}") == expected
            assert said.count("waiting for it") <= 1
        except Exception as error:  # also a failed assertion: all that broke is shown at once
            broken.append((at, repr(error)[:600]))
    assert not broken, "\n".join(map(str, broken))
    assert faults >= SAMPLE - 1


@pytest.mark.parametrize("command", ["trials", "studies", "report"])
def test_who_only_reads_is_told_in_one_line(run: Run, command: str) -> None:
    run("alone", at=0)
    peace, _ = run("alone", command, at=0)
    every = int(os.environ.get("EVERY") or max(1, peace.count // 3))
    for at in range(1, peace.count + 1, every):
        met, said = run("alone", command, codes=(0, 2), at=at)
        assert met.said is not None
        assert said.count("error: ") <= 1, said
