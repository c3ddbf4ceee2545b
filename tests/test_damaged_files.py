"""Damaged and foreign files under a study: one line, the work is done again, the same values.

Checkpoints, retrained weights and exports are flipped, cut, emptied, taken from another trial, or
left by a database that was restored since. `test_sealed_files.py` shows that no bit of a file can
change unnoticed.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from models.base import Model, build
from models.cae import CAE, CAEConfig
from models.errors import CheckpointError, ExportError
from models.export import load_export, write_export
from search.events import EpochEnded, Exported, Resumed
from search.trials.leaderboard import Leaderboard
from search.trials.retraining_record import RetrainingRecord, read_record
from search.worker import exporting, final_test
from search.worker.checkpoints import Checkpoints
from search.worker.context import WorkerContext
from search.worker.retrained_model import load_retrained
from search.worker.retraining import retrain
from storage import curves
from storage.files.exports import is_whole, read_provenance
from tests.damages import DAMAGES, cut, empty, flip
from tests.trials import MakeContext, OneProgram, export_now, run_one, said_by

FEW_DIGITS = True

pytestmark = pytest.mark.usefixtures("quick_export", "small_figures")

EPOCHS, STEPS = 5, 5  # of a trial; questions of an epoch whether to stop


@pytest.fixture
def all_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every epoch leaves a checkpoint."""
    monkeypatch.setattr("search.worker.trial_epochs.SHORT_EPOCH", 0.0)


def interrupt_in(make_context: MakeContext, epoch: int, **more: Any) -> WorkerContext:
    """The context of a trial that was interrupted in ``epoch``; `said` tells where it goes on."""
    asked = 0

    def interrupted() -> bool:
        nonlocal asked
        asked += 1
        return asked > (epoch - 1) * STEPS + 1

    context = make_context(epochs=EPOCHS, interrupted=interrupted, **more)
    assert run_one(context)["state"] == "WAITING"
    return make_context(epochs=EPOCHS, **more)


def resumed(context: WorkerContext) -> list[int]:
    heard = context.heard  # type: ignore[attr-defined]
    return [event.epoch for event in heard if isinstance(event, Resumed)]


def trained(context: WorkerContext) -> list[int]:
    heard = context.heard  # type: ignore[attr-defined]
    return [event.epoch for event in heard if isinstance(event, EpochEnded)]


@pytest.mark.usefixtures("all_kept")
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_costs_the_epochs_since_the_one_before(
    make_context: MakeContext, damage: Callable[[Path], None]
) -> None:
    undisturbed = run_one(make_context(epochs=EPOCHS, runs="a"))
    context = interrupt_in(make_context, 4, runs="b")
    checkpoint = context.run.paths.trial_checkpoint("small", 0)
    damage(checkpoint)
    ended = run_one(context)
    assert ended["value"] == undisturbed["value"]
    before = trained(context)[0] - 1
    assert resumed(context) == [before]
    assert before >= 1
    (line,) = said_by(context)
    assert line.startswith("trial-0.safetensors is not used: ")
    assert "set-aside/trial-0.safetensors" in line
    left = [path.name for path in checkpoint.parent.iterdir()]
    assert left == ["set-aside"]
    assert curves("small", storage=context.run.storage)["epoch"].tolist() == [1, 2, 3, 4, 5]


@pytest.mark.usefixtures("all_kept")
def test_where_both_checkpoints_are_damaged_the_trial_starts_over(
    make_context: MakeContext,
) -> None:
    undisturbed = run_one(make_context(epochs=EPOCHS, runs="a"))
    context = interrupt_in(make_context, 4, runs="b")
    checkpoint = context.run.paths.trial_checkpoint("small", 0)
    flip(checkpoint)
    cut(checkpoint.with_stem("trial-0-earlier"))
    assert run_one(context)["value"] == undisturbed["value"]
    assert resumed(context) == []
    assert trained(context) == [1, 2, 3, 4, 5]
    assert len(said_by(context)) == 2


