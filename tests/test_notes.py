"""Notes in the dashboard: of each trial and of the study, kept up to date, and never a person's."""

from __future__ import annotations

import io
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import optuna_dashboard
import pytest
from optuna_dashboard import get_note, save_note
from optuna_dashboard.artifact import get_artifact_path
from PIL import Image

from search.reporting.dashboard_view import DashboardView
from search.setup.loading import load_study
from search.supervisor import study_note
from search.supervisor.study_note import StudyNote
from search.trials.study_record import StudyRecord, read_record
from search.trials.trial_note import TrialNote
from search.worker import trial_epochs
from storage.database.connection import open_storage
from storage.database.notes import PART, is_ours, read_note, read_trial_notes, sign, write_note
from storage.database.optuna_storage import TrialStorage
from storage.files.artifacts import artifact_address, attach_to_trial
from tests.trials import Broken, Diverging, MakeContext, run_one
from tests.user import WriteStudy


@pytest.fixture(params=[True, False], ids=["known schema", "unknown schema"])
def storage(request: pytest.FixtureRequest, storage_url: str) -> TrialStorage:
    opened = open_storage(storage_url)
    opened.known = request.param
    return opened


def test_a_note_is_read_by_the_dashboard_as_it_was_written(storage: TrialStorage) -> None:
    study = optuna.create_study(study_name="s", storage=storage)
    trials = [study.ask(), study.ask()]
    longest = "a" * PART + "é" * PART + "end"
    for words in ("first", longest, "| a |\n|---|\n", "last"):
        for owner in (study, trials[1]):
            trial_id = None if owner is study else trials[1]._trial_id
            assert write_note(storage, study._study_id, trial_id, words)
            assert get_note(owner) == sign(words)
            assert read_note(storage, study._study_id, trial_id) == sign(words)
    assert get_note(trials[0]) == ""
    notes = read_trial_notes(storage, study._study_id)
    assert notes == {trials[1]._trial_id: (4, sign("last"))}


def test_the_same_words_are_no_new_version(storage: TrialStorage) -> None:
    study = optuna.create_study(study_name="s", storage=storage)
    for _ in range(2):
        assert write_note(storage, study._study_id, None, "words")
    assert storage.get_study_system_attrs(study._study_id)["dashboard:note_ver"] == 1


@pytest.mark.parametrize("edit", ["by hand", "{} and more", "more\n{}"])
def test_a_note_that_a_person_wrote_or_changed_stays(storage: TrialStorage, edit: str) -> None:
    study = optuna.create_study(study_name="s", storage=storage)
    assert write_note(storage, study._study_id, None, "ours")
    theirs = edit.format(get_note(study))
    save_note(study, theirs)
    assert not write_note(storage, study._study_id, None, "ours again")
    assert get_note(study) == theirs
    assert write_note(storage, study._study_id, None, "ours again", earlier=theirs)


def test_who_owns_a_note_shows_in_its_last_line() -> None:
    assert is_ours("")
    assert is_ours(sign("words"))
    assert not is_ours("words")
    assert not is_ours(sign("words").replace("words", "other words"))


# --- notes of trials


def note_of(context: Any, number: int = 0) -> str:
    queue = context.queue
    return read_note(queue.storage, queue.study_id, queue.id_of(number))


def test_a_trial_that_ends_has_a_note_with_its_picture(make_context: MakeContext) -> None:
    context = make_context(epochs=2)
    row = run_one(context)
    note = note_of(context)
    assert note.startswith("**Complete** after 2 epochs, best mse **")
    assert f"**{row['value']:.6g}** in epoch " in note
    (shown,) = [line for line in note.splitlines() if line.startswith("![reconstructions](")]
    artifact = shown.rstrip(")").rpartition("/")[2]
    trial = context.queue.study.trials[0]
    address = get_artifact_path(optuna.trial.Trial(context.queue.study, trial._trial_id), artifact)
    assert shown == f"![reconstructions]({address})"
    assert (context.run.paths.artifacts / artifact).is_file()


