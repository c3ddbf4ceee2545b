"""What a person may have meant by words that a command cannot use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from models.asked_labels import read_labels
from models.cae import CAE, CAEConfig
from models.data.binarised import BINARISED, DYNAMIC
from models.data.images import STACKED
from models.data.loading import find_source
from models.data.noise import check_noise
from models.data.torchvision_sets import TORCHVISION_SETS
from models.optimizers import make_optimizer
from search.engines.ray import read_resources
from search.errors import BadVariable, UnknownStudy
from search.hints import SETS, missing_name, stray_word
from search.setup.loading import find_study, study_names
from search.strategies.pruners import make_pruner
from search.strategies.samplers import make_sampler
from search.study import StudySpec
from search.variables import read_variables
from storage.errors import suggest_name


@pytest.mark.parametrize(
    ("command", "given", "words"),
    [
        ("study", {}, ["make study NAME=cae", "acgan, acgan_few, augm", "the path of a file"]),
        ("trials", {}, ["make trials NAME=cae", "make studies lists them"]),
        ("report", {"GENSTUDY_STRAY": "vae"}, ["did you mean make report NAME=vae?"]),
        ("study", {"GENSTUDY_STRAY": "gan_balence"}, ["mean make study NAME=gan_balance?"]),
        ("study", {"GENSTUDY_STRAY": "mine.py"}, ["did you mean make study NAME=mine.py?"]),
        ("study", {"name": "vae"}, ["in capitals; did you mean make study NAME=vae?"]),
        ("study", {"NAME": "host-7"}, ["a NAME that the shell exports does not count"]),
    ],
)
def test_a_forgotten_name_says_how_it_is_written(
    command: str, given: dict[str, str], words: list[str]
) -> None:
    for word in words:
        assert word in missing_name(command, given)
    assert all(name in missing_name("study", {}) for name in study_names())


def test_a_word_that_is_no_target_is_refused_before_anything_runs() -> None:
    given = {"GENSTUDY_GIVEN": "NAME", "NAME": "cae", "GENSTUDY_STRAY": "vae"}
    with pytest.raises(BadVariable, match=r"no target 'vae'; .*: make study NAME=vae"):
        read_variables(given)
    assert read_variables({"GENSTUDY_GIVEN": "", "GENSTUDY_STRAY": "vae"}).name is None
    assert "did you mean make trials?" in stray_word("trails", ["study", "trials"])
    assert "did you mean make study NAME=cae_27?" in stray_word("cae27", ["study", "trials"])
    assert "without blanks: make help" in stray_word("x", ["study", "trials"])


@pytest.mark.parametrize("name", ["name", "Name", "trials", "TRAILS", "retrain_epoch"])
def test_a_variable_in_small_letters_or_misspelt_is_recognised(name: str) -> None:
    with pytest.raises(BadVariable, match=r"did you mean '(NAME|TRIALS|RETRAIN_EPOCHS)'\?"):
        read_variables({"GENSTUDY_GIVEN": name, name: "cae"})


@pytest.mark.parametrize("written", ["~/pictures", "./pictures", "/data/pictures", "../a/b"])
def test_a_folder_without_its_kind_is_recognised(written: str) -> None:
    with pytest.raises(BadVariable) as refusal:
        read_variables({"DATA": written})
    assert f"did you mean DATA=folder:{written}?" in str(refusal.value)


def test_a_set_wins_over_a_folder_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("digits", "pictures"):
        Path(name).mkdir()
    assert read_variables({"DATA": "digits"}).data == "digits"
    with pytest.raises(BadVariable, match="folder:pictures"):
        read_variables({"DATA": "pictures"})
    assert read_variables({"DATA": "zip:/x.zip"}).data == "zip:/x.zip", "no folder: its reader says"
    assert read_variables({"DATA": "x" * 5000}).data == "x" * 5000
    assert set(SETS) == {*TORCHVISION_SETS, STACKED, BINARISED, DYNAMIC, "digits"}


def test_a_study_file_beside_is_recognised(
    study_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(study_file().parent)
    with pytest.raises(UnknownStudy, match=r"did you mean small\.py\?"):
        find_study("small")


def test_a_name_that_is_close_to_one_is_offered() -> None:
    assert suggest_name("mdian", ("median", "none")) == "did you mean 'median'? "
    assert suggest_name("FASHION_MNIST", ("fashion_mnist", "mnist")).startswith("did you mean 'fa")
    assert suggest_name("cae", ["vae-digits", "cae-digits"]) == "did you mean 'cae-digits'? "
    assert (
        suggest_name("caee", ["cae_27-digits", "vae-digits", "cae-digits"])
        == "did you mean 'cae-digits'? "
    )
    assert suggest_name("cae_", ["cae_27_of_mine"]) == "did you mean 'cae_27_of_mine'? "
    assert suggest_name("x", ["xyz"]) == suggest_name("cae", []) == ""


@pytest.mark.parametrize(
    ("read", "meant"),
    [
        (lambda: make_sampler("tep", seed=0, space={}), "tpe"),
        (lambda: make_sampler("tpe(n_startup=5)", seed=0, space={}), "n_startup_trials"),
        (lambda: make_pruner("medain"), "median"),
        (lambda: make_pruner("median(warmup_steps=2)"), "n_warmup_steps"),
        (lambda: find_source("Fashion-MNIST", Path()), "fashion_mnist"),
        (lambda: read_labels("smlie", ("smile", "beard")), "smile"),
        (lambda: check_noise("gausian", 0.5), "gaussian"),
        (lambda: make_optimizer("adm", [], lr=0.1), "adam"),
        (lambda: read_resources({"num_gpu": "1"}, has_gpus=True), "num_gpus"),
        (lambda: find_study("cea"), "cae"),
        (
            lambda: StudySpec(
                model=CAE,
                suggest=lambda trial: CAEConfig(),
                data="digits",
                metric="mes",
                trials=1,
                epochs=1,
            ),
            "mse",
        ),
    ],
)
def test_every_name_that_a_person_types_is_met_with_the_one_that_is_close(
    read: Callable[[], object], meant: str
) -> None:
    with pytest.raises(Exception, match=rf"did you mean '{meant}'\?"):
        read()


def test_the_name_of_a_stored_study_says_how_it_is_begun() -> None:
    with pytest.raises(UnknownStudy, match="with make study NAME=cae DATA=digits"):
        find_study("cae-digits")