@pytest.mark.usefixtures("all_kept")
def test_the_checkpoint_of_another_trial_is_not_taken_up(make_context: MakeContext) -> None:
    context = make_context(epochs=EPOCHS, runs="a")
    undisturbed = [run_one(context) for _ in range(2)]
    first = interrupt_in(make_context, 4, runs="b")
    kept = first.run.paths.trial_checkpoint("small", 0)
    content = kept.read_bytes()
    assert run_one(first)["value"] == undisturbed[0]["value"]
    kept.with_stem("trial-1").write_bytes(content)
    assert run_one(first)["value"] == undisturbed[1]["value"]
    assert trained(first)[-EPOCHS:] == [1, 2, 3, 4, 5]
    assert any("it belongs to another trial and parameters" in line for line in said_by(first))


@pytest.mark.usefixtures("all_kept")
def test_a_restored_database_that_gives_a_number_again_takes_up_no_checkpoint(
    make_context: MakeContext,
) -> None:
    """The same study, the same number, other parameters: the sampler drew anew."""

    def other(runs: str) -> WorkerContext:
        context = make_context(epochs=EPOCHS, runs=runs)
        context.queue.study.enqueue_trial({"channels": 3, "latent": 8, "lr": 0.005})
        return context

    undisturbed = run_one(other("a"))
    context = interrupt_in(make_context, 4, runs="b")
    context.queue.engine.dispose()
    for file in Path(context.run.runs).glob("studies.db*"):
        file.unlink()
    again = other("b")
    ended = run_one(again)
    assert (ended["number"], ended["latent"]) == (0, 8)
    assert ended["value"] == undisturbed["value"]
    assert resumed(again) == []
    assert "it belongs to another parameters and configuration" in said_by(again)[0]


@pytest.mark.usefixtures("all_kept")
def test_a_checkpoint_ahead_of_a_restored_database_leaves_no_gap(make_context: MakeContext) -> None:
    """The same trial, but the database has forgotten its last epochs."""
    undisturbed = run_one(make_context(epochs=EPOCHS, runs="a"))
    context = interrupt_in(make_context, 4, runs="b")
    database = sqlite3.connect(context.run.paths.database)
    with database:
        database.execute("DELETE FROM trial_intermediate_values WHERE step >= 1")
        database.execute("DELETE FROM genstudy_metrics WHERE epoch >= 2")
    database.close()
    assert run_one(context)["value"] == undisturbed["value"]
    assert curves("small", storage=context.run.storage)["epoch"].tolist() == [1, 2, 3, 4, 5]
    assert "the database has no report of epoch 2" in said_by(context)[0]


@pytest.mark.usefixtures("all_kept")
@pytest.mark.parametrize("lack", ["best", "token"])
def test_a_note_of_another_version_is_not_read(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch, lack: str
) -> None:
    inner = Checkpoints.save

    def save(self: Checkpoints, model: Any, *, epoch: int, note: dict[str, Any]) -> None:
        inner(self, model, epoch=epoch, note={n: v for n, v in note.items() if n != lack})

    undisturbed = run_one(make_context(epochs=EPOCHS, runs="a"))
    monkeypatch.setattr(Checkpoints, "save", save)
    context = interrupt_in(make_context, 3, runs="b")
    monkeypatch.undo()
    ended = run_one(context)
    assert (ended["state"], ended["value"]) == ("COMPLETE", undisturbed["value"])
    assert resumed(context) == []


