"""Trials that failed by an error are tried again once the study was mended; exactly N end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import optuna
import pytest
from optuna.distributions import IntDistribution

from search.setup.prepare import count_trials
from search.strategies.samplers import make_sampler
from search.strategies.seeded import StudySampler
from search.trials.outcomes import Ending
from search.trials.queue import TrialQueue, open_queue
from storage.database import leases
from storage.database.connection import open_storage

FEW_DIGITS = True

REFERENCES = {"reported": {"lr": 0.25}}
OpenQueue = Callable[..., TrialQueue]


@pytest.fixture
def opened(storage_url: str) -> OpenQueue:
    """Open the queue of one study with a version of its files."""
    optuna.create_study(study_name="small", storage=open_storage(storage_url))

    def make(version: str, references: Mapping[str, Mapping[str, Any]] | None = None) -> TrialQueue:
        sampler = make_sampler("random", seed=0, space={})
        return open_queue(
            "small", storage_url, owner="me", sampler=sampler, version=version,
            references=references,
        )  # fmt: skip

    return make


def run(queue: TrialQueue, total: int, *, fails: bool) -> list[float]:
    """Run trials until none is left; the parameters that they had."""
    seen = []
    while (trial := queue.claim(total)) is not None:
        seen.append(trial.suggest_float("lr", 0.0, 1.0))
        queue.end(trial, Ending.failed(ValueError("no")) if fails else Ending.complete(0.5, 1))
    return seen


def test_failed_trials_are_tried_again_with_their_parameters(opened: OpenQueue) -> None:
    first = run(opened("a", REFERENCES), 3, fails=True)
    queue = opened("b", REFERENCES)
    assert queue.count() == {"FAIL": 3}
    assert queue.retry_mended() == 3
    assert queue.count_ended() == 0
    again = run(queue, 4, fails=False)
    assert again[:3] == first
    assert queue.count_ended() == 4
    assert queue.claim(4) is None
    stored = queue.study.get_trials(deepcopy=False)
    assert [trial.number for trial in stored] == list(range(7))
    assert [trial.user_attrs.get("retries") for trial in stored] == [None] * 3 + [0, 1, 2, None]
    assert [trial.user_attrs.get("reference") for trial in stored[:4]] == [
        "reported", None, None, "reported",
    ]  # fmt: skip
    assert opened("c").retry_mended() == 0


def test_what_fails_again_waits_for_the_next_mending(opened: OpenQueue) -> None:
    run(opened("a"), 2, fails=True)
    assert opened("a").retry_mended() == 0, "the same error would come again"
    queue = opened("b")
    assert queue.retry_mended() == 2
    assert queue.retry_mended() == 0
    run(queue, 2, fails=True)
    assert queue.count()["FAIL"] == 2
    assert opened("b").retry_mended() == 0
    last = opened("c")
    assert last.retry_mended() == 2
    assert len(run(last, 2, fails=False)) == 2
    assert (last.count()["FAIL"], last.count()["COMPLETE"]) == (0, 2)
    assert len(last.study.get_trials(deepcopy=False)) == 6


def test_trials_of_older_versions_and_other_ends_stay_as_they_are(opened: OpenQueue) -> None:
    run(opened(""), 1, fails=True)
    queue = opened("a")
    trial = queue.claim(2)
    assert trial is not None
    queue.end(trial, Ending.interrupted(1.0, 0))
    assert opened("b").retry_mended() == 0
    assert opened("b").count() == {"FAIL": 2}


def test_a_trial_that_killed_its_workers_is_tried_again(
    opened: OpenQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "MAX_ATTEMPTS", 1)
    queue = opened("a")
    assert queue.claim(1) is not None
    assert queue.reclaim_from("me") == [0]
    assert queue.count() == {"FAIL": 1}
    assert opened("b").retry_mended() == 1
    assert len(run(opened("b"), 1, fails=False)) == 1


def test_a_retry_takes_no_point_of_a_grid(opened: OpenQueue) -> None:
    first, second = opened("a"), opened("b")
    for queue in (first, second):
        queue.study.sampler = make_sampler("grid", seed=0, space={"n": IntDistribution(0, 3)})
    trial = first.claim(4)
    assert trial is not None
    trial.suggest_int("n", 0, 3)
    first.end(trial, Ending.failed(ValueError("no")))
    second.retry_mended()
    values = []
    while (trial := second.claim(total := count_of_grid(second))) is not None:
        values.append(trial.suggest_int("n", 0, 3))
        second.end(trial, Ending.complete(0.5, 1))
    assert sorted(values) == [0, 1, 2, 3]
    assert total == 4


def count_of_grid(queue: TrialQueue) -> int:
    sampler = queue.study.sampler
    assert isinstance(sampler, StudySampler)
    return count_trials(9, sampler, queue.study, references=0, stopped_by=None)


def test_nothing_is_retried_where_nothing_failed(opened: OpenQueue) -> None:
    run(opened("a"), 2, fails=False)
    assert opened("b").retry_mended() == 0
