"""Variables with mistakes in them, on every command: one line each, nothing is changed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from search.__main__ import COMMANDS, main
from tests.user import User

ROOT = Path(__file__).parent.parent
WriteStudy = Callable[..., Path]
LONG = "9" * 5000

# variables of `make study` with a right study file, and words of the line
VALUES: dict[str, tuple[dict[str, str], list[str]]] = {
    "trials-word": ({"TRIALS": "abc"}, ["TRIALS='abc' is not a whole number from 1"]),
    "trials-huge": ({"TRIALS": str(10**30)}, ["TRIALS='1000", "to 1000000000"]),
    "trials-endless": ({"TRIALS": LONG}, ["TRIALS='999", "is not a whole number"]),
    "trials-octal": ({"TRIALS": "0x10"}, ["TRIALS='0x10' is not a whole number"]),
    "epochs-float": ({"EPOCHS": "5.0"}, ["EPOCHS='5.0' is not a whole number"]),
    "retrain-negative": ({"RETRAIN_EPOCHS": "-3"}, ["RETRAIN_EPOCHS='-3' is not"]),
    "workers-auto": ({"WORKERS": "auto"}, ["WORKERS='auto'", "from 1 to 512"]),
    "gpus-range": ({"GPUS": "0-3"}, ["GPUS='0-3'", "numbers such as 0,1"]),
    "gpus-long": ({"GPUS": LONG}, ["GPUS='999", "'none'"]),
    "gpus-absent": ({"GPUS": "4096"}, ["GPU 4096", "GPUS=none"]),
    "seed-huge": ({"SEED": str(2**64)}, ["SEED='18446744073709551616'", "1000000000"]),
    "top-negative": ({"TOP": "-1"}, ["TOP='-1' is not a whole number from 0 to 1000"]),
    "minutes-nan": ({"MINUTES": "nan"}, ["MINUTES='nan' is not a number of minutes above 0"]),
    "minutes-inf": ({"MINUTES": "inf"}, ["MINUTES='inf'", "up to 1000000"]),
    "minutes-negative": ({"MINUTES": "-1"}, ["MINUTES='-1' is not a number"]),
    "minutes-unit": ({"MINUTES": "10m"}, ["MINUTES='10m' is not a number"]),
    "trial-minutes-zero": ({"TRIAL_MINUTES": "0.0"}, ["TRIAL_MINUTES='0.0' is not"]),
    "trial-minutes-e": ({"TRIAL_MINUTES": "1e3"}, ["TRIAL_MINUTES='1e3' is not"]),
    "stop-word": ({"STOP": "soon"}, ["STOP='soon' is not 'auto'"]),
    "stop-preference": ({"STOP": "auto", "SAMPLER": "preference"}, ["leave STOP out"]),
    "try-unknown": (
        {"TRY": "rate=1"},
        ["TRY: unknown parameter 'rate'; ", "available: channels, la"],
    ),
    "try-outside": ({"TRY": "lr=3"}, ["TRY: lr=3 is not a number from 0.0001 to 0.01"]),
    "try-word": ({"TRY": "channels=two"}, ["channels=two is not a whole number from 1 to 3"]),
    "try-float": ({"TRY": "channels=1.5"}, ["channels=1.5 is not a whole number"]),
    "try-nan": ({"TRY": "lr=nan"}, ["TRY: lr=nan is not a number from"]),
    "try-huge": ({"TRY": "channels=" + LONG}, ["TRY: channels=999", "is not a whole number"]),
    "try-json": ({"TRY": "{'lr': 0.001}"}, ["TRY=", "is no parameter=value", "by semicolons"]),
    "try-twice": ({"TRY": "lr=0.001 lr=0.01"}, ["TRY='lr=0.001 lr=0.01' gives lr twice"]),
    "try-no-room": ({"TRY": "lr=0.001; lr=0.002", "TRIALS": "1"}, ["give TRIALS=2 or more"]),
    "misspelt": ({"GENSTUDY_GIVEN": "NAME EPOCH"}, ["unknown variable 'EPOCH'", "'EPOCHS'?"]),
    "data-kind": ({"DATA": "zip:/x.zip"}, ["unknown data 'zip:/x.zip'", "folder:PATH"]),
    "data-bare-path": ({"DATA": "./pictures"}, ["unknown data", "folder:PATH"]),
    "data-long": ({"DATA": "folder:/" + "x" * 5000}, ["no folder /xxx", "DATA=folder:PATH"]),
    "data-nobody": ({"DATA": "folder:~nobody-at-all/x"}, ["DATA=", "no such user"]),
    "data-not-utf-8": ({"DATA": os.fsdecode(b"folder:/\xff")}, ["DATA is not UTF-8 text"]),
    "inception": ({"INCEPTION": "/w.pth"}, ["INCEPTION measures new images", "leave it out"]),
    "runs-proc": (
        {"RUNS": "/proc/runs/of/mine"},
        ["write under RUNS=/proc/runs", "set RUNS"],
    ),
    "runs-long": ({"RUNS": "/tmp/" + "x" * 5000}, ["cannot write under RUNS=/tmp/xxx", "set RUNS"]),
    "runs-nobody": ({"RUNS": "~nobody-at-all/runs"}, ["RUNS=", "no such user; write the path out"]),
    "sampler": (
        {"SAMPLER": "bayes"},
        ["unknown sampler 'bayes'; ", "available: brute_force, cmaes"],
    ),
    "sampler-code": ({"SAMPLER": "__import__('os').system('x')"}, ["plain values", "NAME("]),
    "sampler-import": ({"SAMPLER": "__import__('os')"}, ["unknown sampler '__import__'"]),
    "sampler-lambda": ({"SAMPLER": "tpe(gamma=lambda n: 1)"}, ["plain values"]),
    "sampler-sum": ({"SAMPLER": "tpe(n_startup_trials=10**9)"}, ["plain values"]),
    "sampler-stars": ({"SAMPLER": "tpe(**{'seed': 1})"}, ["plain values"]),
    "sampler-deep": ({"SAMPLER": "tpe(" + "-" * 50_000 + "1)"}, ["plain values"]),
    "sampler-brackets": ({"SAMPLER": "(" * 5000}, ["plain values"]),
    "sampler-argument": ({"SAMPLER": "tpe(startup=3)"}, ["sampler 'tpe(startup=3)'", "startup"]),
    "sampler-type": ({"SAMPLER": "tpe(n_startup_trials='a')"}, ["the sampler cannot draw"]),
    "sampler-memory": (
        {"SAMPLER": "tpe(n_startup_trials=1, n_ei_candidates=100000000000000)"},
        ["the sampler cannot draw a trial"],
    ),
    "grid-continuous": ({"SAMPLER": "grid"}, ["lr is continuous", "grid(search_space="]),
    "grid-unknown": ({"SAMPLER": "grid(search_space={'depth': [1]})"}, ["sampler"]),
    "grid-empty": ({"SAMPLER": "grid(search_space={})"}, ["sampler"]),
    "pruner": (
        {"PRUNER": "hyperbnd"},
        ["unknown pruner 'hyperbnd'; did you mean 'hyperband'? available: asha"],
    ),
    "pruner-argument": (
        {"PRUNER": "asha(bracket=2)"},
        ["pruner 'asha(bracket=2)': unknown argument 'bracket'; did you mean 'brackets'? avail"],
    ),
    "pruner-rungs": ({"PRUNER": "asha(0)"}, ["min_resource=0 is not a whole number of at least 1"]),
    "pruner-code": ({"PRUNER": "exit()"}, ["unknown pruner 'exit'"]),
    "pruner-percent": ({"PRUNER": "percentile(200)"}, ["pruner 'percentile(200)'", "100"]),
    "pruner-zero": ({"PRUNER": "hyperband(max_resource=0)"}, ["pruner"]),
    "pruner-negative": ({"PRUNER": "median(n_startup_trials=-1)"}, ["pruner", "-1"]),
    "pruner-long": ({"PRUNER": "x" * 100_000}, ["unknown pruner 'xxx", "median"]),
}


@pytest.mark.parametrize("mistake", VALUES)
def test_a_wrong_value_is_one_line(
    refused: Callable[..., str], study_file: WriteStudy, mistake: str
) -> None:
    variables, words = VALUES[mistake]
    said = refused(**{"NAME": str(study_file()), **variables})
    for word in words:
        assert word in said


def runs_a_file(runs: Path) -> None:
    runs.write_text("notes")


def runs_below_a_file(runs: Path) -> None:
    runs.parent.write_text("notes")


def runs_a_link_to_nothing(runs: Path) -> None:
    runs.symlink_to("gone")


def runs_a_link_to_itself(runs: Path) -> None:
    runs.symlink_to(runs.name)


def runs_a_link_to_proc(runs: Path) -> None:
    runs.symlink_to("/proc")


@pytest.mark.parametrize(
    "make",
    [runs_a_file, runs_below_a_file, runs_a_link_to_nothing, runs_a_link_to_itself,
     runs_a_link_to_proc],
)  # fmt: skip
def test_runs_that_cannot_be_written_to_is_one_line(
    tmp_path: Path,
    refused: Callable[..., str],
    study_file: WriteStudy,
    make: Callable[[Path], None],
) -> None:
    runs = tmp_path / ("file/runs" if make is runs_below_a_file else "runs")
    make(runs)
    said = refused(NAME=study_file(), RUNS=runs)
    assert f"cannot write under RUNS={runs}" in said
    assert "set RUNS to a folder of yours" in said


def test_an_unknown_command_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["trails"]) == 2
    said = capfd.readouterr().err
    assert said.startswith(
        "error: unknown command 'trails'; did you mean 'trials'? available: compare"
    )
    assert "trainer" not in said  # a user starts none
    assert "did you mean 'trials'?" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("name", [name for name, found in COMMANDS.items() if found.loads_torch])
def test_a_mistake_is_said_before_torch_is_imported(
    name: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(module: str) -> None:
        raise AssertionError(f"{module} takes seconds to import")

    monkeypatch.setattr("search.__main__.import_module", refuse)
    monkeypatch.setattr("search.__main__.start_early", lambda: None)
    monkeypatch.setenv("SEED", "x")
    assert main([name]) == 2
    assert capfd.readouterr().err.startswith("error: SEED='x' is not a whole number")


def test_a_new_interpreter_says_the_same(
    tmp_path: Path, study_file: WriteStudy, plain_process: dict[str, str]
) -> None:
    study_file()
    variables = {"RUNS": "runs", "NAME": os.fsdecode(b"\xff.py")}
    done = subprocess.run(
        [sys.executable, "-m", "search", "study"],
        env={**plain_process, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True, text=True, cwd=tmp_path, timeout=100, check=False,
    )  # fmt: skip
    assert_refused(done.returncode, done.stderr, tmp_path, "NAME is not UTF-8 text")


def test_a_process_of_its_own_says_the_same(
    tmp_path: Path, study_file: WriteStudy, user: User
) -> None:
    study_file()
    user.before = f"import os; os.chdir({str(tmp_path)!r})"
    code, _, error = user.run(RUNS="runs", NAME="small.py", DATA="folder:small.py")
    assert_refused(code, error, tmp_path, "no folder")


def assert_refused(code: int, error: str, folder: Path, word: str) -> None:
    assert code == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert word in error
    assert [path.name for path in folder.iterdir()] == ["small.py"]
