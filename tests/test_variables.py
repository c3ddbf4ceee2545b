"""Variables of the command line: read, checked, and refused with the fix."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from search.errors import BadVariable
from search.run import StudyRun
from search.supervisor.devices import (
    assign_devices,
    count_cores,
    count_gpus,
    count_useful,
    explain_no_gpu,
)
from search.variables import VARIABLES, Variables, describe_variables, read_variables
from storage.errors import StorageError
from storage.paths import RunPaths, check_name


def test_unset_and_empty_variables_mean_the_studys_own() -> None:
    assert read_variables({"TRIALS": "", "GPUS": " ", "PATH": "/bin"}) == Variables(
        data_root=Path("data").absolute(), runs=Path("runs").absolute()
    )


def test_all_variables_are_read() -> None:
    found = read_variables(
        {
            "NAME": "cae", "TRIALS": "10", "EPOCHS": "5", "RETRAIN_EPOCHS": "3", "WORKERS": "2",
            "GPUS": "0,1", "DATA": "mnist", "DATA_ROOT": "/d", "STORAGE": "sqlite:////t/s.db",
            "SEED": "0", "RUNS": "/r", "TOP": "1", "SAMPLER": "tpe", "PRUNER": "none",
            "CSV": "/c", "PARQUET": "/p", "HOST": "::1, Lab.Example", "PORT": "1234",
        }
    )  # fmt: skip
    assert found == Variables(
        name="cae", trials=10, epochs=5, retrain_epochs=3, workers=2, gpus=(0, 1), data="mnist",
        data_root=Path("/d"), storage="sqlite:////t/s.db", seed=0, runs=Path("/r"), top=1,
        sampler="tpe", pruner="none", csv=Path("/c"), parquet=Path("/p"), port=1234,
        host=("::1", "lab.example"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("TRIALS", "ten", "TRIALS='ten' is not a whole number from 1"),
        ("TRIALS", "0", "TRIALS='0' is not"),
        ("TRIALS", "-5", "TRIALS='-5' is not"),
        ("TRIALS", "1.5", "TRIALS='1.5' is not"),
        ("TRIALS", "1e3", "TRIALS='1e3' is not"),
        ("TRIALS", "9" * 5000, "is not a whole number"),
        ("TRIALS", "٣", "is not a whole number"),
        ("TRIALS", "10; rm -rf /", "is not a whole number"),
        ("EPOCHS", "none", "EPOCHS='none'"),
        ("RETRAIN_EPOCHS", "0", "RETRAIN_EPOCHS='0'"),
        ("WORKERS", "0", "WORKERS='0' is not a whole number from 1 to 512"),
        ("WORKERS", "100000", "WORKERS='100000'"),
        ("SEED", "-1", "SEED='-1' is not a whole number from 0"),
        ("TOP", "all", "TOP='all'"),
        ("PORT", "99999", "PORT='99999'"),
        ("HOST", "0.0.0.0,", "HOST='0.0.0.0,' is no address and names with commas"),
        ("HOST", "http://lab.example", "HOST='http://lab.example' is no address"),
        ("GPUS", "all", "GPUS='all' is neither 'none' nor numbers such as 0,1"),
        ("GPUS", "0,,1", "GPUS='0,,1'"),
        ("GPUS", "-1", "GPUS='-1'"),
        ("FUSE", "0", "FUSE='0' is neither auto, none nor a whole number from 1 to 256"),
        ("FUSE", "all", "FUSE='all' is neither auto, none nor"),
        ("GPUS", "0,0", "names a GPU twice"),
        ("RUNS", "a\0b", "RUNS is not UTF-8 text"),
    ],
)
def test_a_wrong_value_is_one_line(name: str, value: str, message: str) -> None:
    with pytest.raises(BadVariable, match=message):
        read_variables({name: value})


def test_trials_are_fused_where_that_is_asked_for() -> None:
    found = {text: read_variables({"FUSE": text}).fuse for text in ("", "auto", "None", "4")}
    assert found == {"": 1, "auto": None, "None": 1, "4": 4}


def test_a_misspelt_variable_is_refused() -> None:
    with pytest.raises(BadVariable, match=r"unknown variable 'TRAILS'; .*did you mean 'TRIALS'"):
        read_variables({"GENSTUDY_GIVEN": "NAME TRAILS", "TRAILS": "5"})


def test_a_name_that_shells_export_counts_only_on_makes_command_line() -> None:
    exported = {"HOST": "desktop", "NAME": "desktop", "TOP": "9", "TRIALS": "7"}
    found = read_variables({"GENSTUDY_GIVEN": "TOP", **exported})
    assert (found.host, found.name, found.top, found.trials) == (("127.0.0.1",), None, 9, 7)
    assert read_variables(exported).host == ("desktop",)  # without make, the environment is all


def test_the_help_of_a_variable_says_its_default() -> None:
    assert VARIABLES["PORT"] == "port of the dashboard (default 8080)"
    lines = describe_variables(80).splitlines()
    assert "  SEED            all random choices follow from it" in lines
    assert [line.split()[0] for line in lines if line[2] != " "] == list(VARIABLES)


def test_folders_are_made_absolute() -> None:
    assert read_variables({"DATA": "folder:pets"}).data == f"folder:{Path('pets').absolute()}"


def test_without_a_name_the_fix_is_shown() -> None:
    with pytest.raises(BadVariable, match="make trials NAME=cae"):
        _ = read_variables({}).need_name("trials")


@pytest.mark.parametrize(
    ("gpus", "workers", "visible", "expected"),
    [
        (None, None, 2, ["cuda:0", "cuda:1"]),
        (None, 3, 2, ["cuda:0", "cuda:1", "cuda:0"]),
        ((1,), None, 2, ["cuda:1"]),
        ((1, 0), 4, 2, ["cuda:1", "cuda:0", "cuda:1", "cuda:0"]),
        ((), None, 8, ["cpu"] * count_cores()),
        ((), 3, 8, ["cpu"] * 3),
        (None, None, 0, ["cpu"] * count_cores()),
        (None, 1, 0, ["cpu"]),
    ],
)
def test_workers_get_devices(
    gpus: tuple[int, ...] | None, workers: int | None, visible: int, expected: list[str]
) -> None:
    assert assign_devices(gpus=gpus, workers=workers, visible=visible) == expected


def test_gpus_are_those_that_cuda_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside a GPU that is cut up (MIG) the driver knows others, which a process cannot use."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch._C, "_cuda_getDeviceCount", lambda: 1, raising=False)
    assert count_gpus() == 1


@pytest.mark.parametrize(
    ("ended", "top", "shown", "useful"),
    [
        (0, 3, None, 20),  # a trial each
        (18, 3, None, 6),  # two are left, and then three configurations are raced with two seeds
        (18, 0, None, 2),
        (20, 0, None, 1),
        (0, 1, 4, 4),  # a person compares four at once
    ],
)
def test_no_more_workers_start_than_have_something_to_do(
    ended: int, top: int, shown: int | None, useful: int
) -> None:
    run = StudyRun(
        name="cae", study="cae", storage="", runs="", images="", seed=0, trials=20, epochs=5,
        retrain_epochs=9, revision="", token="", seeds=3, shown=shown,
    )  # fmt: skip
    assert count_useful(run, ended=ended, top=top) == useful


@pytest.mark.parametrize(("visible", "there"), [(0, "none"), (1, "only 0"), (2, "0 to 1")])
def test_a_gpu_that_is_not_there_is_refused(visible: int, there: str) -> None:
    with pytest.raises(BadVariable, match=f"GPU 2, but this machine shows {there}; .*GPUS=none"):
        assign_devices(gpus=(2,), workers=None, visible=visible)


def test_a_gpu_that_is_hidden_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.supervisor.devices.DEVICES", tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert explain_no_gpu() is None
    (tmp_path / "nvidia3").touch()  # a container has the GPUs that it is given
    assert "is its driver too old?" in (explain_no_gpu() or "")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(BadVariable, match="shows none; CUDA_VISIBLE_DEVICES='' shows none of"):
        assign_devices(gpus=(0,), workers=None, visible=0)


UNUSABLE = (
    *("..", "a/b", "/etc", "", ".hidden", "a\0", "x" * 101, "猫" * 90),
    *("a\\b", "a\n", "a ", "-a", "_", "\udcff"),
)


@pytest.mark.parametrize("name", UNUSABLE)
def test_no_study_name_leaves_runs(name: str, tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    for place in (paths.exports, paths.checkpoints, lambda study: paths.worker_log(study, 0)):
        with pytest.raises(StorageError, match="not usable"):
            place(name)


def test_ordinary_names_are_fine() -> None:
    names = ("cae", "cae-digits", "A1.b_c", "9", "a b", "größe", "猫", "50% of $x", "it's #1 [b]?")
    for name in names:
        assert check_name(name) == name
