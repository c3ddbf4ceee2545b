"""LOG: trials, retrainings and exports are runs of TensorBoard, MLflow and Weights & Biases."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from search.engines.launch import PASSED
from search.errors import BadVariable
from search.events import Ended, EpochEnded, Event, Paused, Pictured, Released, Started
from search.supervisor import tracked_runs, tracking
from search.supervisor.tracked_runs import RunSource
from search.supervisor.tracking import StudyTracking
from search.tracking import opening
from search.tracking.opening import check_trackers, describe_place, open_tracker
from search.tracking.tracker import (
    TrackedEnding,
    TrackedEpoch,
    TrackedPicture,
    TrackedRun,
    Tracker,
)
from search.tracking.tracker_thread import TrackerThread
from search.trials.retraining_record import RetrainingRecord, read_record
from search.variables import read_variables
from search.worker.context import WorkerContext
from search.worker.retraining import retrain
from storage import curves, trials
from storage.database.retry import DatabaseRetry
from storage.files.exports import read_provenance
from storage.paths import RunPaths
from tests.tracker_stand_ins import make_mlflow, make_wandb
from tests.trials import Broken, Diverging, MakeContext, export_now, run_one
from tests.user import User, WriteStudy, kill_all, progress, slow, wait_until, watched, workers_of

FEW_DIGITS = True

SECRET = "hunter2"
Epochs = list[tuple[int, float]]


@dataclass
class Heard(Tracker):
    """A tracker that remembers. breaks_at: an epoch at which it breaks"""

    begun: list[tuple[str, list[int]]] = field(default_factory=list)
    epochs: list[tuple[str, int]] = field(default_factory=list)
    pictures: list[tuple[str, str, int]] = field(default_factory=list)
    ends: list[tuple[str, TrackedEnding]] = field(default_factory=list)
    runs: dict[str, TrackedRun] = field(default_factory=dict)
    breaks_at: int | None = None
    gate: threading.Event | None = None

    def begin(
        self, run: TrackedRun, epochs: Sequence[TrackedEpoch], pictures: Sequence[TrackedPicture]
    ) -> None:
        if self.gate is not None:
            assert self.gate.wait(30)
        self.runs[run.name] = run
        self.begun.append((run.name, [epoch.number for epoch in epochs]))

    def log_epoch(self, run: TrackedRun, epoch: TrackedEpoch) -> None:
        if epoch.number == self.breaks_at:
            raise ConnectionError(f"no route to http://me:{SECRET}@tracker.example/api")
        self.epochs.append((run.name, epoch.number))

    def log_picture(self, run: TrackedRun, picture: TrackedPicture) -> None:
        assert picture.path.read_bytes().startswith(b"\x89PNG")
        self.pictures.append((run.name, picture.name, picture.epoch))

    def end(self, run: TrackedRun, ending: TrackedEnding) -> None:
        self.ends.append((run.name, ending))

    def close(self) -> None:
        pass


@dataclass
class Tracked:
    """A supervisor's part in a test: what it tells, and what it says."""

    tracking: StudyTracking
    said: list[str]
    marks: Path

    def marked(self) -> list[str]:
        return sorted(mark.name for mark in self.marks.glob("*"))

    def wait(self) -> None:
        """Let its tracker take in what it was told, and hear no more."""
        assert self.tracking.threads[0].close(time.monotonic() + 30)


def track(context: WorkerContext, open_it: Callable[[], Tracker], tool: str = "tool") -> Tracked:
    """Let a tracker hear what the worker of ``context`` tells its supervisor."""
    said: list[str] = []
    marks = context.run.paths.tracker_marks("small", tool)
    thread = TrackerThread(tool, open_it, marks)
    source = RunSource(context.queue, context.run, context.spec)
    made = StudyTracking([thread], source, context.queue.retry, said.append)
    context.send = made.handle_event
    return Tracked(made, said, marks)


