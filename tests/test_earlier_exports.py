"""What an earlier run exported or was given is kept, or is replaced with a word."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import optuna
import pytest

from models.base import Model
from models.cae import CAE
from models.stargan import StarGAN
from models.tensor_files import write_tensors
from models.vae import VAE
from search.cli.closing_lines import describe_kept, describe_remembered, next_lines
from search.events import Exported
from search.jobs import Export, Retrain
from search.run import StudyRun
from search.setup.remembered import remember_retrain_epochs
from search.setup.stored_study import StudyIdentity, write_identity
from search.study import StudySpec
from search.supervisor.finish import say_what_moves
from search.supervisor.retrain_best import say_what_is_trained_again
from search.trials.leaderboard import Leaderboard
from search.trials.retraining_record import RetrainingRecord
from search.variables import Variables
from search.worker import exporting
from search.worker.context import WorkerContext
from storage.files.exports import (
    free_place,
    holds_other_files,
    publish,
    remove_earliest,
    remove_unfinished,
)
from tests.test_progress import a_display, a_worker
from tests.trials import MakeContext

RECORD: dict[str, Any] = {
    "study": "small", "token": "t", "study_file": "small", "trial": 3, "trial_value": 0.1,
    "parameters": {}, "starts_from": None, "config": {}, "model": "CAE", "model_parameters": 1,
    "data": "digits", "images": {"train": 1, "valid": 1, "test": 1}, "pixels": "p",
    "metric": "mse", "direction": "minimize", "seed": 1, "study_seed": 0, "epochs": 2,
    "most_epochs": 2, "patience": 2, "ended_by": "most epochs", "best_epoch": 1,
    "valid": {"mse": 0.1}, "judge": None, "verdict": {}, "test": None, "tables": [], "curve": [],
    "seconds": 1.0, "device": "cpu", "revision": "r", "made": "now",
}  # fmt: skip
OF_THE_EXPORT = {"rank": 1, "output_differences": {}, "pictures": {}}


def write_export_of(context: WorkerContext, rank: int, **changes: Any) -> Path:
    """An export of trial 3 without a model, and the record of its retraining."""
    record = {**RECORD, **changes}
    paths = context.retraining_paths(record["trial"])
    paths.record.parent.mkdir(parents=True, exist_ok=True)
    paths.record.write_text(json.dumps(record))
    identity = RetrainingRecord.from_plain(record).identity()
    write_tensors(paths.best, {}, {"checkpoint": {}}, of=identity)
    folder = context.run.paths.export("small", rank)
    folder.mkdir(parents=True)
    (folder / "weights.safetensors").write_text("weights")
    publish(folder, {**record, **OF_THE_EXPORT})
    return folder


def change(file: str, content: str) -> Callable[[Path], object]:
    return lambda folder: (folder / file).write_text(content)


@pytest.mark.parametrize(
    ("what", "lost"),
    [
        (lambda folder: None, False),
        (lambda folder: (folder / "weights.safetensors").unlink(), False),
        (change("notes.txt", "mine"), True),
        (change("README.md", "my words"), True),
        (change("weights.safetensors", "tuned"), True),
        (change("provenance.json", "damaged"), True),
        (lambda folder: (folder / "mine").mkdir(), True),
    ],
    ids=["whole", "lacks-a-file", "notes", "card", "weights", "provenance", "folder"],
)
def test_an_export_is_removed_only_if_it_can_be_made_again(
    make_context: MakeContext, what: Callable[[Path], object], lost: bool
) -> None:
    context = make_context()
    folder = write_export_of(context, 1)
    what(folder)
    assert exporting.can_be_made_again(context, folder) != lost


def test_an_export_of_another_study_or_training_is_kept(make_context: MakeContext) -> None:
    context = make_context()
    folder = write_export_of(context, 1)
    record = context.retraining_paths(3).record
    record.write_text(json.dumps({**RECORD, "made": "later"}))
    assert not exporting.can_be_made_again(context, folder)
    record.unlink()
    assert not exporting.can_be_made_again(context, folder)
    namesake = make_context(token="another")
    assert not exporting.can_be_made_again(namesake, folder)


def test_a_kept_export_has_a_place_of_its_own(tmp_path: Path) -> None:
    assert free_place(tmp_path / "1") == tmp_path / "1-earlier"
    (tmp_path / "1-earlier").mkdir()
    assert free_place(tmp_path / "1") == tmp_path / "1-earlier-2"


def test_of_kept_exports_the_latest_few_stay_and_all_that_somebody_has_changed(
    make_context: MakeContext, tmp_path: Path
) -> None:
    context = make_context()
    first = write_export_of(context, 1)
    for number in range(1, 9):
        shutil.copytree(first, free_place(first))
        assert free_place(first).name == f"1-earlier-{number + 1}"
    names = sorted(path.name for path in first.parent.iterdir())
    (first.parent / "1-earlier-2" / "notes.txt").write_text("mine")
    (first.parent / "1-earlier-3" / "README.md").write_text("my words")
    (first.parent / "1-earlier-8" / "provenance.json").write_text("damaged")
    (first.parent / "1-earlier-mine").mkdir()
    (first.parent / "11-earlier").mkdir()
    assert remove_earliest(first, stay=6) == []
    assert remove_earliest(first, stay=3) == [
        first.parent / "1-earlier-4", first.parent / "1-earlier"
    ]  # fmt: skip
    gone = {"1-earlier", "1-earlier-4"}
    others = {"1-earlier-mine", "11-earlier"}
    assert {path.name for path in first.parent.iterdir()} == {*names, *others} - gone
    assert free_place(first).name == "1-earlier-9", "the number tells which one is the latest"


def test_what_is_kept_and_what_is_removed_is_said() -> None:
    display, said = a_display()
    scores: dict[str, Any] = {"metric": "mse", "valid": 0.1, "test": None}
    event = Exported(
        number=3, rank=1, folder="e/1", earlier="e/1-earlier-9", removed=["e/1-earlier"], **scores
    )
    display.handle_event(a_worker(), event)
    assert said.getvalue().splitlines()[1:] == [
        "what was in that folder is kept as e/1-earlier-9",
        "removed e/1-earlier: the latest 5 of a rank are kept, and what somebody has changed",
    ]


def test_only_half_filled_folders_of_ours_are_removed(tmp_path: Path) -> None:
    ours = [f".1.{'0a' * 16}", f".12.{'0a' * 16}.old"]
    theirs = [".git", ".ipynb_checkpoints", ".1.notes", "1", "2-earlier"]
    for name in (*ours, *theirs):
        (tmp_path / name).mkdir()
    remove_unfinished(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(theirs)


def test_a_link_is_somebody_elses(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "1").symlink_to(tmp_path / "mine")
    assert holds_other_files(tmp_path / "1", {"sha256": {}})


class Said:
    """A supervisor that only says things."""

    def __init__(self, context: WorkerContext) -> None:
        self.lines: list[str] = []
        self.run = context.run
        self.display = SimpleNamespace(say=self.lines.append)
        self.leaderboard = Leaderboard(context.spec, context.run, context.queue.study)


def test_an_export_in_whose_place_another_trial_comes_is_named(make_context: MakeContext) -> None:
    context = make_context()
    write_export_of(context, 1)
    write_export_of(context, 2, trial=4)
    said = Said(context)
    jobs = [Export(number=4, rank=1), Export(number=7, rank=2), Export(number=9, rank=3)]
    say_what_moves(cast(Any, said), jobs, [4, 7, 9])
    assert said.lines == [
        "rank 1: trial 4 takes the place of trial 3, which is not among the best 3 any more (a "
        "larger TOP exports it again)",
        "rank 2: trial 7 takes the place of trial 4, which is rank 1 now",
    ]
    assert said.leaderboard.kept_exports(1) == {2: 4}


def test_a_training_that_is_done_again_is_named(make_context: MakeContext) -> None:
    context = make_context()
    write_export_of(context, 1)
    said = Said(context)
    say_what_is_trained_again(cast(Any, said), [Retrain(number=2), Retrain(number=3)])
    assert said.lines == [
        "trial 3 was retrained for 2 epochs of at most 2; now it is with RETRAIN_EPOCHS=5"
    ]


def test_exports_of_an_earlier_run_are_named() -> None:
    assert describe_kept({}) is None
    assert describe_kept({2: 4}) == "rank 2 (trial 4) of an earlier run stays; TOP=2 ranks all anew"
    assert describe_kept({2: 4, 3: None}) == (
        "ranks 2 (trial 4), 3 of an earlier run stay; TOP=3 ranks all anew"
    )


def test_a_retraining_has_the_epochs_that_were_given_last(make_context: MakeContext) -> None:
    study = make_context().queue.study

    def remember(given: int | None, own: int = 200) -> int:
        return remember_retrain_epochs(study, given, own=own, exported={})

    assert remember(None) == 200
    assert remember(3) == 3
    assert remember(None) == 3
    assert remember(None, own=50) == 50, "the study file says something else since"
    assert remember(7, own=50) == 7
    assert remember(None, own=50) == 7


def test_an_older_versions_study_has_the_epochs_of_its_export() -> None:
    study = optuna.create_study()
    identity = StudyIdentity(
        model="m", metric="mse", direction="minimize", data="d", pixels="p", shape=(1, 8, 8),
        space={}, epochs=1, file_epochs=1, seed=0, file_seed=0, configurations="c", token="t",
    )  # fmt: skip
    write_identity(study, identity)

    def remember(token: str) -> int:
        exported = {"most_epochs": 3, "token": token}
        return remember_retrain_epochs(study, None, own=200, exported=exported)

    assert remember("t") == 3
    assert remember("of a namesake") == 200


def run_of(context: WorkerContext, **changes: Any) -> StudyRun:
    return replace(context.run, **changes)


def test_numbers_that_an_earlier_call_gave_are_named(make_context: MakeContext) -> None:
    context = make_context()
    spec = StudySpec(**{**vars(context.spec), "epochs": 15, "retrain_epochs": 200})
    run = run_of(context, epochs=2, retrain_epochs=3)
    assert describe_remembered(Variables(), spec, run) == (
        "EPOCHS=2 and RETRAIN_EPOCHS=3 hold as before; the study file says 15 and 200"
    )
    assert describe_remembered(Variables(), spec, replace(run, seeds=spec.seeds + 1)) == (
        f"EPOCHS=2, RETRAIN_EPOCHS=3 and SEEDS={spec.seeds + 1} hold as before; "
        f"the study file says 15, 200 and {spec.seeds}"
    )
    assert describe_remembered(Variables(epochs=2), spec, run) == (
        "RETRAIN_EPOCHS=3 holds as before; the study file says 200"
    )
    assert describe_remembered(Variables(epochs=2, retrain_epochs=3), spec, run) is None
    assert (
        describe_remembered(Variables(), spec, run_of(context, epochs=15, retrain_epochs=200))
        is None
    )


class Own(VAE):
    """A family that is not genstudy's: a reader of its export has to name it."""


