"""Trials pause at rungs, and the best go on from their checkpoints (PRUNER=asha)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import optuna
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.errors import BadVariable
from search.strategies.promotion import AshaPruner
from search.strategies.pruners import make_pruner
from search.supervisor.progress import StudyProgress
from search.supervisor.rung_forecast import RungForecast
from search.trials.queue import TrialQueue, open_queue
from storage import curves, trials
from storage.database.fences import TrialLost, raise_fence
from storage.database.leases import Attempt
from storage.database.returns import read_returns
from storage.database.rungs import Arrival, list_promoted, read_arrivals
from storage.database.transactions import read, write
from tests.queues import make_study
from tests.user import User, WriteStudy, progress, slow, wait_until, watched

FEW_DIGITS = True

EPOCHS = 9


def make_queue(url: str, direction: str = "minimize", brackets: int = 1) -> TrialQueue:
    queue = make_study(url, direction=direction)
    queue.study.pruner = AshaPruner(brackets=brackets)
    return queue


def train(queue: TrialQueue, total: int, value_at: Callable[[int, int], float]) -> str:
    """Do what a worker does with the next trial; what was done, as ``2: 1-3`` or ``2 ends``."""
    trial = queue.claim(total)
    if trial is None:
        return ""
    if queue.pauses(trial):
        queue.study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        queue.storage.end_attempt(trial._trial_id)
        return f"{trial.number} ends"
    stored = queue.storage.get_trial(trial._trial_id).intermediate_values
    first, best = len(stored) + 1, min(stored.values(), default=math.inf)
    for epoch in range(first, EPOCHS + 1):
        value = value_at(trial.number, epoch)
        trial.report(value, epoch - 1)
        best = min(best, value)
        is_rung = epoch in queue.rung_epochs(EPOCHS, trial)
        if is_rung and not queue.reach_rung(trial, rung=epoch, value=best):
            queue.release(trial.number)
            return f"{trial.number}: {first}-{epoch}"
    queue.study.tell(trial, best)
    queue.storage.end_attempt(trial._trial_id)
    return f"{trial.number}: {first}-{EPOCHS}"


def test_the_best_of_a_rung_go_on_and_the_others_end_last(storage_url: str) -> None:
    """Trial n is worth n: the later, the worse."""
    queue = make_queue(storage_url)
    done = [train(queue, 9, lambda number, epoch: number) for _ in range(30)]
    assert done[:14] == [
        "0: 1-1", "1: 1-1", "2: 1-1", "0: 2-3",  # 0 is the best of three
        "3: 1-1", "4: 1-1", "5: 1-1", "1: 2-3",  # two of six go on
        "6: 1-1", "7: 1-1", "8: 1-1", "2: 2-3",  # three of nine; then one of three on rung 2
        "0: 4-9", "1 ends",
    ]  # fmt: skip
    assert done[14:] == [f"{number} ends" for number in range(2, 9)] + [""] * 9
    assert queue.count() == {"COMPLETE": 1, "PRUNED": 8}


def test_what_is_said_to_be_left_is_what_is_trained_until_the_end(storage_url: str) -> None:
    queue, shown = make_queue(storage_url), StudyProgress("small", 9)
    left: list[int] = []
    done: list[str] = []
    while not done or done[-1]:
        RungForecast(queue, shown, EPOCHS).look(queue.count())
        assert shown.rungs is not None
        left.append(sum(epochs * count for epochs, count in shown.rungs.stretches.items()))
        done.append(train(queue, 9, lambda number, epoch: number))
    stretches = [re.fullmatch(r"\d+: (\d+)-(\d+)", each) for each in done]
    trained = [int(each[2]) - int(each[1]) + 1 if each else 0 for each in stretches]
    assert sum(trained) == 9 + 3 * 2 + 6
    assert left == [sum(trained[place:]) for place in range(len(trained))]


def test_a_study_of_few_trials_has_a_winner(storage_url: str) -> None:
    """No rung lets one of two go on; in the end the best does, rung after rung, to its end."""
    queue = make_queue(storage_url)
    done = [train(queue, 2, lambda number, epoch: 1 - number) for _ in range(7)]
    assert done == ["0: 1-1", "1: 1-1", "1: 2-3", "1: 4-9", "0 ends", "", ""]
    assert queue.count() == {"COMPLETE": 1, "PRUNED": 1}


def test_where_more_is_better_the_largest_go_on(storage_url: str) -> None:
    queue = make_queue(storage_url, direction="maximize")
    done = [train(queue, 3, lambda number, epoch: number) for _ in range(3)]
    assert done == ["0: 1-1", "1: 1-1", "2: 1-3"], "the third is the best of three at once"


def test_a_trial_beyond_a_lowered_number_is_not_taken_in_place_of_one_that_pauses(
    storage_url: str,
) -> None:
    """The first is interrupted, and waits for a higher number; all that was promoted goes on."""
    queue = make_queue(storage_url)
    interrupted = queue.claim(4)
    assert interrupted is not None
    done = [train(queue, 4, lambda number, epoch: number) for _ in range(3)]
    assert done == ["1: 1-1", "2: 1-1", "3: 1-1"]
    queue.release(interrupted.number)
    done = [train(queue, 3, lambda number, epoch: number) for _ in range(6)]
    assert done == ["1: 2-3", "1: 4-9", "2 ends", "3 ends", "", ""]
    assert queue.count() == {"COMPLETE": 1, "PRUNED": 2, "WAITING": 1}


def test_paused_trials_are_counted_apart_and_not_taken(storage_url: str) -> None:
    queue = make_queue(storage_url)
    train(queue, 2, lambda number, epoch: 1.0)
    assert queue.count() == {"PAUSED": 1, "WAITING": 0}
    assert not queue.has_paused_to_take(queue.count(), 2), "a new trial comes first"
    trial = queue.claim(2)
    assert trial is not None
    assert trial.number == 1
    assert queue.claim(2) is None, "while another runs, it may be promoted"
    assert not queue.has_paused_to_take(queue.count(), 2)
    queue.release(1)
    again = queue.claim(2)
    assert again is not None
    assert again.number == 1, "what was interrupted goes on before all else"


def test_a_rung_answers_once(storage_url: str) -> None:
    """An attempt that comes to it again, from an older checkpoint, gets the same answer."""
    queue = make_queue(storage_url)
    for number in range(3):
        train(queue, 3, lambda number, epoch: number)
    trial = queue.claim(3)
    assert trial is not None
    assert queue.reach_rung(trial, rung=1, value=99.0)
    with read(queue.engine) as connection:
        values = {each.value for each in read_arrivals(connection, queue.study_id)}
    assert values == {0.0, 1.0, 2.0}


def test_an_attempt_that_lost_its_trial_reaches_no_rung(storage_url: str) -> None:
    queue = make_queue(storage_url)
    trial = queue.claim(1)
    assert trial is not None
    with write(queue.engine) as connection:
        raise_fence(connection, trial._trial_id)
    with pytest.raises(TrialLost):
        queue.reach_rung(trial, rung=1, value=0.5)
    trial._trial_id = 10**6  # an older state of the database was put back
    queue.storage.begin_attempt(10**6, Attempt(fence=1, counted=1))
    with pytest.raises(TrialLost):
        queue.reach_rung(trial, rung=1, value=0.5)
    with read(queue.engine) as connection:
        assert not read_arrivals(connection, queue.study_id)


def test_another_pruner_trains_paused_trials_to_their_end(storage_url: str) -> None:
    queue = make_queue(storage_url)
    train(queue, 1, lambda number, epoch: 1.0)
    queue.study.pruner = optuna.pruners.NopPruner()
    assert queue.count() == {"WAITING": 1}
    trial = queue.claim(1)
    assert trial is not None
    assert (trial.number, queue.pauses(trial)) == (0, False)


def test_other_pruners_ask_the_database_nothing_more(
    storage_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = make_study(storage_url)
    monkeypatch.delattr("search.trials.paused.rungs")
    trial = queue.claim(1)
    assert trial is not None
    assert queue.count() == {"RUNNING": 1}
    assert queue.rung_epochs(EPOCHS, trial) == ()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.integers(2, 4))
def test_only_the_best_share_of_a_rung_is_promoted(values: list[float], factor: int) -> None:
    there = [Arrival(i, 1, value, True, "WAITING", i) for i, value in enumerate(values)]
    promoted = []
    while found := list_promoted(there, factor=factor, minimize=True):
        promoted.append(found[0])
        there[found[0]] = there[found[0]]._replace(waits=False)
    assert len(promoted) == len(values) // factor
    assert [values[i] for i in promoted] == sorted(values)[: len(promoted)]


@pytest.mark.parametrize(
    ("written", "epochs", "rungs"),
    [
        ("asha", 20, [1, 3, 9]),
        ("asha(min_resource=2, reduction_factor=4)", 33, [2, 8, 32]),
        ("asha(5)", 5, []),
    ],
)
def test_rungs_grow_by_the_factor(written: str, epochs: int, rungs: list[int]) -> None:
    pruner = make_pruner(written)
    assert isinstance(pruner, AshaPruner)
    assert list(pruner.rung_epochs(epochs, 7)) == rungs


@pytest.mark.parametrize(
    ("written", "why"),
    [
        *((f"asha({given})", "is not a whole number of at least") for given in (
            "0", "reduction_factor=1", "1.5", "brackets=0",
        )),
        ("asha(brackets=11)", "is more than 10"),
        ("asha(reduction_factor=10, brackets=9)", "last rung beyond 100000 epochs"),
    ],
)  # fmt: skip
def test_rungs_that_make_no_sense_are_refused(written: str, why: str) -> None:
    with pytest.raises(BadVariable, match=why):
        make_pruner(written)


@pytest.mark.parametrize(("brackets", "factor"), [(1, 3), (2, 2), (3, 3), (4, 3), (3, 4)])
def test_brackets_have_the_shares_of_optunas_hyperband(brackets: int, factor: int) -> None:
    optunas = optuna.pruners.HyperbandPruner(reduction_factor=factor)
    optunas._n_brackets = brackets
    shares = [optunas._calculate_trial_allocation_budget(each) for each in range(brackets)]
    pruner = AshaPruner(reduction_factor=factor, brackets=brackets)
    turn = [pruner.bracket_of(number) for number in range(sum(shares))]
    assert [turn.count(each) for each in range(brackets)] == shares
    assert [pruner.bracket_of(sum(shares) + number) for number in range(len(turn))] == turn
    for count in range(1, len(turn)):  # at every moment as even as whole trials can be
        for bracket, share in enumerate(shares):
            assert abs(turn[:count].count(bracket) - count * share / sum(shares)) < 1.5


def test_a_trial_of_a_later_bracket_pauses_later(storage_url: str) -> None:
    """Eight trials, of which bracket 1 has every other one at first; it has no first rung."""
    queue = make_queue(storage_url, brackets=2)
    pruner = queue.study.pruner
    assert isinstance(pruner, AshaPruner)
    assert [pruner.bracket_of(number) for number in range(5)] == [0, 1, 0, 1, 0]
    done = list(iter(lambda: train(queue, 8, lambda number, epoch: number), ""))
    assert done[:4] == ["0: 1-1", "1: 1-3", "2: 1-1", "3: 1-3"]
    for each in done:
        number, _, epochs = each.partition(": ")
        if epochs:
            ends = {*pruner.rung_epochs(EPOCHS, int(number)), EPOCHS}
            assert int(epochs.partition("-")[2]) in ends, each
    assert queue.count()["COMPLETE"] >= 1
    assert queue.count().total() == 8


@pytest.mark.parametrize("brackets", [1, 3])
def test_several_workers_promote_the_best_of_every_bracket(storage_url: str, brackets: int) -> None:
    """Three workers, each with a queue of its own, take turns after every epoch."""
    first = make_queue(storage_url, brackets=brackets)
    queues = [first, *(open_queue("s", storage_url, owner=f"w:{n}:1") for n in (1, 2))]
    for queue in queues[1:]:
        queue.study.pruner = first.study.pruner
    for total in (9, 17):  # the second time trials that had ended are promoted, too
        while first.count().total() < total or first.count()["PAUSED"]:
            working = [
                work(queue, total, lambda number, epoch: number * 7 % 17) for queue in queues
            ]
            while working:
                working = [each for each in working if next(each, None) is not None]
        assert first.count().total() == total
    pruner = first.study.pruner
    assert isinstance(pruner, AshaPruner)
    with read(first.engine) as connection:
        arrivals = read_arrivals(connection, first.study_id)
        assert read_returns(connection, first.study_id)
    for rung, bracket in {(each.rung, pruner.bracket_of(each.number)) for each in arrivals}:
        there = [
            each
            for each in arrivals
            if each.rung == rung and pruner.bracket_of(each.number) == bracket
        ]
        best = sorted(there, key=lambda each: each.value)[: len(there) // 3]
        assert not [each for each in best if each.waits], "each of them has gone on"
    for trial in first.study.get_trials():
        ends = {*pruner.rung_epochs(EPOCHS, trial.number), EPOCHS}
        assert len(trial.intermediate_values) in ends


def work(queue: TrialQueue, total: int, value_at: Callable[[int, int], float]) -> Iterator[str]:
    """Do what a worker does until it finds nothing; give way after every epoch."""
    while (trial := queue.claim(total)) is not None:
        if queue.pauses(trial):
            queue.study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            queue.storage.end_attempt(trial._trial_id)
            continue
        stored = queue.storage.get_trial(trial._trial_id).intermediate_values
        best = min(stored.values(), default=math.inf)
        for epoch in range(len(stored) + 1, EPOCHS + 1):
            value = value_at(trial.number, epoch)
            trial.report(value, epoch - 1)
            best = min(best, value)
            yield f"{trial.number}: {epoch}"
            is_rung = epoch in queue.rung_epochs(EPOCHS, trial)
            if is_rung and not queue.reach_rung(trial, rung=epoch, value=best):
                queue.release(trial.number)
                break
        else:
            queue.study.tell(trial, best)
            queue.storage.end_attempt(trial._trial_id)


def outcome_of(user: User) -> pd.DataFrame:
    frame = trials("small", storage=user.url)
    lengths = curves("small", storage=user.url).groupby("number").size().rename("epochs_run")
    kept = frame.set_index("number")[["outcome", "value", "latent", "epochs"]]
    return kept.join(lengths)


def test_an_interrupted_search_pauses_and_promotes_as_an_undisturbed_one(
    user: User, study_file: WriteStudy
) -> None:
    replace = {"epochs=2, retrain": "epochs=9, retrain", **slow(0.005)}
    call: dict[str, Any] = {
        "NAME": study_file(replace=replace),
        "WORKERS": 1,
        "TRIALS": 7,
        "TOP": 0,
    }
    call |= {"PRUNER": "asha", "SAMPLER": "random"}
    assert user.run(**call)[::2] == (0, "")
    undisturbed = outcome_of(user)
    pruned = undisturbed[undisturbed["outcome"] == "pruned"]
    assert set(pruned["epochs_run"]) == {1, 3}
    assert set(undisturbed[undisturbed["outcome"] == "complete"]["epochs_run"]) == {9}
    assert len(pruned) >= 4

    other = user.with_other_runs("other")
    reached = progress(other.url)
    for epochs in (3, 8):
        running = other.start(**call)
        with watched(running):
            wait_until(lambda most=epochs: reached() >= most)  # type: ignore[misc]
            running.kill()
            running.wait()
    assert other.run(**call)[::2] == (0, "")
    pd.testing.assert_frame_equal(outcome_of(other), undisturbed)
    kept = {path.name for path in (other.runs / "checkpoints" / "small").glob("trial-*")}
    complete = undisturbed.index[undisturbed["outcome"] == "complete"]
    assert {f"trial-{number}.safetensors" for number in complete} <= kept
    assert len(kept) <= len(complete) + 2 * (7 // 3), "of a rung twice as many as it promotes"
    assert not [name for name in kept if "earlier" in name]
