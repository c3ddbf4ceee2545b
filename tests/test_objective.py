"""One trial, in this process: every outcome, what is recorded, going on when interrupted."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
import sqlalchemy
import torch
from optuna.artifacts import get_all_artifact_meta
from optuna.trial import Trial
from PIL import Image

from models.base import Metrics
from models.cae import CAE
from models.data.images import Batch, ImageSplits
from models.results import Picture
from search.events import Ended, EpochEnded, Pictured, Released, Resumed, Started
from search.setup.revision import code_revision
from search.strategies.pruners import make_pruner
from search.strategies.samplers import make_sampler
from search.study import StudySpec
from search.trials.epoch_report import EpochReport
from search.trials.queue import TrialQueue
from search.worker.attempt import TrialAttempt
from search.worker.device_trouble import SpentProcess
from search.worker.pictures import TrialPictures
from search.worker.retraining import retrain
from search.worker.trial import run_trial
from storage import curves, trials
from storage.database import leases, retry
from storage.database.connection import open_storage
from storage.database.retry import DatabaseLost
from tests.trials import (
    Broken,
    Diverging,
    Greedy,
    MakeContext,
    OneProgram,
    OutOfMemory,
    export_now,
    run_one,
)

FEW_DIGITS = True

pytestmark = pytest.mark.usefixtures("quick_export")


def test_a_complete_trial_is_worth_its_best_epoch(make_context: MakeContext) -> None:
    context = make_context()
    row = run_one(context)
    assert (row["state"], row["outcome"], row["epochs"]) == ("COMPLETE", "complete", 3)
    frame = curves("small", storage=context.run.storage)
    assert frame["epoch"].tolist() == [1, 2, 3]
    assert row["value"] == frame["value"].min()
    assert frame["valid_mse"].tolist() == frame["value"].tolist()
    assert {"train_mse", "epoch_seconds"} <= set(frame)
    events = [type(event) for event in context.heard]  # type: ignore[attr-defined]
    assert events == [Started, EpochEnded, EpochEnded, EpochEnded, Pictured, Ended]


def test_a_trial_records_where_and_from_what_it_ran(make_context: MakeContext) -> None:
    row = run_one(make_context())
    assert row["device"] == "cpu"
    assert row["revision"] == "abc"
    assert row["host"]
    assert row["pid"] > 0
    assert row["seed"] >= 0
    assert 0 < row["seconds"] < 60
    assert 50 < row["peak_memory_mib"] < 100_000


def test_a_trial_has_its_picture(make_context: MakeContext) -> None:
    context = make_context()
    run_one(context)
    (trial,) = context.queue.study.get_trials()
    (meta,) = [json.loads(v) for k, v in trial.system_attrs.items() if k.startswith("artifacts:")]
    assert (meta["filename"], meta["mimetype"]) == ("reconstructions.png", "image/png")
    picture = context.run.paths.artifacts / meta["artifact_id"]
    assert Image.open(io.BytesIO(picture.read_bytes())).size[0] > 500


def test_a_hopeless_trial_is_pruned_but_not_in_its_last_epoch(make_context: MakeContext) -> None:
    context = make_context(pruner="none")
    study = context.queue.study
    for value in (0.001, 0.002):  # better than any training
        done = context.queue.claim(9)
        assert done is not None
        for step in range(3):
            done.report(value, step)
        study.tell(done, value)
    study.pruner = make_pruner("median(n_startup_trials=1, n_warmup_steps=1)")
    row = run_one(context)
    assert (row["state"], row["outcome"], row["epochs"]) == ("PRUNED", "pruned", 2)
    assert row["value"] == curves("small", storage=context.run.storage)["value"].iloc[-1]
    study.pruner = make_pruner("median(n_startup_trials=1, n_warmup_steps=2)")
    assert run_one(context)["state"] == "COMPLETE"


@pytest.mark.parametrize(
    ("model", "outcome", "state", "reason"),
    [
        (Diverging, "diverged", "PRUNED", "DivergedError: diverged in epoch 2: train mse nan"),
        (Greedy, "infeasible", "PRUNED", "RuntimeError: .*can't allocate memory"),
        (Broken, "failed", "FAIL", "KeyError: 'a mistake in the model'"),
    ],
)
def test_what_goes_wrong_ends_the_trial_with_its_reason(
    make_context: MakeContext, model: type[CAE], outcome: str, state: str, reason: str
) -> None:
    context = make_context(model=model)
    with pytest.raises(SpentProcess) if outcome == "infeasible" else nullcontext():
        run_one(context)
    row = trials("small", storage=context.run.storage).to_dict("records")[0]
    assert (row["state"], row["outcome"]) == (state, outcome)
    assert re.match(reason, row["reason"])
    assert ("traceback" in row) == (outcome == "failed")
    assert context.queue.count() == {state: 1}


def test_memory_that_runs_out_in_a_new_process_is_not_tried_in_another(
    make_context: MakeContext,
) -> None:
    context = make_context(model=OutOfMemory)
    context.memory_before = 1  # and something was taken since, as in every process
    for claimed in ("PRUNED", "WAITING"):  # the second trial came after another
        with pytest.raises(SpentProcess):
            run_one(context)
        assert context.queue.count()[claimed] == 1


def test_the_sampler_is_told_what_is_no_use_and_by_how_much(make_context: MakeContext) -> None:
    context = make_context(model=Diverging, epochs=4)
    run_one(context)
    context.spec = replace(context.spec, model=Greedy)
    with pytest.raises(SpentProcess):
        run_one(context)
    diverged, infeasible = context.queue.study.get_trials()
    assert diverged.constraints == {"finite": 0.75}  # three of four epochs were never trained
    (excess,) = infeasible.constraints.values()
    attributes = infeasible.user_attrs
    over = attributes["needed_memory_mib"] - attributes["memory_budget_mib"]
    assert excess == pytest.approx(max(over, 1.0), abs=0.2)
    assert attributes["needed_memory_mib"] >= 2**50 * 4 / 2**20


@pytest.mark.usefixtures("small_figures")
def test_tpe_turns_away_from_what_is_infeasible(make_context: MakeContext) -> None:
    """Memory runs out at three channels; failed trials would leave the sampler unmoved."""

    class Wide(CAE):
        def train_step(self, batch: Batch) -> Metrics:
            if self.config.channels == 3:
                torch.empty(2**50)
            return super().train_step(batch)

    context = make_context(model=Wide, epochs=1)
    context.queue.study.sampler = make_sampler("tpe(n_startup_trials=8)", seed=0, space={})
    context.run = replace(context.run, trials=30)
    for _ in range(30):
        with suppress(SpentProcess):
            run_one(context)
    chosen = trials("small", storage=context.run.storage)["channels"]
    assert (chosen[8:] == 3).mean() < (chosen[:8] == 3).mean()


def test_an_interrupted_trial_goes_on_to_the_same_values(make_context: MakeContext) -> None:
    undisturbed = run_one(make_context(epochs=4, runs="a"))
    answers = iter([False] * 12 + [True] * 99)  # in the third epoch of four steps
    context = make_context(epochs=4, runs="b", interrupted=lambda: next(answers))
    first = run_one(context)
    assert first["state"] == "WAITING"
    assert context.heard[-1] == Released(number=0)  # type: ignore[attr-defined]
    context = make_context(epochs=4, runs="b")
    second = run_one(context)
    assert second["number"] == 0
    assert second["state"] == "COMPLETE"
    assert second["value"] == undisturbed["value"]
    assert curves("small", storage=context.run.storage)["epoch"].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize(("short", "goes_on_at"), [(0.0, 3), (99.0, 4)])
def test_a_trial_goes_on_behind_its_last_finished_epoch(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch, short: float, goes_on_at: int
) -> None:
    """A long epoch is dropped, and the one before has its checkpoint; a short one is finished."""
    monkeypatch.setattr("search.worker.trial_epochs.SHORT_EPOCH", short)
    undisturbed = run_one(make_context(epochs=4, runs="a"))
    answers = iter([False] * 12 + [True] * 99)  # in the third epoch of four steps
    context = make_context(epochs=4, runs="b", interrupted=lambda: next(answers))
    assert run_one(context)["state"] == "WAITING"
    checkpoint = context.run.paths.trial_checkpoint("small", 0)
    assert checkpoint.exists()
    context = make_context(epochs=4, runs="b")
    assert run_one(context)["value"] == undisturbed["value"]
    heard = context.heard  # type: ignore[attr-defined]
    assert Resumed(number=0, epoch=goes_on_at - 1) in heard
    trained = [event.epoch for event in heard if isinstance(event, EpochEnded)]
    assert trained == list(range(goes_on_at, 5))
    assert not checkpoint.exists()


def test_a_damaged_checkpoint_costs_time_and_nothing_else(make_context: MakeContext) -> None:
    undisturbed = run_one(make_context(runs="a"))
    context = make_context(runs="b")
    checkpoint = context.run.paths.trial_checkpoint("small", 0)
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"half a file")
    assert run_one(context)["value"] == undisturbed["value"]


def test_a_picture_that_cannot_be_written_does_not_cost_the_trial(
    make_context: MakeContext,
) -> None:
    context = make_context()
    context.run.paths.artifacts.parent.mkdir(parents=True, exist_ok=True)
    context.run.paths.artifacts.write_text("a file where the folder should be")
    assert run_one(context)["state"] == "COMPLETE"


def test_retraining_stops_when_its_patience_ends_and_keeps_the_best_epoch(
    make_context: MakeContext,
) -> None:
    context = make_context()
    run_one(context)
    values = iter([0.5, 0.3, 0.4, 0.35, 0.1])

    class Scripted(CAE):
        """Its validation value follows a script; a batch of 96 is one evaluation."""

        def evaluate(self, batch: Batch) -> Metrics:
            return {"mse": torch.tensor(next(values))}

    context.spec = StudySpec(**{**vars(context.spec), "model": Scripted})
    retrain(context, 0)
    record = json.loads(context.run.paths.retraining("small", 0).record.read_text())
    assert [epoch["valid"]["mse"] for epoch in record["curve"]] == pytest.approx(
        [0.5, 0.3, 0.4, 0.35]
    )
    assert (record["best_epoch"], record["epochs"], record["ended_by"]) == (2, 4, "patience")
    assert record["test"] is None


def test_an_interrupted_retraining_goes_on_to_the_same_weights(make_context: MakeContext) -> None:
    records = []
    for runs, stops in (("a", [9999]), ("b", [20, 9999])):
        run_one(make_context(runs=runs))
        for stop in stops:
            answers = iter([False] * stop + [True] * 9)
            context = make_context(runs=runs, interrupted=lambda answers=answers: next(answers))  # type: ignore[misc]
            retrain(context, 0)
        records.append(json.loads(context.run.paths.retraining("small", 0).record.read_text()))
    first, second = ([epoch["valid"] for epoch in record["curve"]] for record in records)
    assert first == second


@pytest.mark.usefixtures("small_figures")
def test_only_the_first_rank_meets_the_test_set_and_once(make_context: MakeContext) -> None:
    judged = []

    class Watched(OneProgram):
        def evaluate(self, batch: Batch) -> Metrics:
            judged.append(len(batch.images))
            return super().evaluate(batch)

        def pictures(self, images: ImageSplits, part: str) -> Iterator[Picture]:
            yield self.preview(images, part, 5)

    context = make_context()
    run_one(context)
    run_one(context)
    for number in (0, 1):
        retrain(context, number)
    context.spec = StudySpec(**{**vars(context.spec), "model": Watched})
    for number, rank in ((0, 1), (1, 2), (0, 1)):
        export_now(context, number, rank)
    assert judged == [120]  # the digits' test images, one time
    first, second = (
        json.loads((context.run.paths.export("small", rank) / "provenance.json").read_text())
        for rank in (1, 2)
    )
    assert first["test"]["mse"] > 0
    assert second["test"] is None
    for name, digest in first["sha256"].items():
        import hashlib

        content = (context.run.paths.export("small", 1) / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest
    card = (context.run.paths.export("small", 1) / "README.md").read_text()
    assert f"| test, judged once | {first['test']['mse']:.6f} |" in card


@pytest.mark.usefixtures("small_figures")
def test_the_winners_pictures_stand_with_the_study(make_context: MakeContext) -> None:
    context = make_context()
    for number in (0, 1):
        run_one(context)
        retrain(context, number)

    def shown() -> dict[str, bytes]:
        listed = get_all_artifact_meta(context.queue.study)
        places = {about.filename: about.artifact_id for about in listed}
        assert len(places) == len(listed)
        return {
            name: (context.run.paths.artifacts / place).read_bytes()
            for name, place in places.items()
        }

    context.spec = StudySpec(**{**vars(context.spec), "model": OneProgram})
    for winner in (0, 1):  # then the other one
        export_now(context, winner, 1)
        folder = context.run.paths.export("small", 1)
        drawn = {path.name: path.read_bytes() for path in folder.glob("*.png")}
        del drawn["example.png"]  # which the model card's lines read
        assert shown() == drawn
    assert {"learning_curve.png", "reconstructions.png", "interpolations.png"} <= set(shown())
    previews = 2  # one picture a trial
    assert len(list(context.run.paths.artifacts.iterdir())) == len(shown()) + previews


def test_a_trial_that_became_somebody_elses_is_dropped(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a long suspension: another worker has it, so nothing is told or released."""
    monkeypatch.setattr(leases, "RENEWAL", 0.05)
    context = make_context(epochs=200)
    trial = context.queue.claim(9)
    assert trial is not None
    leases.take_lease(context.queue.engine, context.queue.id_of(0), "somebody:1:1")
    run_trial(context, trial)
    assert context.queue.count() == {"RUNNING": 1}
    (held,) = leases.running_trials(context.queue.engine, context.queue.study_id)
    assert held.owner == "somebody:1:1"


