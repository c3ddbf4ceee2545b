"""Workers are added to a GPU while they pay, on simulated GPUs."""

import math
from collections.abc import Callable

import pytest

from search.messages import Ended, EpochEnded
from search.supervisor.gpu_packing import CONTEXT, GAIN, GpuPacking

GIB = 2**30


class Gpu:
    """Trials of ``seconds`` an epoch alone, slowed down by the others as ``slower`` says."""

    def __init__(self, packing: GpuPacking, slower: Callable[[int], float], *, memory: int) -> None:
        self.packing, self.slower, self.memory = packing, slower, memory
        self.training: dict[int, int] = {0: 0}  # worker -> trial
        self.made = 1

    def run(self, ticks: int, *, trial: int = 20) -> int:
        """Every worker trains an epoch a tick, trials of ``trial`` epochs; workers at the end."""
        epochs: dict[int, int] = {}
        for _ in range(ticks):
            for worker, number in list(self.training.items()):
                self.say(worker, EpochEnded, number)
                epochs[number] = epochs.get(number, 0) + 1
                if epochs[number] == trial:
                    self.say(worker, Ended, number)
                    self.training[worker] = self.made
                    self.made += 1
            for device in self.packing.devices_to_fill():
                index = len(self.training)
                self.packing.note_added(index, device)
                self.training[index] = self.made
                self.made += 1
        return len(self.training)

    def say(self, worker: int, kind: type[EpochEnded] | type[Ended], number: int) -> None:
        count = len(self.training)
        event: EpochEnded | Ended = Ended(number=number, outcome="complete", value=0.0)
        if kind is EpochEnded:
            event = EpochEnded(
                number=number, epoch=1, epochs=9, value=0.0,
                seconds=(1 + number % 5) * self.slower(count),  # networks of several sizes
                free_memory=self.memory - count * GIB, peak_memory=GIB,
            )  # fmt: skip
        self.packing.handle_event(worker, "cuda:0", event)


def packed(slower: Callable[[int], float], *, memory: int = 100 * GIB, most: int = 16) -> int:
    return Gpu(GpuPacking(["cuda:0"], most=most), slower, memory=memory).run(400)


def test_a_gpu_that_one_trial_fills_gets_one_more_that_shows_it():
    assert packed(lambda count: count) == 2


def test_workers_are_added_while_they_cost_each_other_nothing():
    assert packed(lambda count: 1.0, most=8) == 8


@pytest.mark.parametrize("fits", [2, 4, 6])
def test_a_gpu_that_fits_a_few_trials_gets_one_more_than_those(fits):
    assert packed(lambda count: max(1.0, count / fits)) == fits + 1


def test_the_last_worker_raised_the_throughput_or_was_the_first_that_did_not():
    def slower(count: int) -> float:
        return math.sqrt(count)

    count = packed(slower)
    paid = [k for k in range(2, 17) if (k / slower(k)) / ((k - 1) / slower(k - 1)) >= GAIN]
    assert count == max(paid) + 1


def test_memory_ends_it_first():
    assert packed(lambda count: 1.0, memory=4 * GIB + CONTEXT) == 3


def test_short_trials_are_still_packed():
    packing = GpuPacking(["cuda:0"], most=6)
    assert Gpu(packing, lambda count: 1.0, memory=100 * GIB).run(400, trial=4) == 6


def test_gpus_are_judged_apart_and_cores_bound_them_together():
    packing = GpuPacking(["cuda:0", "cuda:1"], most=2)
    assert Gpu(packing, lambda count: 1.0, memory=100 * GIB).run(50) == 1


def test_a_cpu_is_never_packed():
    packing = GpuPacking(["cpu", "cpu"], most=16)
    epoch = EpochEnded(number=0, epoch=1, epochs=9, value=0.0, seconds=1.0)
    packing.handle_event(0, "cpu", epoch)
    assert packing.devices_to_fill() == []
