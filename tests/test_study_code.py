"""Trials that different code computes do not mix without a word."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest

from search.errors import StudyChanged
from search.setup import code_digest
from search.setup.code_digest import (
    combine_digests,
    describe_environment,
    digest_code,
    digest_source,
)
from search.setup.loading import load_study
from search.strategies.samplers import make_sampler
from search.trials.outcomes import Ending
from search.trials.queue import TrialQueue, open_queue
from search.trials.study_code import (
    KEY,
    StudyCode,
    accept_code,
    code_attributes,
    describe_mixture,
    read_codes,
)
from storage.database.connection import open_storage
from tests.user import User, WriteStudy

FILE = '''
"""A study."""
from models.cae import CAE  # the family
SCALE = 0.5
"""Of the rate."""

def suggest(trial):
    """Draw."""
    return SCALE * trial.suggest_float("lr", 1e-4, 1e-2)

def table(trials, curves):
    return 1

STUDY = StudySpec(model=CAE, suggest=suggest, trials=4, summary=table)
'''
OpenQueue = Callable[..., TrialQueue]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("  # the family", ""),
        ('"""A study."""', '"""Another word."""\n\n'),
        ('    """Draw."""\n', ""),
        ('"""Of the rate."""', '"""Of the learning rate."""'),
        ('("lr", 1e-4, 1e-2)', '(\n        "lr", 1e-4,\n        1e-2,\n    )'),
        ("trials=4", 'trials=40, sampler="tpe"'),
        ("return 1", "return 2"),
    ],
)
def test_what_computes_nothing_does_not_count(old: str, new: str) -> None:
    assert old in FILE
    assert digest_source(FILE.encode()) == digest_source(FILE.replace(old, new).encode())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("0.5", "0.25"),
        ("0.5", "'0.5'"),
        ("1e-4, 1e-2", "1e-2, 1e-4"),
        ("SCALE *", "SCALE +"),
        ("model=CAE", "model=VAE"),
        ('    """Draw."""\n', '    trial = "Draw"\n'),
    ],
)
def test_what_computes_something_else_counts(old: str, new: str) -> None:
    assert old in FILE
    assert digest_source(FILE.encode()) != digest_source(FILE.replace(old, new).encode())


def test_a_file_that_is_no_python_counts_as_it_is() -> None:
    assert digest_source(b"a = = 1") != digest_source(b"a = = 2")


def test_the_code_of_a_study_is_all_that_computes_its_values() -> None:
    cae, gan = load_study("cae").code, load_study("gan_balance").code
    wanted = {
        "models/cae.py", "models/base.py", "models/optimizers.py", "models/training/loop.py",
        "models/kernels/conv_kernels.py", "models/seeds.py", "search/studies/cae.py",
    }  # fmt: skip
    assert wanted <= cae.keys()
    judged = {"models/evaluation/frechet.py", "search/worker/evaluator.py", "models/gan.py"}
    assert judged <= gan.keys()
    assert not judged & cae.keys()
    strangers = ("models/figures", "models/analysis", "models/export", "models/vae", "storage")
    assert not [path for path in (*cae, *gan) if path.startswith(strangers)]


def test_a_comment_in_genstudy_is_no_changed_code(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spec = load_study("cae").spec
    shutil.copytree(code_digest.ROOT / "models", tmp_path / "models")
    monkeypatch.setattr(code_digest, "ROOT", tmp_path)
    loop = tmp_path / "models" / "training" / "loop.py"
    before, source = digest_code({}, spec), loop.read_text()
    assert "models/training/loop.py" in before
    loop.write_text(f"# Why it is so.\n{source}")
    assert digest_code({}, spec) == before
    loop.write_text(f"{source}\nSIZE = 1\n")
    changed = digest_code({}, spec)
    assert [path for path in before if changed[path] != before[path]] == ["models/training/loop.py"]


def test_what_trains_several_models_as_one_program_computes_values_of_families_that_fuse() -> None:
    fused = {
        "models/training/fused_steps.py", "models/training/stacked_optimizers.py",
        "models/kernels/product_convolution.py",
    }  # fmt: skip
    assert fused <= load_study("cae").code.keys()
    assert not fused & load_study("vae").code.keys()


def test_the_place_of_a_file_does_not_count(study_file: WriteStudy, tmp_path: Path) -> None:
    here = load_study(str(study_file()))
    (tmp_path / "there").mkdir()
    moved = here.path.rename(tmp_path / "there" / here.path.name)
    there = load_study(str(moved))
    assert here.code.keys() != there.code.keys()
    assert here.version == there.version == combine_digests(there.code)


def test_what_is_used_is_named() -> None:
    words = describe_environment()
    assert words.startswith("python 3.")
    assert ", torch 2." in words
    assert ", numpy " in words


def code_of(word: str) -> StudyCode:
    return StudyCode(version=word, files={"models/cae.py": "same", "/my/study.py": word})


@pytest.fixture
def opened(tmp_path: Path) -> OpenQueue:
    """Open the queue of one study with a version of its code, once that was accepted."""
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    optuna.create_study(study_name="small", storage=open_storage(url))

    def make(word: str, *, is_accepted: bool = False, asks: bool = True) -> TrialQueue:
        sampler = make_sampler("random", seed=0, space={})
        queue = open_queue("small", url, owner="me", sampler=sampler, version=word)
        if asks:
            accept_code(queue.study, code_of(word), is_accepted=is_accepted)
        return queue

    return make


def run_trial(queue: TrialQueue, total: int, *, environment: str = "torch 2.0") -> None:
    trial = queue.claim(total)
    assert trial is not None
    queue.set_attributes(trial, code_attributes({}, queue.version, environment))
    queue.end(trial, Ending.complete(0.5, 1))


def test_other_code_is_refused_and_its_files_are_named(opened: OpenQueue) -> None:
    run_trial(opened("a"), 1)
    with pytest.raises(StudyChanged) as refused:
        opened("b")
    assert str(refused.value) == (
        "study 'small' has 1 trial that other code computed (/my/study.py changed since): values "
        "would not compare. Put the code back to go on, start afresh with another RUNS or a "
        "renamed study file, or say CODE=changed to mix them"
    )
    run_trial(opened("a"), 2)


def test_a_word_accepts_other_code_for_good(opened: OpenQueue) -> None:
    run_trial(opened("a"), 1)
    run_trial(opened("b", is_accepted=True), 2)
    for word in ("b", "a"):
        assert [code.version for code in read_codes(opened(word).study)] == ["a", "b"]
    lines = describe_mixture(opened("b").study, "b", "torch 2.0")
    assert [line.partition(" than")[0] for line in lines] == ["1 of 2 trials is of other code"]
    assert describe_mixture(opened("a").study, "c", "torch 2.0")[0].startswith("2 of 2 trials are")


def test_before_anything_is_computed_code_may_change(opened: OpenQueue) -> None:
    opened("a").study.enqueue_trial({"lr": 0.5})
    assert [code.version for code in read_codes(opened("b").study)] == ["b"]


def test_a_trial_that_other_code_has_begun_counts(opened: OpenQueue) -> None:
    assert opened("a").claim(1) is not None
    with pytest.raises(StudyChanged, match="1 trial that other code computed"):
        opened("b")


def test_mended_code_goes_on_without_a_word(opened: OpenQueue) -> None:
    queue = opened("a")
    run_trial(queue, 2)
    trial = queue.claim(2)
    assert trial is not None
    queue.end(trial, Ending.failed(ValueError("no")))
    assert opened("b").retry_mended() == 1
    assert describe_mixture(queue.study, "b", "torch 2.0")[0].startswith("1 of 1 trial is")


def test_a_run_whose_code_is_no_longer_the_studys_takes_no_trial(opened: OpenQueue) -> None:
    first = opened("a")
    opened("b")  # another machine, a moment later
    with pytest.raises(StudyChanged, match="begun again with other code while this run went on"):
        first.claim(2)
    run_trial(opened("b"), 2)


def test_trials_of_versions_that_kept_no_code_are_said(opened: OpenQueue) -> None:
    queue = opened("", asks=False)
    trial = queue.claim(1)
    assert trial is not None
    queue.end(trial, Ending.complete(0.5, 1))
    (line,) = describe_mixture(opened("a").study, "a", "torch 2.0")
    assert line.startswith("1 of 1 trial is of other or unknown code than this run's: ")


def test_other_packages_are_said(opened: OpenQueue) -> None:
    queue = opened("a")
    run_trial(queue, 2, environment="python 3.11, torch 2.10.0, linux AVX2")
    run_trial(queue, 2, environment="python 3.11, torch 2.11.0, linux AVX2")
    (line,) = describe_mixture(queue.study, "a", "python 3.11, torch 2.11.0, linux AVX2")
    assert line == (
        "1 of 2 trials is of other packages than here (torch 2.10.0, here 2.11.0): values may "
        "differ in their last digits"
    )


def test_a_trial_that_other_code_began_keeps_both() -> None:
    begun = code_attributes({}, "a", "torch 2.0")
    gone_on = code_attributes(begun, "b", "torch 2.1")
    assert (gone_on["code"], gone_on["environment"]) == ("a b", "torch 2.1")
    assert code_attributes(gone_on, "b", "torch 2.1") == gone_on


@pytest.mark.parametrize("garbage", ["7", "{}", '[{"version": 1, "files": {}}]', "[", '["a"]'])
def test_what_somebody_else_wrote_there_is_no_code(opened: OpenQueue, garbage: str) -> None:
    study = opened("a").study
    study._storage.set_study_system_attr(study._study_id, KEY, garbage)
    assert read_codes(study) == []


def test_a_changed_model_is_refused_or_accepted_by_a_word(
    user: User, study_file: WriteStudy
) -> None:
    path = study_file(replace={"def suggest": "SCALE = 0.5\n\n    def suggest"})
    assert user.run(NAME=path, TRIALS=1, TOP=0)[0] == 0
    path.write_text(path.read_text().replace("SCALE = 0.5", "SCALE = 0.6"))
    code, _, error = user.run(NAME=path, TRIALS=2, TOP=0)
    assert code == 2
    assert f"({path} changed since)" in error
    assert error.count("\n") == 1
    code, out, error = user.run(NAME=path, TRIALS=2, TOP=0, CODE="changed")
    assert (code, error) == (0, "")
    assert "1 of 1 trial is of other code than this run's" in out
    with sqlite3.connect(user.runs / "studies.db") as database:
        found = database.execute(
            "SELECT value_json FROM trial_user_attributes WHERE key = 'code' ORDER BY trial_id"
        )
        versions = [json.loads(word) for (word,) in found]
    database.close()
    assert len(versions) == len(set(versions)) == 2
