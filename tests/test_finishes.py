"""Machines that end a study together: one retrains, exports and measures the test images."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import optuna
import pytest
from sqlalchemy import Connection

from search.errors import BadVariable, is_missing_record
from search.supervisor.finish_claim import (
    FinishClaim,
    FinishedElsewhere,
    find_elsewhere,
)
from search.supervisor.loop import Supervisor
from search.trials import owner as owners
from search.trials.owner import forget_mark, hold_mark, owner_name
from search.trials.queue import TrialQueue
from search.variables import read_variables
from storage.database.connection import open_storage
from storage.database.finishes import (
    Finish,
    FinishLost,
    Hold,
    claim_finish,
    end_finish,
    hold_finish,
    hold_tests,
    keep_measured,
    note_test,
    read_finish,
    renew_finish,
)
from storage.database.leases import GRACE, RENEWAL
from storage.files.identity import read_identity
from storage.paths import RunPaths
from tests.user import User, WriteStudy, slow, wait_until, watched

FEW_DIGITS = True

HERE = {"owner": "a:1:x", "runs": "here", "place": "machine:/runs"}
THERE = {"owner": "b:2:y", "runs": "there", "place": "other:/runs"}


def held(fence: int) -> Hold:
    """The finishing, as long as claim ``fence`` is the latest."""
    return lambda connection: hold_finish(connection, "t", fence)


@pytest.fixture
def queue(storage_url: str) -> TrialQueue:
    storage = open_storage(storage_url)
    study = optuna.create_study(study_name="s", storage=storage)
    return TrialQueue(study, storage, owner=owner_name(1))


def test_of_two_that_claim_one_has_it(queue: TrialQueue) -> None:
    engine = queue.engine
    assert read_finish(engine, "t") is None
    assert claim_finish(engine, "t", **HERE, seen=0) == 1
    assert claim_finish(engine, "t", **THERE, seen=0) is None
    found = read_finish(engine, "t")
    assert found is not None
    assert (found.fence, found.owner, found.runs) == (1, HERE["owner"], "here")
    assert claim_finish(engine, "other study", **THERE, seen=0) == 1


def test_an_overtaken_claim_writes_nothing(queue: TrialQueue) -> None:
    engine = queue.engine
    claim_finish(engine, "t", **HERE, seen=0)
    assert claim_finish(engine, "t", **THERE, seen=1) == 2
    for attempt in (
        lambda: renew_finish(engine, "t", 1),
        lambda: note_test(engine, "t", "w", 7, hold=held(1)),
        lambda: keep_measured(engine, "t", "w", {"test": {}}, hold=held(1)),
        lambda: end_finish(engine, "t", 1, {"top": 3}),
    ):
        with pytest.raises(FinishLost):
            attempt()
    found = read_finish(engine, "t")
    assert found is not None
    assert (found.owner, found.result, found.tests) == (THERE["owner"], None, ())


def test_what_the_test_images_said_of_a_training_is_kept_for_others(queue: TrialQueue) -> None:
    engine = queue.engine
    claim_finish(engine, "t", **HERE, seen=0)
    assert note_test(engine, "t", "w", 7, hold=held(1)) == []
    (again,) = note_test(engine, "t", "w", 7, hold=held(1))  # after a kill
    assert (again.measured, again.runs) == (None, "here")
    assert note_test(engine, "t", "longer", 7, hold=held(1)) == []
    claim_finish(engine, "t", **THERE, seen=1)
    (met,) = note_test(engine, "t", "w", 7, hold=held(2))
    assert (met.trial, met.measured, met.place) == (7, None, HERE["place"])
    keep_measured(engine, "t", "w", {"test": {"mse": 0.5}}, hold=held(2))
    claim_finish(engine, "t", **HERE, seen=2)
    met_then = note_test(engine, "t", "w", 7, hold=held(3))
    assert [each.measured for each in met_then] == [None, {"test": {"mse": 0.5}}]
    found = read_finish(engine, "t")
    assert found is not None
    assert [(each.training, each.runs) for each in found.tests] == [
        ("w", "here"),
        ("longer", "here"),
        ("w", "there"),
    ]


def test_with_files_a_final_test_comes_before_anybody_has_claimed_the_finish(
    queue: TrialQueue,
) -> None:
    """Whoever has the claim on rank 1 measures it, on whatever machine."""
    engine = queue.engine

    def here(connection: Connection) -> Finish:
        return hold_tests(connection, "t", runs="here", place="machine:/runs")

    def there(connection: Connection) -> Finish:
        return hold_tests(connection, "t", runs="there", place="other:/runs")

    assert note_test(engine, "t", "w", 7, hold=here) == []
    keep_measured(engine, "t", "w", {"test": {"mse": 0.5}}, hold=here)
    (met,) = note_test(engine, "t", "w", 7, hold=there)
    assert (met.place, met.measured) == ("machine:/runs", {"test": {"mse": 0.5}})
    assert claim_finish(engine, "t", **THERE, seen=0) == 1
    assert note_test(engine, "t", "longer", 7, hold=here) == []
    found = read_finish(engine, "t")
    assert found is not None
    assert (found.fence, found.owner, found.runs) == (1, THERE["owner"], "there")
    assert [(each.training, each.runs) for each in found.tests] == [
        ("w", "here"),
        ("longer", "here"),
    ]


def test_only_here_is_a_place_to_finish() -> None:
    with pytest.raises(BadVariable, match="FINISH='there' is not 'here'"):
        read_variables({"FINISH": "there"})


@pytest.mark.parametrize("garbage", ["[", "7", '"x"', '[{"trial": 1}]', "null"])
def test_what_somebody_else_wrote_there_is_no_result(tmp_path: Path, garbage: str) -> None:
    path = tmp_path / "a.db"
    storage = open_storage(f"sqlite:///{path}")
    claim_finish(storage.engine, "t", **HERE, seen=0)
    with sqlite3.connect(path) as other:
        other.execute("UPDATE genstudy_finishes SET result = ?, meetings = ?", (garbage, garbage))
    other.close()
    found = read_finish(storage.engine, "t")
    assert found is not None
    assert (found.result, found.tests) == (None, ())


class Scene:
    """A supervisor under RUNS whose claim looks at a clock of the test's."""

    def __init__(self, queue: TrialQueue, runs: Path, **more: Any) -> None:
        self.said: list[str] = []
        self.time, self.ticks = 0.0, 0
        run = SimpleNamespace(
            token="t",
            runs=str(runs),
            study="s",
            paths=RunPaths(runs),
            epochs=9,
            retrain_epochs=5,
            seeds=3,
            shown=None,
            finishes_here=False,
            files=None,
        )
        self.run: Any = SimpleNamespace(**{**vars(run), **more})
        self.queue = queue
        display = SimpleNamespace(say=self.said.append)
        self.supervisor = SimpleNamespace(
            run=self.run, queue=queue, display=display, handle_events=self.tick
        )

    def tick(self) -> list[Any]:
        self.ticks += 1
        self.time += RENEWAL
        return []

    def claim(self) -> FinishClaim:
        return FinishClaim(cast("Supervisor", self.supervisor), now=lambda: self.time)


