"""Trials that have ended go on all the same, when more trials or epochs make them be promoted."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState

from search.trials.paused import GROWTH
from search.trials.queue import TrialQueue, open_queue
from search.worker.trial import run_trial
from storage import trials
from storage.database.completed_reports import CompletedReports
from storage.database.fences import TrialLost
from storage.database.leases import Attempt
from storage.database.retry import DatabaseWentBack
from storage.database.returns import end_at_rung, let_return, read_returns
from storage.database.rungs import Arrival, list_promoted, may_be_promoted, read_arrivals
from storage.database.transactions import read, write
from storage.database.trial_states import TrialStates
from tests.test_promotion import make_queue, train
from tests.test_restored import change
from tests.trials import MakeContext

FEW_DIGITS = True


def worth(number: int, epoch: int) -> float:
    """Trial n is worth n: the later, the worse."""
    return float(number)


def note(url: str, trial_id: int, **attributes: str) -> None:
    """Give a trial that has ended attributes, as JSON."""
    for name, value in attributes.items():
        rows = "INSERT INTO trial_user_attributes (trial_id, key, value_json) VALUES"
        change(url, f"{rows} ({trial_id}, '{name}', '{value}')")


def finish(queue: TrialQueue, total: int) -> list[str]:
    """Do all that is left to do."""
    return list(iter(lambda: train(queue, total, worth), ""))


def test_more_trials_promote_one_that_had_ended(storage_url: str) -> None:
    queue = make_queue(storage_url)
    finish(queue, 3)
    assert queue.count() == {"COMPLETE": 1, "PRUNED": 2}
    assert finish(queue, 3) == [], "nothing has changed"
    done = finish(queue, 6)
    assert done[:4] == ["3: 1-1", "4: 1-1", "5: 1-1", "1: 2-3"], "two of six"
    assert done[4:] == ["1 ends", *(f"{number} ends" for number in range(3, 6))]
    assert queue.count() == {"COMPLETE": 1, "PRUNED": 5}


def test_a_trial_that_returns_is_a_sane_row_at_every_moment(storage_url: str) -> None:
    queue = make_queue(storage_url)
    finish(queue, 3)
    trial_id = queue.id_of(1)
    note(storage_url, trial_id, outcome='"pruned"', epochs="1", kept='"word"')
    before = queue.storage.get_trial(trial_id)
    assert (before.state, before.value) == (TrialState.PRUNED, 1.0)
    with write(queue.engine) as connection:
        assert let_return(connection, trial_id)
        assert not let_return(connection, trial_id), "another process finds nothing to do"
    waiting = queue.storage.get_trial(trial_id)
    assert (waiting.state, waiting.value) == (TrialState.WAITING, None)
    assert waiting.datetime_complete is None
    assert waiting.user_attrs == {"kept": "word"}
    assert (waiting.params, waiting.intermediate_values) == ({}, {0: 1.0})
    row: Any = trials("s", storage=storage_url).set_index("number").loc[1].to_dict()
    assert (row["state"], math.isnan(row["value"])) == ("WAITING", True)


def test_an_attempt_before_the_end_writes_nothing_after_the_return(storage_url: str) -> None:
    queue = make_queue(storage_url)
    finish(queue, 3)
    trial_id = queue.id_of(1)
    with write(queue.engine) as connection:
        let_return(connection, trial_id)
    queue.storage.begin_attempt(trial_id, Attempt(fence=1, counted=1))
    with pytest.raises(TrialLost):
        queue.storage.write_attributes(trial_id, {"late": True})


def test_every_process_notices_a_return(storage_url: str) -> None:
    """One that has counted the trial as ended, and one whose sampler has read it."""
    queue, other = make_queue(storage_url), open_queue("s", storage_url, owner="other:1:1")
    finish(queue, 3)
    states = TrialStates(queue.engine, queue.study_id)
    assert states.count() == {"COMPLETE": 1, "PRUNED": 2}
    assert [trial.state.name for trial in other.study.get_trials()][1] == "PRUNED"
    with write(queue.engine) as connection:
        let_return(connection, queue.id_of(1))
    assert states.count() == {"COMPLETE": 1, "PRUNED": 1, "WAITING": 1}
    assert {trial.number: trial.state for trial in states.read_open()}[1] == "WAITING"
    assert [trial.state.name for trial in other.study.get_trials()][1] == "WAITING"
    assert states.floor < queue.id_of(1), "it may run, and be abandoned"
    change(storage_url, "UPDATE trials SET state = 'COMPLETE' WHERE number = 1")
    assert states.count() == {"COMPLETE": 2, "PRUNED": 1}
    assert [trial.state.name for trial in other.study.get_trials()][1] == "COMPLETE"
    states.check()


def test_a_database_that_has_lost_a_return_went_back(storage_url: str) -> None:
    queue = make_queue(storage_url)
    finish(queue, 3)
    with write(queue.engine) as connection:
        let_return(connection, queue.id_of(1))
    states = TrialStates(queue.engine, queue.study_id)
    states.count()
    change(storage_url, "UPDATE trials SET state = 'PRUNED' WHERE number = 1")
    change(storage_url, "DELETE FROM genstudy_returns")
    with pytest.raises(DatabaseWentBack):
        states.count()
    assert states.count() == {"COMPLETE": 1, "PRUNED": 2}


def test_a_pruner_counts_the_reports_of_a_returned_trial_once(storage_url: str) -> None:
    queue = make_queue(storage_url)
    queue.study.pruner = optuna.pruners.NopPruner()
    for _ in range(3):
        train(queue, 3, worth)
    reports = CompletedReports(queue.engine, queue.study_id)
    reports.refresh()
    assert (reports.trials, sorted(reports.at(0))) == (3, [0.0, 1.0, 2.0])
    with write(queue.engine) as connection:
        let_return(connection, queue.id_of(0))
    reports.refresh()
    assert (reports.trials, sorted(reports.at(0))) == (2, [1.0, 2.0])
    change(storage_url, "UPDATE trials SET state = 'COMPLETE' WHERE number = 0")
    for _ in range(2):
        reports.refresh()
        assert (reports.trials, sorted(reports.at(0))) == (3, [0.0, 1.0, 2.0])


def test_a_complete_trial_ends_at_a_rung_instead(storage_url: str) -> None:
    queue = make_queue(storage_url)
    train(queue, 1, lambda number, epoch: float(epoch))  # pauses
    queue.study.pruner = optuna.pruners.NopPruner()
    train(queue, 1, lambda number, epoch: float(epoch))
    trial_id = queue.id_of(0)
    note(storage_url, trial_id, outcome='"complete"')
    for _ in range(2):
        with write(queue.engine) as connection:
            end_at_rung(connection, trial_id, rung=9, best=1.0, last=9.0)
            assert read_returns(connection, queue.study_id) == {trial_id: 1}
    trial = queue.storage.get_trial(trial_id)
    assert (trial.state, trial.value, trial.user_attrs["outcome"]) == (
        TrialState.PRUNED, 9.0, "pruned",
    )  # fmt: skip
    with read(queue.engine) as connection:
        (last,) = [each for each in read_arrivals(connection, queue.study_id) if each.rung == 9]
    assert (last.value, last.may_return) == (1.0, True)


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=20),
    st.lists(st.floats(0, 1), max_size=20),
    st.integers(2, 4),
)
def test_a_checkpoint_that_is_removed_is_of_no_trial_that_is_promoted(
    values: list[float], later: list[float], factor: int
) -> None:
    """Not before the study has twice as many trials; and a rung keeps so many at most."""
    now = [Arrival(i, 1, value, True, "PRUNED", i) for i, value in enumerate(values)]
    how: dict[str, Any] = {"factor": factor, "minimize": True}
    kept = {a.trial_id for a in now if may_be_promoted(now, a.trial_id, **how, growth=GROWTH)}
    assert len(kept) <= GROWTH * len(now) / factor
    more = [
        Arrival(len(now) + i, 1, value, True, "PRUNED", len(now) + i)
        for i, value in enumerate(later[: len(now) * (GROWTH - 1)])
    ]
    promoted = set(list_promoted([*now, *more], **how))
    assert promoted & {each.trial_id for each in now} <= kept


@pytest.mark.parametrize(
    ("pruner", "keeps", "kept"),
    [("asha", False, True), ("none", True, True), ("none", False, False)],
)
def test_a_complete_trial_keeps_its_last_checkpoint_where_it_may_go_on(
    make_context: MakeContext, pruner: str, keeps: bool, kept: bool
) -> None:
    context = make_context(epochs=1, pruner=pruner)
    context = replace(context, run=replace(context.run, keeps=keeps))
    trial = context.queue.claim(1)
    assert trial is not None
    run_trial(context, trial)
    left = [path.name for path in context.run.paths.checkpoints("small").glob("*.safetensors")]
    assert left == (["trial-0.safetensors"] if kept else [])