@pytest.mark.parametrize("moment", ["in training", "at its end"])
def test_a_trial_that_somebody_else_has_ended_keeps_their_value(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """This worker wakes up late: the lease has not told it yet, the database does."""
    context = make_context()
    trial = context.queue.claim(9)
    assert trial is not None

    def end_it(*_: object) -> None:
        monkeypatch.undo()
        leases.take_lease(context.queue.engine, context.queue.id_of(0), "somebody:1:1")
        if moment == "in training":
            theirs = open_storage(context.run.storage)
            complete = optuna.trial.TrialState.COMPLETE
            theirs.set_trial_state_values(context.queue.id_of(0), complete, [0.123])

    if moment == "in training":
        monkeypatch.setattr(TrialAttempt, "record_start", end_it)
    else:
        monkeypatch.setattr(TrialPictures, "show_end", end_it)
    run_trial(context, trial)
    row = trials("small", storage=context.run.storage).to_dict("records")[0]
    expected = ("COMPLETE", 0.123) if moment == "in training" else ("RUNNING", None)
    assert (row["state"], None if row["value"] != row["value"] else row["value"]) == expected


@pytest.mark.parametrize("written", [0, 1])
def test_a_database_error_is_not_the_trials_fault(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    write = TrialQueue._write_report

    def write_some(queue: TrialQueue, trial: Trial, report: EpochReport) -> None:
        if report.epoch > written:
            raise sqlalchemy.exc.OperationalError("", {}, Exception("server closed the connection"))
        write(queue, trial, report)

    context = make_context()
    monkeypatch.setattr(TrialQueue, "_write_report", write_some)
    monkeypatch.setattr(retry, "OUTAGE", 0.0)
    with pytest.raises(DatabaseLost):
        run_one(context)
    assert context.queue.count() == {"RUNNING": 1}
    monkeypatch.undo()
    context.queue.reclaim_from(context.queue.owner)
    assert run_one(context)["state"] == "COMPLETE"
    (trial,) = context.queue.study.get_trials()
    assert len(trial.intermediate_values) == context.run.epochs
    assert trial.value == min(trial.intermediate_values.values())


def test_a_resumed_trial_is_not_pruned_on_reports_it_has_yet_to_reach(
    make_context: MakeContext,
) -> None:
    context = make_context(epochs=4)
    done = context.queue.claim(9)
    assert done is not None
    for step in range(4):
        done.report(0.001, step)
    context.queue.study.tell(done, 0.001)
    context.queue.study.pruner = make_pruner("median(n_startup_trials=1, n_warmup_steps=2)")
    trial = context.queue.claim(9)
    assert trial is not None
    for step, value in enumerate([0.3, 0.2, 0.2]):  # an earlier attempt got this far
        trial.report(value, step)
    context.queue.release(trial.number)
    row = run_one(context)
    assert (row["state"], row["epochs"]) == ("PRUNED", 3)


def test_files_of_a_deleted_namesake_are_not_taken_for_this_studys(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.worker.trial_epochs.CHECKPOINT_EVERY", 0.0)
    answers = iter([False] * 12 + [True] * 99)
    run_one(make_context(epochs=4, token="old", interrupted=lambda: next(answers)))
    context = make_context(epochs=4, token="new")
    assert context.run.paths.trial_checkpoint("small", 0).exists()
    run_one(context)
    trained = [e.epoch for e in context.heard if isinstance(e, EpochEnded)]  # type: ignore[attr-defined]
    assert trained == [1, 2, 3, 4]


def test_a_retraining_that_diverges_keeps_its_best_epoch(make_context: MakeContext) -> None:
    context = make_context()
    run_one(context)
    context.spec = StudySpec(**{**vars(context.spec), "model": Diverging})
    retrain(context, 0)
    record = json.loads(context.run.paths.retraining("small", 0).record.read_text())
    assert (record["epochs"], record["best_epoch"]) == (1, 1)
    assert record["ended_by"].startswith("DivergedError: diverged in epoch 2")


def test_a_retraining_that_fails_at_once_says_why(make_context: MakeContext) -> None:
    context = make_context()
    run_one(context)
    context.spec = StudySpec(**{**vars(context.spec), "model": Broken})
    retrain(context, 0)
    record = json.loads(context.run.paths.retraining("small", 0).record.read_text())
    assert record["failed"] == "KeyError: 'a mistake in the model'"


def test_the_revision_is_the_commit_of_the_code(tmp_path: Path) -> None:
    import subprocess

    assert code_revision(tmp_path) == "unknown"
    git = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@t"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"]):
        (tmp_path / "f").write_text("1")
        subprocess.run([*git, *words], check=True)
    clean = code_revision(tmp_path)
    assert len(clean) == 12
    (tmp_path / "f").write_text("2")
    assert code_revision(tmp_path) == f"{clean}-changed"
