"""A trial's own seconds: what its worker does for others does not count."""

from __future__ import annotations

import pytest

from search.worker.own_time import OwnTime


class Clock:
    """Stands for the monotonic clock."""

    now = 100.0

    def go_on(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr("search.worker.own_time.time.monotonic", lambda: found.now)
    return found


def test_a_trial_alone_has_all_seconds(clock: Clock) -> None:
    own = OwnTime()
    clock.go_on(2)
    own.wait()
    own.note_step()
    clock.go_on(5)
    assert own.seconds() == 7
    own.end_epoch(5)
    clock.go_on(1)
    assert own.seconds() == 8


def test_others_do_not_count_while_it_waits(clock: Clock) -> None:
    own = OwnTime()
    own.wait()
    clock.go_on(30)
    assert own.seconds() == 0
    own.note_step()
    clock.go_on(4)
    assert own.seconds() == 4
    own.end_epoch(4)
    clock.go_on(1)
    assert own.seconds() == 5


def test_of_an_epoch_with_others_it_has_its_share(clock: Clock) -> None:
    own = OwnTime()
    own.sharing = 4
    own.wait()
    clock.go_on(3)
    own.note_step()
    clock.go_on(8)
    own.note_step()  # the second step
    assert own.seconds() == 2
    clock.go_on(8)
    own.end_epoch(4)
    assert own.seconds() == 4


def test_an_epoch_together_that_fails_begins_again_alone(clock: Clock) -> None:
    own = OwnTime()
    own.sharing = 4
    own.wait()
    own.note_step()
    clock.go_on(1)
    own.wait()  # for an epoch of its own
    own.sharing = 1
    clock.go_on(100)  # the others have theirs
    own.note_step()
    clock.go_on(5)
    assert own.seconds() == 5
    own.end_epoch(5)
    assert own.seconds() == 5