class Making(CAE):
    """Another one, which says how images are made of nothing but a seed."""

    makes_from_images = False


@pytest.mark.parametrize(
    ("family", "which", "sample"),
    [
        (CAE, "", ""),
        (StarGAN, "", ""),
        (VAE, "", ".sample(4)"),
        (Own, ", family=Own", ".sample(4)"),
        (Making, ", family=Making", ".sample(4)"),
    ],
)
def test_the_end_of_a_run_says_what_to_type_next(
    make_context: MakeContext,
    monkeypatch: pytest.MonkeyPatch,
    family: type[Model],
    which: str,
    sample: str,
) -> None:
    run = run_of(make_context(), runs="/r s", storage="postgresql://me:secret@host/db")
    study = cast(Any, SimpleNamespace(spec=SimpleNamespace(model=family)))
    monkeypatch.setenv("RUNS", "../r s")
    lines = [
        line.split("  ")[0].removeprefix("next: ").strip()
        for line in [line.strip() for line in next_lines(study, run, exported=True, width=200)]
    ]
    assert lines == [
        "make dashboard",
        "make report NAME=small",
        f"load_export('/r s/exports/small/1'{which}){sample}",
    ]
    monkeypatch.setenv("GENSTUDY_GIVEN", "NAME RUNS STORAGE")
    monkeypatch.setenv("STORAGE", "postgresql://me:secret@host/db")
    dashboard, report = next_lines(study, run, exported=False, width=200)
    assert dashboard.startswith("next: make dashboard RUNS='../r s' STORAGE='postgresql://me:***@")
    assert report.strip().startswith("make report NAME=small RUNS='../r s' STORAGE=")
    for kept in ("postgresql:///?service=mine", "file:/home/me/address"):  # no password: as typed
        monkeypatch.setenv("STORAGE", kept)
        assert kept in next_lines(study, run, exported=False, width=200)[0]
    monkeypatch.setenv("GENSTUDY_CALLED_AS", "genstudy")
    _, report = next_lines(study, run, exported=False, width=200)
    assert report.strip().startswith("genstudy report small RUNS='../r s'")
    *_, typed, what = next_lines(study, run, exported=False, width=80)
    assert (typed + "  " + what.strip()).split() == report.split(), "words give way"
    assert len(what) < 80