def test_a_finished_study_is_left_to_the_machine_that_has_it(
    queue: TrialQueue, tmp_path: Path
) -> None:
    first, second = Scene(queue, tmp_path / "a"), Scene(queue, tmp_path / "b")
    claim = first.claim()
    with claim.hold(top=3) as elsewhere:
        assert elsewhere is None
        claim.result = {"top": 3, "trial": 7, "validation": 0.125, "test": 0.25}
    with second.claim().hold(top=3) as elsewhere:
        assert isinstance(elsewhere, FinishedElsewhere)
    assert elsewhere.describe("mse").endswith(
        f"{tmp_path}/a, trial 7, validation mse 0.125, test mse 0.25; FINISH=here does so in this "
        "RUNS, too"
    )
    assert find_elsewhere(second.run, queue, ended=0, top=3) == elsewhere
    assert find_elsewhere(first.run, queue, ended=0, top=3) is None
    words = [read_identity(each.run.paths.finishing_identity("s")) for each in (first, second)]
    assert words[0] != words[1]


def test_of_several_goals_another_machine_names_all() -> None:
    found = FinishedElsewhere(place="a:/runs", result={"top": 3, "goals": "mse 0.5, code 9"})
    assert found.describe("mse") == (
        "the front is retrained and exported in a:/runs, the first with mse 0.5, code 9; "
        "FINISH=here does so in this RUNS, too"
    )