@pytest.fixture(params=["tensorboard", "mlflow", "wandb"])
def tool(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each tool: TensorBoard itself, and what stands for the servers of the others."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setitem(sys.modules, "wandb", make_wandb())
    stand_in = make_mlflow()
    monkeypatch.setitem(sys.modules, "mlflow", stand_in)
    monkeypatch.setitem(sys.modules, "mlflow.entities", stand_in.entities)
    for module in ("mlflow_runs", "wandb_runs"):  # they have imported other modules before
        monkeypatch.delitem(sys.modules, f"search.tracking.{module}", raising=False)
    name: str = request.param
    return name


def opener(tool: str, paths: RunPaths) -> Callable[[], Tracker]:
    return lambda: open_tracker(tool, paths, "small")


def read_events(folder: Path) -> list[Any]:
    """All summaries that TensorBoard finds in a run's folder."""
    files = sorted(folder.glob("events.out.tfevents.*"))
    events = [event for path in files for event in EventFileLoader(str(path)).Load()]
    return [(event.step, value) for event in events for value in event.summary.value]


def read_series(tool: str, paths: RunPaths, run: str, series: str) -> Epochs:
    """Every value of a series that a tool was ever told and has still, in its order."""
    if tool == "tensorboard":
        found = read_events(paths.tracked(tool) / "small" / run)
        return [(step, value.tensor.float_val[0]) for step, value in found if value.tag == series]
    if tool == "mlflow":
        client = sys.modules["mlflow"].MlflowClient(f"sqlite:///{paths.tracked(tool)}/mlflow.db")
        (one,) = [each for each in client.search_runs(["0"]) if each.info.run_name == run]
        return [(each.step, each.value) for each in one.logged if each.key == series]
    parts = [part for part in sys.modules["wandb"].parts if part.about["name"] == run]
    assert len({part.about["id"] for part in parts}) == 1
    return [(step, row[series]) for step, row in parts[-1].rows.items() if series in row]


def expected(context: WorkerContext, number: int = 0) -> list[tuple[int, Any]]:
    frame = curves("small", storage=context.run.storage)
    frame = frame[frame["number"] == number]
    return [
        (epoch, pytest.approx(value, rel=1e-6))
        for epoch, value in zip(frame["epoch"], frame["value"], strict=True)
    ]


def test_each_epoch_of_a_trial_is_a_step_of_its_run(make_context: MakeContext, tool: str) -> None:
    context = make_context()
    tracked = track(context, opener(tool, context.run.paths), tool)
    row = run_one(context)
    tracked.tracking.close()
    assert tracked.said == []
    paths = context.run.paths
    assert read_series(tool, paths, "trial-0", "valid/mse") == expected(context)
    assert [step for step, _ in read_series(tool, paths, "trial-0", "train/mse")] == [1, 2, 3]
    assert tracked.marked() == []
    if tool == "wandb":
        (part,) = sys.modules["wandb"].parts
        assert part.summary == {"best/mse": row["value"], "state": "complete"}
        assert part.exit_code == 0
    else:
        best = read_series(tool, paths, "trial-0", "best/mse")
        assert best == [(3, pytest.approx(row["value"], rel=1e-6))]


def test_an_epoch_that_is_trained_again_stands_there_once(
    make_context: MakeContext, tool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first supervisor is killed; the checkpoint is lost, so that the trial starts over."""
    monkeypatch.setattr("search.worker.trial_epochs.SHORT_EPOCH", 0.0)
    answers = iter([False] * 12 + [True] * 99)  # in the third epoch of four steps
    context = make_context(epochs=4, interrupted=lambda: next(answers))
    paths = context.run.paths
    killed = track(context, opener(tool, paths), tool)
    heard: list[Event] = []
    context.send = lambda event: heard.append(event)
    assert run_one(context)["state"] == "WAITING"
    for event in heard:
        if not isinstance(event, Released):  # it does not hear that
            killed.tracking.handle_event(event)
    killed.wait()  # for what it has told until then
    assert killed.marked() == ["trial-0"]
    assert len(read_series(tool, paths, "trial-0", "valid/mse")) == 2
    for path in paths.checkpoints("small").glob("trial-0*"):
        path.unlink()
    context = make_context(epochs=4)
    after = track(context, opener(tool, paths), tool)
    after.tracking.recover()  # it has not ended: nothing is to be made good
    run_one(context)
    after.tracking.close()
    assert read_series(tool, paths, "trial-0", "valid/mse") == expected(context)
    assert [step for step, _ in expected(context)] == [1, 2, 3, 4]
    assert after.said == []
    assert after.marked() == []


def test_what_a_killed_supervisor_did_not_tell_the_next_command_tells(
    make_context: MakeContext, tool: str
) -> None:
    """It dies after the first epoch of a trial that its worker brings to the end."""
    context = make_context()
    paths = context.run.paths
    killed = track(context, opener(tool, paths), tool)
    hears = killed.tracking.handle_event

    def hear(event: Event) -> None:
        if isinstance(event, Started) or (isinstance(event, EpochEnded) and event.epoch == 1):
            hears(event)

    context.send = hear
    run_one(context)
    killed.wait()
    again = track(context, opener(tool, paths), tool)
    again.tracking.recover()
    again.tracking.close()
    assert read_series(tool, paths, "trial-0", "valid/mse") == expected(context)
    assert again.marked() == []
    assert again.said == []


def test_a_promoted_trial_goes_on_in_the_same_run_on_another_machine(
    make_context: MakeContext, tool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three trials pause after an epoch; the best goes on, where RUNS is another folder."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracker.example")
    context = make_context(pruner="asha", epochs=3)
    first = track(context, opener(tool, context.run.paths), tool)
    for _ in range(3):
        run_one(context)
    first.tracking.close()
    frame = trials("small", storage=context.run.storage)
    assert frame["state"].tolist() == ["WAITING"] * 3
    there = replace(context.run, runs=str(Path(context.run.runs).with_name("elsewhere")))
    context.run = there
    second = track(context, opener(tool, there.paths), tool)
    number = run_one(context)["number"]
    second.tracking.close()
    assert first.said == second.said == []
    assert [step for step, _ in expected(context, number)] == [1, 2, 3]
    if tool == "mlflow":
        client = sys.modules["mlflow"].MlflowClient("http://tracker.example")
        runs = {run.info.run_name: run for run in client.search_runs(["0"])}
        assert len(runs) == len(client.search_runs(["0"])) == 3
        found = runs[f"trial-{number}"]
        steps = [(each.step, each.value) for each in found.logged if each.key == "valid/mse"]
        assert steps == expected(context, number)
        assert Counter(run.info.status for run in runs.values()) == {"FINISHED": 1, "SCHEDULED": 2}
    else:
        assert read_series(tool, there.paths, f"trial-{number}", "valid/mse") == expected(
            context, number
        )


def test_tensorboard_has_parameters_pictures_and_the_state(make_context: MakeContext) -> None:
    context = make_context()
    context.spec = replace(context.spec, pictures_every=1)
    tracked = track(context, opener("tensorboard", context.run.paths))
    row = run_one(context)
    tracked.tracking.close()
    found = read_events(context.run.paths.tracked("tensorboard") / "small" / "trial-0")
    drawn = [step for step, value in found if value.tag == "pictures/reconstructions"]
    assert drawn == [1, 2, 3]
    by_tag = {value.tag: value for _, value in found}
    start, end = (
        HParamsPluginData.FromString(by_tag[tag].metadata.plugin_data.content)
        for tag in ("_hparams_/session_start_info", "_hparams_/session_end_info")
    )
    parameters = start.session_start_info.hparams
    assert parameters["latent"].number_value == row["latent"]
    assert end.session_end_info.status == 1  # success
    assert by_tag["state/text_summary"].tensor.string_val[0] == b"complete"
    about = by_tag["about/text_summary"].tensor.string_val[0].decode()
    assert f"| seed | {row['seed']} |" in about


@pytest.mark.parametrize(("model", "state"), [(Diverging, "diverged"), (Broken, "failed")])
def test_how_a_trial_ends_is_told(make_context: MakeContext, model: Any, state: str) -> None:
    context = make_context(model=model)
    heard = Heard()
    tracked = track(context, lambda: heard)
    run_one(context)
    tracked.tracking.close()
    ((name, ending),) = heard.ends
    assert (name, ending.state) == ("trial-0", state)
    assert ending.reason


@pytest.mark.usefixtures("quick_export", "small_figures")
def test_a_retraining_and_its_export_are_runs_of_their_own(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = make_context(epochs=1)
    heard = Heard()
    tracked = track(context, lambda: heard)
    run_one(context)
    retrain(context, 0)
    export_now(context, 0, 1)
    tracked.tracking.close()
    record = read_record(context.retraining_paths(0).record, token="t", trial=0)
    assert isinstance(record, RetrainingRecord)
    assert [name for name, _ in heard.begun] == ["trial-0", "retraining-0-seed-1", "export-1"]
    told = [epoch for name, epoch in heard.epochs if name == "retraining-0-seed-1"]
    assert told == list(range(1, record.epochs + 1))
    ends = dict(heard.ends)
    assert ends["retraining-0-seed-1"].values == {"best/mse": record.valid["mse"]}
    assert ends["export-1"].values.keys() == {"best/mse", "valid/mse", "test/mse"}
    assert heard.runs["retraining-0-seed-1"].about["seed"] == record.seed
    card = context.run.paths.export("small", 1) / "README.md"
    assert heard.runs["export-1"].card == card.read_text()
    assert tracked.said == []
    assert tracked.marked() == []
    about = read_provenance(card.parent)
    assert about is not None
    several = {**about, "goals": [{"name": "code", "value": 4.0}]}
    monkeypatch.setattr(tracked_runs, "read_provenance", lambda folder: several)
    known = tracked.tracking.source.export(1)
    assert known is not None
    assert known.ending is not None
    assert known.ending.values["best/code"] == 4.0, "of several goals each has its value"


def test_a_retraining_that_goes_on_tells_no_epoch_twice(make_context: MakeContext) -> None:
    context = make_context(epochs=1)
    run_one(context)
    heard = Heard()
    tracked = track(context, lambda: heard)
    answers = iter([False] * 9 + [True] * 99)
    context.interrupted = lambda: next(answers)
    retrain(context, 0)
    context.interrupted = lambda: False
    retrain(context, 0)
    tracked.tracking.close()
    (first, none), (second, past) = heard.begun
    assert first == second == "retraining-0-seed-1"
    assert none == []
    later = [epoch for _, epoch in heard.epochs][len(past) :]
    assert past == list(range(1, len(past) + 1))
    assert later[:1] == [len(past) + 1]
    assert [ending.state for _, ending in heard.ends] == ["waiting", "complete"]


def test_a_trial_whose_worker_died_goes_on_in_the_open_run(make_context: MakeContext) -> None:
    context = make_context()
    heard = Heard()
    tracked = track(context, lambda: heard)
    run_one(context)
    for event in (
        Started(number=0, parameters={}, epochs=3),
        Started(number=0, parameters={}, epochs=3),
        EpochEnded(number=0, epoch=3, epochs=3, value=0.1, seconds=1.0),
        Paused(number=0, epoch=3, value=0.1),
    ):
        tracked.tracking.handle_event(event)
    tracked.tracking.close()
    assert heard.begun == [("trial-0", []), ("trial-0", [1, 2, 3])]
    assert heard.epochs == [("trial-0", 1), ("trial-0", 2), ("trial-0", 3)]


def test_a_tracker_that_breaks_costs_a_line_and_the_next_command_makes_good(
    make_context: MakeContext,
) -> None:
    context = make_context()
    broken = Heard(breaks_at=2)
    tracked = track(context, lambda: broken)
    for _ in range(2):
        assert run_one(context)["state"] == "COMPLETE"
    tracked.tracking.close()
    assert tracked.said == [
        "LOG=tool is left alone: ConnectionError: no route to http://***@tracker.example/api; the "
        "study goes on, and the next command with LOG=tool makes its runs good"
    ]
    assert broken.epochs == [("trial-0", 1)]
    assert tracked.marked() == ["trial-0", "trial-1"]
    sound = Heard()
    again = track(context, lambda: sound)
    again.tracking.recover()
    again.tracking.close()
    assert sound.begun == [("trial-0", [1, 2, 3]), ("trial-1", [1, 2, 3])]
    assert [ending.state for _, ending in sound.ends] == ["complete", "complete"]
    assert again.marked() == []


def test_a_tool_that_cannot_be_opened_costs_a_line(make_context: MakeContext) -> None:
    def fail() -> Tracker:
        raise ImportError("libcore.so: cannot open shared object file")

    context = make_context(epochs=1)
    tracked = track(context, fail)
    assert run_one(context)["state"] == "COMPLETE"
    tracked.tracking.close()
    (line,) = tracked.said
    assert line.startswith("LOG=tool is left alone: ImportError: libcore.so")


def test_nobody_waits_for_a_slow_tracker(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "FAREWELL", 0.1)
    gate = threading.Event()
    context = make_context(epochs=1)
    slow_one = Heard(gate=gate)
    tracked = track(context, lambda: slow_one)
    assert run_one(context)["state"] == "COMPLETE"
    tracked.tracking.close()
    assert tracked.said == [
        "LOG=tool takes too long; the next command with LOG=tool makes its runs good"
    ]
    assert tracked.marked() == ["trial-0"]
    gate.set()
    tracked.tracking.threads[0].join(30)
    assert slow_one.epochs == [("trial-0", 1)]


def test_a_database_that_is_away_costs_no_epoch(make_context: MakeContext) -> None:
    """A run that cannot be read begins with its next event; what came before is read then."""
    context = make_context()
    heard = Heard()
    tracked = track(context, lambda: heard)
    tell, events = tracked.tracking.handle_event, list[Event]()
    context.send = events.append
    run_one(context)
    tracked.tracking.retry = Away()
    tell(events[0])
    tracked.tracking.retry = context.queue.retry
    for event in events[1:]:
        if not isinstance(event, Ended):
            tell(event)
    tracked.tracking.retry = Away()
    tell(events[-1])
    tracked.tracking.close()
    assert heard.begun == [("trial-0", [1, 2, 3])]
    ((_, ending),) = heard.ends
    row = trials("small", storage=context.run.storage).to_dict("records")[0]
    assert (ending.state, ending.values) == ("complete", {"best/mse": row["value"]})


class Away(DatabaseRetry):
    """The trial database does not answer."""

    def try_once(self, call: Callable[[], object]) -> bool:
        return False


def test_what_cannot_be_read_costs_its_run_and_no_study(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "/runs/exports/small/1/README.md")

    context = make_context(epochs=1)
    heard = Heard()
    tracked = track(context, lambda: heard)
    monkeypatch.setattr(RunSource, "trial", fail)
    for _ in range(2):
        assert run_one(context)["state"] == "COMPLETE"
    tracked.tracking.close()
    assert len(tracked.said) == 2  # once for each run
    assert tracked.said[0].startswith("LOG: trial-0 cannot be read (PermissionError: ")
    assert heard.begun == []


def test_a_picture_that_is_gone_or_none_costs_no_tracker(make_context: MakeContext) -> None:
    """In the dashboard anybody attaches files to a trial, and removes them."""
    context = make_context(epochs=1)
    run_one(context)
    number, folder = 0, context.run.paths.artifacts
    (drawn,) = folder.iterdir()
    heard = Heard()
    tracked = track(context, lambda: heard)
    for path in (folder / "gone", context.run.paths.database, drawn):
        tracked.tracking.handle_event(
            Pictured(number=number, epoch=1, name=path.name, path=str(path))
        )
    tracked.tracking.close()
    assert heard.pictures == [("trial-0", drawn.name, 1)]
    assert tracked.said == []


def test_marks_of_a_deleted_study_and_of_nothing_we_know_are_no_runs(
    make_context: MakeContext,
) -> None:
    context = make_context()
    heard = Heard()
    tracked = track(context, lambda: heard)
    tracked.marks.mkdir(parents=True)
    for name, token in (("trial-0", "of another"), ("trial-7", "t"), ("x", "t"), ("export-1", "t")):
        (tracked.marks / name).write_text(token)
    tracked.tracking.recover()
    tracked.tracking.close()
    assert heard.begun == []
    assert tracked.marked() == ["export-1", "trial-7", "x"]


def test_a_full_disk_for_marks_costs_no_run(make_context: MakeContext) -> None:
    context = make_context(epochs=1)
    heard = Heard()
    tracked = track(context, lambda: heard)
    tracked.marks.parent.mkdir(parents=True)
    tracked.marks.write_text("a file stands where the folder would be")
    assert run_one(context)["state"] == "COMPLETE"
    tracked.tracking.recover()
    tracked.tracking.close()
    assert [ending.state for _, ending in heard.ends] == ["complete"]


def test_other_parameters_are_another_run() -> None:
    run = TrackedRun(name="trial-3", study="s", token="t", parameters={"lr": 0.1})
    others = [
        replace(run, parameters={"lr": 0.2}),
        replace(run, token="u"),
        replace(run, name="trial-4"),
        replace(run, about={"seed": 1}),
    ]
    assert len({each.key for each in (run, *others)}) == 5
    assert replace(run, about={"host": "b"}, card="x").key == run.key


# ---- what is given, and what is refused ----


def test_tools_stand_behind_commas_each_once() -> None:
    assert read_variables({"LOG": "TensorBoard, wandb,tensorboard"}).log == ("tensorboard", "wandb")
    assert read_variables({}).log == ()
    with pytest.raises(BadVariable, match=r"unknown tracker 'tensorbord'.*did you mean"):
        read_variables({"LOG": "tensorbord"})
    assert "LOG" in PASSED, "an engine's workers tell, too"


@pytest.mark.parametrize("command", ["study", "worker"])
@pytest.mark.parametrize("name", ["tensorboard", "mlflow", "wandb"])
def test_what_is_not_installed_is_refused_with_what_to_type(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, name: str, command: str
) -> None:
    monkeypatch.setattr(opening, "find_spec", lambda name: None)
    said = refused(command, NAME="cae", LOG=name)
    assert f"LOG={name} needs {opening.TITLES[name]}, which is not installed" in said
    assert f"pip install 'genstudy[{name}]'" in said


@pytest.mark.parametrize("tool", ["wandb"], indirect=True)
def test_wandb_asks_nobody_for_a_key(tool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "find_spec", lambda name: True)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    with pytest.raises(BadVariable, match=r"LOG=wandb finds no key: .*WANDB_MODE=offline"):
        check_trackers((tool,))
    monkeypatch.setenv("WANDB_MODE", "offline")
    check_trackers((tool,))


def test_where_runs_are_to_be_seen_holds_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = RunPaths(tmp_path / "a b")
    assert describe_place("tensorboard", paths, "s") == (
        f"tensorboard --logdir '{tmp_path}/a b/tensorboard/s'"
    )
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert f"sqlite:///{tmp_path}/a b/mlflow/mlflow.db" in describe_place("mlflow", paths, "s")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"https://me:{SECRET}@tracker.example")
    assert SECRET not in describe_place("mlflow", paths, "s")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert "wandb sync" in describe_place("wandb", paths, "s")


# ---- a whole study ----


def test_a_study_with_kills_has_each_epoch_once_in_tensorboard(
    user: User, study_file: WriteStudy
) -> None:
    """A worker is killed, then the supervisor, both with -9; the next command goes on."""
    path = study_file(replace={**slow(0.03), "epochs=2, retrain": "epochs=6, retrain"})
    given: dict[str, Any] = {"NAME": path, "LOG": "tensorboard", "TRIALS": 3, "WORKERS": 1}
    with watched(user.start(**given, TOP=0)) as process:
        wait_until(lambda: progress(user.url)() >= 2)
        workers_of(process)[0].kill()
        wait_until(lambda: progress(user.url)() >= 8)
        kill_all(process)
    code, out, error = user.run(**given, TOP=0)
    assert code == 0, error
    folder = user.runs / "tensorboard" / "small"
    assert f"LOG=tensorboard: tensorboard --logdir {folder}" in out
    assert sorted(place.name for place in folder.iterdir()) == ["trial-0", "trial-1", "trial-2"]
    frame = curves("small", storage=user.url)
    for number in range(3):
        found = read_events(folder / f"trial-{number}")
        steps = [
            (step, value.tensor.float_val[0]) for step, value in found if value.tag == "valid/mse"
        ]
        mine = frame[frame["number"] == number]
        assert [step for step, _ in steps] == mine["epoch"].tolist() == [1, 2, 3, 4, 5, 6]
        assert np.allclose([value for _, value in steps], mine["value"])
        (state,) = [value for _, value in found if value.tag == "state/text_summary"][-1:]
        assert state.tensor.string_val[0] == b"complete"
    assert not list((user.runs / "logs" / "small" / "open-tensorboard").iterdir())
