"""When a worker hangs: one that has several trials says something of any of them."""

from __future__ import annotations

import pytest

from search.supervisor.running_trials import HANG, RunningTrials

LIMIT = 60.0  # seconds that a trial may take


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found = [1000.0]
    monkeypatch.setattr("search.supervisor.running_trials.time.monotonic", lambda: found[0])
    return found


def test_a_single_trial_is_late_long_after_its_limit(now: list[float]) -> None:
    running = RunningTrials()
    running.begin(7)
    now[0] += LIMIT + HANG
    running.hear()
    assert not running.is_late(LIMIT)
    now[0] += 1
    assert running.is_late(LIMIT), "whatever it says of its epochs"
    running.end(7)
    assert not running.is_late(LIMIT)


def test_of_several_trials_each_may_take_its_time(now: list[float]) -> None:
    running = RunningTrials()
    for number in range(3):
        running.begin(number)
    for _ in range(9):
        now[0] += LIMIT
        running.hear()
        assert not running.is_late(LIMIT)
    now[0] += 3 * LIMIT + HANG + 1
    assert running.is_late(LIMIT), "it says nothing of any"


def test_the_last_of_several_may_have_waited_for_the_others(now: list[float]) -> None:
    running = RunningTrials()
    running.begin(0)
    running.begin(1)
    now[0] += 2 * LIMIT + HANG
    running.end(0)
    now[0] += 1
    assert not running.is_late(LIMIT)
    now[0] += LIMIT + HANG
    assert running.is_late(LIMIT)
    assert running.only() == 1, "the worker is silent over this one alone"


def test_of_several_trials_none_is_known_to_hang(now: list[float]) -> None:
    running = RunningTrials()
    assert running.only() is None
    running.begin(0)
    assert running.only() == 0
    running.begin(1)
    assert running.only() is None
