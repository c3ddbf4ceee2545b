"""How many trials a worker holds and trains together, decided from measurements on simulated
devices."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import pytest

from search.worker.fusing_choice import FIRST, MOST, FusingChoice, most_trials

ALONE = 0.1  # seconds of an epoch


def h100(count: int) -> float:
    """Seconds of an epoch of ``count`` trials together, as measured for n 9, Z 27 on an H200."""
    gains = {1: 0.89, 2: 1.29, 4: 1.98, 8: 2.59, 16: 3.01}
    return count * ALONE / gains[max(known for known in gains if known <= count)]


def no_gain(count: int) -> float:
    return 1.2 * count * ALONE


def full_at_four(count: int) -> float:
    """Four trials fill the device."""
    return ALONE if count <= 4 else ALONE * count / 4


def play(
    choice: FusingChoice,
    together: Callable[[int], float],
    *,
    rounds: int,
    key_of: Callable[[int], Hashable | None] = lambda number: "same",
    epochs: int = 10,
) -> list[list[int]]:
    """Train on a simulated device; return the groups of the last round."""
    ages: dict[int, int] = {}
    begun = 0
    groups: list[list[int]] = []
    for _ in range(rounds):
        while len(ages) < choice.most:
            ages[begun], begun = 0, begun + 1
        groups = choice.group({number: key_of(number) for number in ages})
        assert sorted(number for group in groups for number in group) == sorted(ages), (
            "each trial has one epoch"
        )
        for group in groups:
            key = key_of(group[0])
            assert len({key_of(number) for number in group}) == 1
            if len(group) == 1:
                choice.note_alone(group[0], key, ALONE)
            else:
                choice.note_together(key, len(group), together(len(group)))
        choice.end_round(len(ages))
        ages = {number: age + 1 for number, age in ages.items() if age + 1 < epochs}
    return groups


def auto() -> FusingChoice:
    return FusingChoice(asked=None, on_gpu=True)


def test_on_a_cpu_auto_never_fuses() -> None:
    assert most_trials(None, on_gpu=False) == 1
    choice = FusingChoice(asked=None, on_gpu=False)
    assert choice.is_settled
    assert play(choice, h100, rounds=3) == [[0]]


def test_who_asks_for_a_number_gets_it_at_once_and_anywhere() -> None:
    choice = FusingChoice(asked=3, on_gpu=False)
    assert choice.most == 3
    assert play(choice, no_gain, rounds=20) == [[3, 4, 5]]


def test_a_gpu_that_gains_gets_more_trials_up_to_sixteen() -> None:
    choice = auto()
    assert choice.most == FIRST
    groups = play(choice, h100, rounds=60)
    assert choice.most == MOST
    assert choice.is_settled
    assert [len(group) for group in groups] == [MOST]


def test_where_it_does_not_pay_it_is_not_chosen() -> None:
    choice = auto()
    groups = play(choice, no_gain, rounds=60)
    assert choice.most == 1
    assert choice.is_settled
    assert [len(group) for group in groups] == [1]


def test_no_more_trials_are_held_than_raise_the_pace() -> None:
    choice = auto()
    play(choice, full_at_four, rounds=60)
    assert choice.most == 4
    assert choice.is_settled


@pytest.mark.parametrize("key_of", [lambda number: number, lambda number: None])
def test_trials_that_never_agree_are_soon_held_one_by_one(
    key_of: Callable[[int], Hashable | None],
) -> None:
    choice = auto()
    play(choice, h100, rounds=20, key_of=key_of)
    assert choice.most == 1


def test_a_group_that_is_slower_together_is_trained_alone_beside_one_that_is_not() -> None:
    choice = FusingChoice(asked=None, on_gpu=True)

    def time(group: list[int]) -> float:
        return 9.0 if group[0] % 2 else h100(len(group))

    for _ in range(12):
        keys = {number: number % 2 for number in range(4)}
        groups = choice.group(keys)
        for group in groups:
            if len(group) == 1:
                choice.note_alone(group[0], keys[group[0]], ALONE)
            else:
                choice.note_together(keys[group[0]], len(group), time(group))
    assert groups == [[0, 2], [1], [3]]


def test_a_key_that_has_failed_together_is_trained_alone() -> None:
    choice = FusingChoice(asked=4, on_gpu=True)
    keys = {0: "a", 1: "b", 2: "a", 3: "b"}
    assert choice.group(keys) == [[0, 2], [1, 3]]
    choice.refuse("a")
    assert choice.group(keys) == [[0], [1, 3], [2]]