@pytest.mark.usefixtures("all_kept")
def test_a_checkpoint_of_an_older_version_is_taken_up(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no seal, and only the study's token in its note."""
    undisturbed = run_one(make_context(epochs=EPOCHS, runs="a"))
    context = interrupt_in(make_context, 4, runs="b")
    kept = context.run.paths.trial_checkpoint("small", 0)
    with safe_open(kept, framework="pt") as file:
        about = {"checkpoint": file.metadata()["checkpoint"]}
    save_file(load_file(kept), kept, metadata=about)
    assert run_one(context)["value"] == undisturbed["value"]
    assert len(resumed(context)) == 1
    assert said_by(context) == []


def test_an_earlier_attempt_that_wakes_up_does_not_write_over_a_later_one(tmp_path: Path) -> None:
    model = build(CAE, CAEConfig(channels=1, latent=2), (1, 12, 12), seed=0)
    of = {"trial": 7}
    told: list[str] = []
    first, second = (
        Checkpoints(path=tmp_path / "c.safetensors", of=of, attempt=attempt, tell=told.append)
        for attempt in (1, 2)
    )
    first.save(model, epoch=1, note={})
    assert [kept.epoch for kept in second.read()] == [1]
    second.save(model, epoch=2, note={})
    with pytest.raises(CheckpointError, match="another worker's by now"):
        first.save(model, epoch=9, note={})
    assert [kept.epoch for kept in second.read()] == [2, 1]
    assert told == []
    assert [kept.epoch for kept in first.read()] == [1]  # a database that was restored
    assert "it is of attempt 2, and the database knows 1 at most" in told[0]


def retrained(context: WorkerContext) -> RetrainingRecord:
    record = read_record(context.retraining_paths(0).record, token="t", trial=0)
    assert isinstance(record, RetrainingRecord)
    return record


def leaderboard_of(context: WorkerContext) -> Leaderboard:
    found = Leaderboard(context.spec, context.run, context.queue.study)
    assert found.ranked_trials()[0] == 0
    return found


@pytest.mark.parametrize("damage", [flip, cut])
def test_damaged_weights_of_a_retraining_are_neither_exported_nor_measured_but_made_again(
    make_context: MakeContext, damage: Callable[[Path], None]
) -> None:
    context = make_context()
    run_one(context)
    retrain(context, 0)
    record = retrained(context)
    weights = load_retrained(context, record).state_dict()
    leaderboard = leaderboard_of(context)
    assert leaderboard.record(0) == record
    paths = context.retraining_paths(0)
    assert [path.name for path in paths.folder.glob("*.safetensors")] == [paths.best.name]
    damage(paths.best)
    assert leaderboard.record(0) is None
    export_now(context, 0, 1)
    assert not context.run.paths.export("small", 1).exists()
    assert retrained(context).test is None
    assert "retrain-0-best.safetensors is not used" in said_by(context)[0]
    retrain(context, 0)
    again = load_retrained(context, retrained(context)).state_dict()
    assert all(torch.equal(again[name], value) for name, value in weights.items())
    assert leaderboard.record(0) is not None


def test_retrained_weights_of_another_trial_are_not_used(make_context: MakeContext) -> None:
    context = make_context()
    for number in (0, 1):
        run_one(context)
        retrain(context, number)
    first, second = (context.retraining_paths(number) for number in (0, 1))
    for name in ("best", "record"):
        content = getattr(second, name).read_bytes()
        getattr(second, name).write_bytes(getattr(first, name).read_bytes())
        getattr(first, name).write_bytes(content)
        leaderboard = leaderboard_of(context) if name == "best" else None
        assert leaderboard is None or leaderboard.record(0) is None
    found = Leaderboard(context.spec, context.run, context.queue.study)
    found.ranked_trials()
    assert [found.record(number) for number in (0, 1)] == [None, None]


def test_a_restored_database_takes_up_no_retraining_of_other_parameters(
    make_context: MakeContext,
) -> None:
    context = make_context()
    run_one(context)
    retrain(context, 0)
    record = replace(retrained(context), parameters={"channels": 1, "latent": 2, "lr": 0.1})
    record.write(context.retraining_paths(0).record)
    assert leaderboard_of(context).record(0) is None
    assert leaderboard_of(context).earlier_record(0) is None


@pytest.mark.parametrize("which", ["last", "best"])
def test_a_damaged_checkpoint_of_a_retraining_costs_a_few_epochs(
    make_context: MakeContext, which: str
) -> None:
    stop = {"now": False}
    run_one(make_context(runs="a"))
    undisturbed = make_context(runs="a")
    retrain(undisturbed, 0)
    run_one(make_context(runs="b"))
    context = make_context(runs="b", interrupted=lambda: stop["now"])

    def hear(event: object) -> None:
        stop["now"] = isinstance(event, EpochEnded) and event.epoch == 3

    context.send = hear
    retrain(context, 0)
    flip(getattr(context.retraining_paths(0), which))
    context = make_context(runs="b")
    retrain(context, 0)
    assert resumed(context)[0] >= 2
    assert len(said_by(context)) == 1
    assert [epoch["valid"] for epoch in retrained(context).curve] == [
        epoch["valid"] for epoch in retrained(undisturbed).curve
    ]
    models = [load_retrained(c, retrained(c)).state_dict() for c in (context, undisturbed)]
    assert all(torch.equal(models[0][name], value) for name, value in models[1].items())


@pytest.fixture
def exported(make_context: MakeContext) -> WorkerContext:
    """The context of a study whose first trial is exported, with one program."""

    context = make_context(model=OneProgram, epochs=1)
    run_one(context)
    retrain(context, 0)
    export_now(context, 0, 1)
    return context


def test_every_file_of_an_export_is_watched_and_a_damaged_export_made_again(
    exported: WorkerContext,
) -> None:
    folder = exported.run.paths.export("small", 1)
    leaderboard = leaderboard_of(exported)
    assert leaderboard.is_exported(0, 1)
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert len(whole) >= 9
    for name, content in whole.items():
        for damage in (empty,) if name == "README.md" else DAMAGES:
            damage(folder / name)
            assert not leaderboard.is_exported(0, 1), (name, damage)
            (folder / name).write_bytes(content)
    assert leaderboard.is_exported(0, 1)
    (folder / "README.md").write_bytes(whole["README.md"] + b"my own words")
    assert leaderboard.is_exported(0, 1)

    test = retrained(exported).test
    flip(folder / "weights.safetensors")
    with pytest.raises(ExportError, match=r"weights.safetensors: its content is not what was"):
        load_export(folder, family=exported.spec.model)
    export_now(exported, 0, 1)
    assert leaderboard.is_exported(0, 1)
    assert (read_provenance(folder) or {})["test"] == test
    (event,) = [e for e in exported.heard[-1:] if isinstance(e, Exported)]  # type: ignore[attr-defined]
    assert event.earlier is not None
    assert sorted(path.name for path in folder.parent.iterdir()) == ["1", "1-earlier"]


def test_an_export_with_another_configuration_is_refused(exported: WorkerContext) -> None:
    """Weights of one configuration may fit another: what differs need not show in their shapes."""
    folder = exported.run.paths.export("small", 1)
    described = json.loads((folder / "config.json").read_text())
    described["config"]["lr"] = 0.5
    (folder / "config.json").write_text(json.dumps(described))
    with pytest.raises(ExportError, match="it belongs to another configuration"):
        load_export(folder, family=exported.spec.model)
    assert not is_whole(folder, read_provenance(folder) or {})


def remove_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def flip_onnx(folder: Path) -> None:
    cut(folder / "encoder.onnx")


def remove_all(folder: Path) -> None:
    shutil.rmtree(folder)


@pytest.mark.parametrize("damage", [remove_config, flip_onnx, remove_all])
def test_an_export_that_is_damaged_while_it_is_written_is_made_again(
    make_context: MakeContext,
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[Path], None],
) -> None:
    context = make_context(model=OneProgram)
    run_one(context)
    retrain(context, 0)
    whole = write_export

    def write(model: Model, folder: Path, about: Mapping[str, str]) -> None:
        whole(model, folder, about)
        damage(folder)

    monkeypatch.setattr(exporting, "write_export", write)
    export_now(context, 0, 1)
    (said,) = said_by(context)
    assert "the export of trial 0 was damaged while it was written" in said
    assert [*context.run.paths.exports("small").glob("*")] == []
    monkeypatch.setattr(exporting, "write_export", whole)
    export_now(context, 0, 1)
    assert leaderboard_of(context).is_exported(0, 1)


def test_a_training_that_may_end_otherwise_meets_the_test_images_anew(
    make_context: MakeContext,
) -> None:
    context = make_context()
    run_one(context)
    retrain(context, 0)
    record = retrained(context)
    word = final_test.name_training(record, "a")
    assert word == final_test.name_training(replace(record, epochs=1, device="cuda:0"), "a")
    others = [
        final_test.name_training(record, "b"),
        final_test.name_training(replace(record, patience=record.patience + 1), "a"),
        final_test.name_training(replace(record, most_epochs=record.most_epochs + 1), "a"),
        final_test.name_training(replace(record, seed=record.seed + 1), "a"),
    ]
    assert len({word, *others}) == 5