@pytest.mark.parametrize(
    ("more", "top"),
    [
        ({"retrain_epochs": 6}, 3), ({"seeds": 5}, 3), ({"epochs": 27}, 3), ({}, 4),
        ({"finishes_here": True}, 3),
    ],
)  # fmt: skip
def test_more_than_was_finished_there_is_done_here(
    queue: TrialQueue, tmp_path: Path, more: dict[str, Any], top: int
) -> None:
    claim = Scene(queue, tmp_path / "a").claim()
    with claim.hold(top=3):
        claim.result = {"top": 3}
    second = Scene(queue, tmp_path / "b", **more)
    assert find_elsewhere(second.run, queue, ended=0, top=top) is None
    with second.claim().hold(top=top) as elsewhere:
        assert elsewhere is None


@pytest.mark.parametrize("damage", [b"", b"\0" * 33, b"\xff\xfe", b"x" * 32])
def test_a_runs_that_has_lost_its_word_is_known_by_its_place(
    queue: TrialQueue, tmp_path: Path, damage: bytes
) -> None:
    scene = Scene(queue, tmp_path / "a")
    claim = scene.claim()
    with claim.hold(top=3):
        claim.result = {"top": 3}
    place = scene.run.paths.finishing_identity("s")
    word = read_identity(place)
    assert len(word) == 32
    place.write_bytes(damage)
    assert read_identity(place) == ""
    assert find_elsewhere(scene.run, queue, ended=0, top=3) is None
    with scene.claim().hold(top=3) as elsewhere:
        assert elsewhere is None
    assert read_identity(place) == word


def test_a_study_that_went_on_is_finished_anew(queue: TrialQueue, tmp_path: Path) -> None:
    claim = Scene(queue, tmp_path / "a").claim()
    with claim.hold(top=3):
        claim.result = {"top": 3}
    queue.study.tell(queue.study.ask(), 0.5)
    with Scene(queue, tmp_path / "b").claim().hold(top=3) as elsewhere:
        assert elsewhere is None


def test_who_lives_is_waited_for_and_who_is_silent_is_followed(
    queue: TrialQueue, tmp_path: Path
) -> None:
    claim_finish(queue.engine, "t", **THERE, seen=0)
    scene = Scene(queue, tmp_path)
    renewals = 4

    def tick() -> list[Any]:
        if scene.ticks < renewals:
            renew_finish(queue.engine, "t", 1)
        return scene.tick()

    scene.supervisor.handle_events = tick
    with scene.claim().hold(top=3) as elsewhere:
        assert elsewhere is None
        assert scene.said == ["other:/runs retrains the best: waiting for it"]
        assert scene.time >= renewals * RENEWAL + GRACE
        with pytest.raises(FinishLost):
            renew_finish(queue.engine, "t", 1)


def test_who_is_known_to_be_dead_is_followed_at_once(queue: TrialQueue, tmp_path: Path) -> None:
    owner = owner_name(1)
    claim_finish(queue.engine, "t", **{**THERE, "owner": owner}, seen=0)
    hold_mark(owner)
    forget_held(owner)
    scene = Scene(queue, tmp_path)
    with scene.claim().hold(top=3) as elsewhere:
        assert elsewhere is None
    assert not scene.ticks
    forget_mark(owner)


def forget_held(owner: str) -> None:
    """Let go of an owner's mark without removing it, as a kill does."""
    os.close(owners._held.pop(owner))


def test_an_interrupted_finishing_is_free_for_others(queue: TrialQueue, tmp_path: Path) -> None:
    claim = Scene(queue, tmp_path / "a").claim()
    with pytest.raises(ValueError, match="cut off"), claim.hold(top=3):
        raise ValueError("cut off")
    found = read_finish(queue.engine, "t")
    assert found is not None
    assert (found.owner, found.result) == (None, None)
    scene = Scene(queue, tmp_path / "b")
    with scene.claim().hold(top=3) as elsewhere:
        assert elsewhere is None
    assert not scene.said


