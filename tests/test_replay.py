"""`make replay`: a trial is trained again from its record, and compared bit for bit."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import optuna
import pytest

from models.evaluation.sample_evaluator import SampleEvaluator
from search.setup.record_changes import Surroundings, describe_changes
from search.trials.epoch_report import EpochReport
from search.trials.outcomes import Ending
from search.trials.recorded_trial import FUSED_EPOCHS, NotRecorded, RecordedTrial, read_recorded
from search.trials.study_code import StudyCode
from search.worker.context import WorkerContext
from search.worker.evaluator import StudyEvaluators
from search.worker.replaying import NotTrainable, train_again
from storage import trials
from tests.queues import make_study
from tests.test_joining import IDENTITY
from tests.trials import Broken, Diverging, MakeContext, run_one
from tests.user import User, WriteStudy, is_error_line

FEW_DIGITS = True

RECORDED = RecordedTrial(
    study="cae",
    number=7,
    metric="mse",
    minimize=True,
    parameters={},
    curve={1: 0.5, 2: 0.25, 3: 0.3},
    value=0.25,
    outcome="complete",
    diverged=None,
    attributes={
        "code": "v1", "environment": "python 3.11, torch 2.10.0", "revision": "abc",
        "device": "cpu", "host": "m",
    },
)  # fmt: skip
CODE = StudyCode(version="v1", files={"mine.py": "1", "models/cae.py": "2"})
HERE = Surroundings(
    identity=IDENTITY,
    code=CODE,
    revision="abc",
    environment="python 3.11, torch 2.10.0",
    device="cpu",
    host="m",
)


def contents_of(path: Path) -> list[str]:
    """All rows of a database of SQLite."""
    connection = sqlite3.connect(path)
    try:
        return list(connection.iterdump())
    finally:
        connection.close()


def again(context: WorkerContext, number: int = 0) -> tuple[RecordedTrial, dict[int, float], int]:
    """Train a trial again; its record, the values that came, and the epoch that had none, or 0."""
    recorded = read_recorded(context.queue.study, number, metric=context.spec.quality)
    epochs = list(train_again(context, recorded))
    values = {epoch.number: epoch.value for epoch in epochs if epoch.value is not None}
    return recorded, values, next((epoch.number for epoch in epochs if epoch.value is None), 0)


def test_the_same_curve_is_equal_and_says_what_was_compared() -> None:
    found = RECORDED.compare({1: 0.5, 2: 0.25, 3: 0.3})
    assert found.is_equal
    assert found.line == "equal: all 3 epochs and its value 0.25 come out again, bit for bit"
    pruned = replace(RECORDED, outcome="pruned", value=None)
    line = pruned.compare({1: 0.5, 2: 0.25, 3: 0.3}).line
    assert line == "equal: all 3 epochs, after which it was pruned, come out again, bit for bit"
    line = replace(pruned, curve={1: 0.5}).compare({1: 0.5}).line
    assert line == "equal: its 1 epoch, after which it was pruned, comes out again, bit for bit"


@pytest.mark.parametrize(
    ("values", "diverged", "words"),
    [
        (
            {1: 0.5, 2: 0.25000000001, 3: 0.3},
            None,
            "differs since epoch 2: mse 0.25000000001, stored 0.25 (4.0e-11 of it); its value is",
        ),
        ({1: 0.4, 2: 0.25, 3: 0.8}, None, "(2.0e-01 of it); most in epoch 3, by 0.5"),
        ({1: 0.5}, 2, "differs it is not finite in epoch 2, and the stored one finite"),
    ],
)
def test_a_difference_is_said_with_its_epoch_and_size(
    values: dict[int, float], diverged: int | None, words: str
) -> None:
    found = RECORDED.compare(values, diverged)
    assert not found.is_equal
    assert words in found.line
    assert "\n" not in found.line


def test_a_stored_value_that_is_not_its_best_epoch_differs() -> None:
    found = replace(RECORDED, value=0.2).compare(RECORDED.curve)
    assert not found.is_equal
    assert "the best of them is mse 0.25, and the trial's stored value 0.2" in found.line


@pytest.mark.parametrize(
    ("kept", "here", "lines"),
    [
        ({}, {}, []),
        (
            {"environment": "python 3.11, torch 2.9.1"},
            {"device": "cuda:0 (H200)", "host": "n"},
            [
                "packages: torch 2.9.1, here 2.10.0",
                "device: cpu, here cuda:0 (H200)",
                "host: m, here n",
            ],
        ),
        (
            {"revision": ""},
            {"code": StudyCode(version="v2", files={"mine.py": "1", "models/cae.py": "3"})},
            ["files: models/cae.py changed since", "code revision: not kept, here abc"],
        ),
        ({"code": "v0 v1"}, {}, ["files: 2 versions of the code trained it, one after the other"]),
        (
            {FUSED_EPOCHS: 3},
            {},
            ["fused: 3 epochs with other trials, here alone: values differ by rounding"],
        ),
        ({"code": "v9"}, {}, ["files: their version v9 is not known here"]),
        (
            {"code": ""},
            {"identity": replace(IDENTITY, pixels="q")},
            [
                "study: pixels of the images p, now q",
                "files: an older version of genstudy kept none",
            ],
        ),
    ],
)
def test_what_differs_of_code_and_environment_is_named(
    kept: dict[str, object], here: dict[str, object], lines: list[str]
) -> None:
    recorded = replace(RECORDED, attributes={**RECORDED.attributes, **kept})
    now = replace(HERE, **here)  # type: ignore[arg-type]
    assert describe_changes(recorded, IDENTITY, now, [CODE]) == lines


@pytest.mark.parametrize(
    ("before", "now", "changed"),
    [
        ({"a/cae.py": "1", "b/cae.py": "2"}, {"a/cae.py": "9", "b/cae.py": "2"}, ["a/cae.py"]),
        ({"a/cae.py": "1", "b/cae.py": "2"}, {"a/cae.py": "1", "b/cae.py": "9"}, ["b/cae.py"]),
        ({"/a/mine.py": "1", "models/cae.py": "2"}, {"/b/mine.py": "1", "models/cae.py": "2"}, []),
        ({"/a/mine.py": "1"}, {"/b/mine.py": "9"}, ["/b/mine.py"]),
        ({"/a/x.py": "1", "/a/in/x.py": "2"}, {"/b/x.py": "1", "/b/in/x.py": "2"}, []),
        ({"/a/x.py": "1", "/a/in/x.py": "2"}, {"/b/x.py": "1"}, ["/a/in/x.py"]),
        ({"mine.py": "1"}, {"mine.py": "1", "more.py": "3"}, ["more.py"]),
    ],
)  # fmt: skip
def test_a_file_is_compared_with_the_one_of_its_place_and_else_of_its_name(
    before: dict[str, str], now: dict[str, str], changed: list[str]
) -> None:
    found = StudyCode(version="2", files=now).changed_files(StudyCode(version="1", files=before))
    assert found == changed


def test_what_has_no_curve_is_refused_with_the_reason(storage_url: str) -> None:
    queue = make_study(storage_url)
    ends = [
        Ending.failed(KeyError("a mistake")),
        Ending.turned_down(optuna.TrialPruned("too wide"), 0),
        None,
    ]
    for ending in ends:
        trial = queue.claim(9)
        assert trial is not None
        if ending is not None:
            queue.end(trial, ending)
    assert trial is not None
    queue.report(trial, EpochReport(1, 0.5, {}))
    for number, words in (
        (0, "trial 0 of study s is failed: KeyError: 'a mistake'"),
        (1, "was pruned before its first epoch: TrialPruned: too wide"),
        (2, "trial 2 of study s still runs"),
        (3, "study 's' has no trial 3; it has trials 0 to 2"),
    ):
        with pytest.raises(NotRecorded, match=words.replace(":", ".")):
            read_recorded(queue.study, number, metric="mse")


def test_a_trial_that_diverged_diverges_again(make_context: MakeContext) -> None:
    context = make_context(model=Diverging)
    assert run_one(context)["outcome"] == "diverged"
    recorded, values, diverged = again(context)
    assert (list(values), diverged) == ([1], 2)
    assert recorded.compare(values, diverged).is_equal
    assert not recorded.compare(values).is_equal, "a finite second epoch would be another trial"


def test_code_that_fails_now_is_one_line_with_the_fix(make_context: MakeContext) -> None:
    context = make_context()
    run_one(context)
    broken = make_context(model=Broken)
    with pytest.raises(NotTrainable, match=r"KeyError: .*put back the files"):
        again(broken)


def test_samples_are_judged_again_alike_and_nothing_is_written(
    make_gan_context: MakeContext, judge: SampleEvaluator, tmp_path: Path
) -> None:
    context = make_gan_context()
    run_one(context)
    before = contents_of(tmp_path / "studies.db")
    recorded, values, _ = again(context)
    assert recorded.compare(values).is_equal

    class Own(StudyEvaluators):
        def _agree_on(self, attribute: str, **rest: object) -> SampleEvaluator:
            assert self._remember(attribute, judge.extractor, judge.record)
            return judge

    Own(context.run, context.images, context.queue, keeps=False)
    assert contents_of(tmp_path / "studies.db") == before
    Own(context.run, context.images, context.queue)
    assert contents_of(tmp_path / "studies.db") != before, "a worker keeps it"


def test_the_command_finds_the_same_values_or_says_what_differs(
    user: User, study_file: WriteStudy
) -> None:
    path = study_file()
    code, _, error = user.run(NAME=path, TOP=0, PRUNER="asha", EPOCHS=3, WORKERS=1)
    assert code == 0, error
    before = contents_of(user.runs / "studies.db")
    frame = trials("small", storage=user.url)
    for outcome, epochs in (("complete", "3 epochs"), ("pruned", "1 epoch of 3")):
        number = frame["number"][frame["outcome"] == outcome].iloc[0]
        code, out, error = user.run("replay", NAME=path, TRIAL=number, SEED=5, EPOCHS=9)
        assert code == 0, error
        assert "now" not in out, "the stored seed and epochs are what is trained"
        assert f"({outcome}) is trained again: {epochs} on cpu, mse" in out
        assert re.search("comes? out again, bit for bit", out)

    study_file(replace={"lr=trial.": "augment=False, lr=trial."})
    code, out, error = user.run("replay", NAME=path, TRIAL=0)
    assert (code, is_error_line(error)) == (2, True), error
    assert f"{path}, line" in error
    study_file(replace={"return CAEConfig(": "return CAEConfig(optimizer='sgd',"})
    code, out, error = user.run("replay", NAME=path, TRIAL=0)
    assert code == 1, error
    assert f"files: {path} changed since" in out
    assert "study: the configurations that suggest makes" in out
    assert "differs since epoch 1: mse " in out
    assert contents_of(user.runs / "studies.db") == before


def test_mistakes_are_one_line(refused: Callable[..., str], study_file: WriteStudy) -> None:
    assert "NAME is not set" in refused("replay")
    assert "TRIAL is not set; say which trial: make replay NAME=cae TRIAL=0" in refused(
        "replay", NAME="cae"
    )
    assert "TRIAL='-1' is not a whole number" in refused("replay", NAME="cae", TRIAL="-1")
    assert "no trial database at" in refused("replay", NAME="cae", TRIAL="0")