def test_the_note_of_a_trial_says_why_it_ended(make_context: MakeContext) -> None:
    context = make_context(model=Broken)
    run_one(context)
    assert note_of(context).startswith("**Failed** after 0 epochs; ")
    assert "KeyError: 'a mistake in the model'" in note_of(context)
    context = make_context(model=Diverging, runs="others")
    run_one(context)
    assert note_of(context).startswith("**Diverged** after 1 epoch, best mse **")
    assert "epoch 2" in note_of(context)


def test_a_long_trial_says_how_far_it_is(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = make_context(epochs=3)
    said: list[str] = []
    monkeypatch.setattr(trial_epochs, "NOTE_EVERY", 0.0)
    write = context.queue.try_write_note

    def listen(trial_id: int, words: str) -> bool:
        said.append(words)
        return write(trial_id, words)

    monkeypatch.setattr(context.queue, "try_write_note", listen)
    run_one(context)
    epochs = [words.partition("**,")[0] for words in said]
    assert epochs == [f"**Epoch {epoch} of 3" for epoch in range(3)]
    assert note_of(context).startswith("**Complete**")


def test_a_person_who_chooses_by_pictures_reads_no_value() -> None:
    note = TrialNote(metric=None, minimize=True, place="cpu")
    note.pictures["samples.png"] = "/artifacts/1/2/3"
    said = note.describe_end("complete", {0: 0.3, 1: 0.2}, {"bound": 0.1, "seconds": 3.0})
    assert said == "**Complete** after 2 epochs; 3 s on cpu\n\n![samples](/artifacts/1/2/3)"


def test_a_verdict_and_foreign_words_stand_in_the_note_as_they_are() -> None:
    note = TrialNote(metric="a_b", minimize=False, place="cpu")
    about = {"verdict": "d_won", "verdict_epoch": 3, "verdict_reason": "<b>1 * 2</b>"}
    said = note.describe_end("pruned", {0: 0.3, 1: 0.2, 2: float("nan")}, about)
    assert said.startswith("**Pruned** after 3 epochs, best a\\_b **0.3** in epoch 1")
    assert said.endswith("**D won**, since epoch 3: \\<b\\>1 \\* 2\\</b\\>")


# --- the note of a study


@pytest.fixture
def noted(make_context: MakeContext, study_file: WriteStudy) -> tuple[Any, StudyNote]:
    """A context, and the note of its study."""
    context = make_context(epochs=1)
    record = StudyRecord(
        command="small", trials=9, top=1, retrain_epochs=2, sampler="random", pruner="none",
        devices="1 x cpu", images={"train": 3, "valid": 2, "test": 1}, shape=(1, 28, 28),
    )  # fmt: skip
    study = load_study(str(study_file()))
    return context, StudyNote(study, context.run, context.queue, record)


def test_the_study_says_how_far_it_is_and_shows_its_best(
    noted: tuple[Any, StudyNote], monkeypatch: pytest.MonkeyPatch
) -> None:
    context, note = noted
    queue = context.queue
    note.begin()
    assert read_record(queue.study) == note.record
    note.refresh("searching", queue.count())
    said = read_note(queue.storage, queue.study_id, None)
    assert said.startswith("**Searching**: 0 of 9 trials ended; 9 trials left, at most 9 epochs.")
    assert "No trial is complete yet." in said
    value = run_one(context)["value"]
    note.refresh("training the best again", queue.count())
    said = read_note(queue.storage, queue.study_id, None)
    assert "1 of 9 trials ended (1 complete)" in said
    assert f"**Best: trial 0**, mse **{value:.6g}**: channels " in said
    assert f"![best](/artifacts/{queue.study_id}/{queue.id_of(0)}/" in said
    note.finish("stopped")
    said = read_note(queue.storage, queue.study_id, None)
    assert said.startswith("**Stopped**: 1 of 9 trials ended")
    assert "`make study NAME=small` goes on with it." in said
    monkeypatch.setattr(queue, "is_stopped", lambda: True)
    note.finish("done")
    said = read_note(queue.storage, queue.study_id, None)
    assert said.startswith("**Done**: 1 of 1 trial ended (1 complete).")
    kept = read_record(queue.study)
    assert kept is not None
    assert kept.trials == 1, "so that status and report wait for no others"
    assert "goes on with it" not in said


def test_news_are_written_once_and_not_too_often(
    noted: tuple[Any, StudyNote], monkeypatch: pytest.MonkeyPatch
) -> None:
    context, note = noted
    said: list[object] = []
    monkeypatch.setattr(context.queue, "try_write_note", lambda *a, **k: said.append(a))
    counts = Counter({"COMPLETE": 1})
    for _ in range(3):
        note.refresh("searching", counts)
    assert len(said) == 1
    note.refresh("searching", Counter({"COMPLETE": 2}))
    assert len(said) == 1, "too soon"
    monkeypatch.setattr(study_note, "EVERY", 0.0)
    note.refresh("searching", Counter({"COMPLETE": 2}))
    assert len(said) == 2
    note.refresh("training the best again", Counter({"COMPLETE": 2}))
    assert len(said) == 3


# --- what the browser is told


def ask(app: Any, path: str) -> Any:
    environ = {
        "REQUEST_METHOD": "GET", "PATH_INFO": path, "QUERY_STRING": "after=0",
        "SERVER_NAME": "x", "SERVER_PORT": "1", "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.url_scheme": "http", "wsgi.input": io.BytesIO(), "wsgi.errors": sys.stderr,
    }  # fmt: skip
    told: list[Any] = []
    body = b"".join(app(environ, lambda *a: told.append(a)))
    assert dict(told[0][1]).get("Content-Length", str(len(body))) == str(len(body))
    return told[0][0], json.loads(body)


@pytest.mark.parametrize("ours", [True, False])
def test_the_dashboard_counts_epochs_from_one_and_puts_technical_attributes_last(
    storage: TrialStorage, tmp_path: Path, ours: bool
) -> None:
    study = optuna.create_study(study_name="s", storage=storage)
    if ours:
        about = {"model": "m:M", "shape": [1, 2, 3], "space": {"lr": "..."}, "token": "t"}
        study.set_user_attr("definition", json.dumps(about))
    trial = study.ask()
    for key in ("device", "pid", "mine", "reason", "outcome"):
        trial.set_user_attr(key, "x")
    for step in range(3):
        trial.report(1.0, step)
    picture = tmp_path / "p.png"
    Image.new("L", (4, 4)).save(picture)
    (tmp_path / "artifacts").mkdir()
    artifact = attach_to_trial(tmp_path / "artifacts", trial, picture)
    assert artifact_address(1, 2, "a") == "/artifacts/1/2/a"
    write_note(storage, study._study_id, trial._trial_id, "of the trial")
    write_note(storage, study._study_id, None, "of the study")
    study.tell(trial, 1.0)
    app = DashboardView(optuna_dashboard.wsgi(storage), storage)
    for _ in range(2):  # what was told is not changed again
        status, told = ask(app, f"/api/studies/{study._study_id}")
        assert status.startswith("200")
        for shown in (*told["trials"], *told["best_trials"]):
            steps = [reported["step"] for reported in shown["intermediate_values"]]
            assert steps == ([1, 2, 3] if ours else [0, 1, 2])
            names = [attribute["key"] for attribute in shown["user_attrs"]]
            assert names == ["outcome", "reason", "mine", "device", "pid"]
            assert shown["note"] == {"version": 1, "body": sign("of the trial")}
            assert [about["artifact_id"] for about in shown["artifacts"]] == [artifact]
        assert [a["key"] for a in told["union_user_attrs"]][:2] == ["outcome", "reason"]
        assert told["note"]["body"] == sign("of the study")
        defined = {a["key"]: a["value"] for a in told["user_attrs"]}
        assert defined == ({"model": "m:M", "shape": "1 × 2 × 3", "space": "lr"} if ours else {})
    assert ask(app, "/api/studies/77")[0].startswith("404")
    assert ask(app, "/api/studies")[1]["study_summaries"][0]["study_name"] == "s"