def test_a_claim_is_renewed_when_it_is_time(queue: TrialQueue, tmp_path: Path) -> None:
    scene = Scene(queue, tmp_path)
    claim = scene.claim()

    def renewed() -> int:
        found = read_finish(queue.engine, "t")
        assert found is not None
        return found.renewed

    with claim.hold(top=1):
        claim.check()
        assert renewed() == 0
        scene.tick()
        claim.check()
        claim.check()
        assert renewed() == 1
        claim_finish(queue.engine, "t", **THERE, seen=1)
        scene.tick()
        with pytest.raises(FinishLost):
            claim.check()
        claim_finish(queue.engine, "t", **HERE, seen=2)
        claim.fence = 3


def test_a_trial_whose_number_is_gone_is_a_missing_record(queue: TrialQueue) -> None:
    with pytest.raises(KeyError) as missing:
        queue.storage.get_trial_id_from_study_id_trial_number(queue.study_id, 7)
    assert is_missing_record(missing.value)
    with pytest.raises(KeyError) as missing:
        queue.storage.get_trial(10**6)
    assert is_missing_record(missing.value)
    assert not is_missing_record(KeyError("latent"))


def test_two_machines_measure_the_test_images_once(
    user: User, study_file: WriteStudy, tmp_path: Path
) -> None:
    name = study_file()
    storage = f"sqlite:///{tmp_path / 'shared.db'}"
    given: dict[str, Any] = {"NAME": name, "TRIALS": 2, "TOP": 1, "WORKERS": 1, "STORAGE": storage}
    here, there = tmp_path / "here", tmp_path / "there"
    code, _, error = user.run(**given, RUNS=here)
    assert (code, error) == (0, "")
    code, out, error = user.run(**given, RUNS=there)
    assert (code, error) == (0, "")
    assert f"{here}, trial" in out
    assert "FINISH=here does so in this RUNS" in out
    assert not (there / "exports").exists()
    code, out, error = user.run(**given, RUNS=there, FINISH="here")
    assert (code, error) == (0, "")
    assert (
        f"this retraining was measured on the test images in {socket.gethostname()}:{here}" in out
    )
    first, second = (
        json.loads((runs / "exports" / "small" / "1" / "provenance.json").read_text())
        for runs in (here, there)
    )
    for part in ("test", "tables", "valid"):
        assert first[part] == second[part]
    assert len(second["remarks"]) == len(first["remarks"]) + 1
    with sqlite3.connect(tmp_path / "shared.db") as database:
        ((tests,),) = database.execute("SELECT meetings FROM genstudy_finishes")
    database.close()
    assert len(json.loads(tests)) == 1


def test_a_database_that_goes_back_while_the_best_is_trained_is_searched_again(
    user: User, study_file: WriteStudy
) -> None:
    name = study_file(replace={**slow(0.1), "retrain_epochs=2": "retrain_epochs=8"})
    tables = ("trials", "trial_values", "trial_params", "trial_user_attributes")
    with watched(user.start(NAME=name, TRIALS=3, WORKERS=1, TOP=1)) as process:
        checkpoints = user.runs / "checkpoints" / "small"
        wait_until(lambda: any(checkpoints.glob("retrain-*-last.safetensors")))
        with sqlite3.connect(user.runs / "studies.db", timeout=60) as other:
            later = "SELECT trial_id FROM trials WHERE number > 0"
            for table in reversed(tables):
                other.execute(f"DELETE FROM {table} WHERE trial_id IN ({later})")
        other.close()
        out, error = process.communicate(timeout=100)
    assert (process.returncode, error) == (0, ""), error + out
    before, said, after = out.partition("trials that had ended are not in the trial database any")
    assert said
    assert "trial   0" in before
    assert "*best" not in after  # trial 0 is there still, and is the best
    assert "study small: 3 trials, 3 complete" in out
    assert (user.runs / "exports" / "small" / "1" / "provenance.json").exists()
