"""Workers are added to a GPU while they pay, on simulated GPUs."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from search.events import Ended, EpochEnded, Gone, Started
from search.supervisor.gpu_packing import CONTEXT, GpuPacking

GIB = 2**30
MOST = 16
# How much longer an epoch takes with so many workers on the GPU.
SHARINGS = {
    "one fills it": lambda count: float(count),
    "two fit": lambda count: max(1.0, count / 2),
    "four fit": lambda count: max(1.0, count / 4),
    "six fit": lambda count: max(1.0, count / 6),
    "twelve fit": lambda count: max(1.0, count / 12),
    "all fit": lambda count: 1.0,
    "each costs the others a little": lambda count: 1 + 0.05 * (count - 1),
    "a square root": math.sqrt,
    "four fit, then switching costs": lambda count: max(1.0, count / 4) * 1.01 ** (count - 1),
}


class Gpu:
    """Trials of ``seconds`` an epoch alone, slowed down by the others as ``slower`` says.

    start: ticks that a new worker takes before its first epoch
    """

    def __init__(
        self,
        packing: GpuPacking,
        slower: Callable[[int], float],
        *,
        memory: int,
        start: int = 0,
    ) -> None:
        self.packing, self.slower, self.memory, self.start = packing, slower, memory, start
        self.training: dict[int, int] = {0: 0}  # worker -> trial
        self.starting: dict[int, int] = {}  # worker -> tick of its first epoch
        self.made = 1

    def run(self, ticks: int, *, trial: int = 20) -> int:
        """Every worker trains an epoch a tick, trials of ``trial`` epochs; workers at the end."""
        epochs: dict[int, int] = {}
        for tick in range(ticks):
            for worker in [each for each, begin in self.starting.items() if begin <= tick]:
                del self.starting[worker]
                self.begin(worker)
            for worker, number in list(self.training.items()):
                self.say(worker, EpochEnded, number)
                epochs[number] = epochs.get(number, 0) + 1
                if epochs[number] == trial:
                    self.say(worker, Ended, number)
                    self.begin(worker)
            for device in self.packing.devices_to_fill():
                index = len(self.training) + len(self.starting)
                self.packing.note_added(index, device)
                self.starting[index] = tick + 1 + self.start
        return len(self.training) + len(self.starting)

    def begin(self, worker: int) -> None:
        self.training[worker] = self.made
        self.made += 1

    def say(self, worker: int, kind: type[EpochEnded] | type[Ended], number: int) -> None:
        count = len(self.training)
        event: EpochEnded | Ended = Ended(number=number, outcome="complete", value=0.0)
        if kind is EpochEnded:
            event = EpochEnded(
                number=number, epoch=1, epochs=9, value=0.0,
                seconds=(1 + number % 5 / 5) * self.slower(count),  # networks of several sizes
                free_memory=self.memory - count * GIB, peak_memory=GIB,
            )  # fmt: skip
        self.packing.handle_event(worker, "cuda:0", event)


def packed(
    slower: Callable[[int], float],
    *,
    memory: int = 100 * GIB,
    most: int = MOST,
    start: int = 0,
    trial: int = 20,
) -> int:
    gpu = Gpu(GpuPacking(["cuda:0"], most=most), slower, memory=memory, start=start)
    return gpu.run(1500, trial=trial)


@pytest.mark.parametrize("start", [0, 60])
@pytest.mark.parametrize("trial", [20, 2000])
@pytest.mark.parametrize("name", SHARINGS)
def test_what_is_chosen_is_within_a_tenth_of_the_best_fixed_number(
    name: str, trial: int, start: int
) -> None:
    """Whether trials live on beside the next workers, or end sooner than a process starts."""
    slower = SHARINGS[name]
    best = max(count / slower(count) for count in range(1, MOST + 1))
    chosen = packed(slower, start=start, trial=trial)
    assert chosen / slower(chosen) >= 0.9 * best


def test_a_gpu_that_one_trial_fills_gets_one_more_that_shows_it() -> None:
    assert packed(SHARINGS["one fills it"]) == 2


def test_few_steps_lead_to_many_workers() -> None:
    gpu = Gpu(GpuPacking(["cuda:0"], most=16), lambda count: 1.0, memory=100 * GIB, start=10)
    assert gpu.run(110, trial=1000) == 16


def test_memory_ends_it_first() -> None:
    assert packed(lambda count: 1.0, memory=4 * GIB + CONTEXT) == 3


def test_no_more_workers_are_added_at_once_than_fit() -> None:
    memory = 8 * GIB + CONTEXT  # at six workers three more would be added, and one fits
    assert packed(lambda count: 1.0, memory=memory) == 7


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


def test_no_worker_is_added_once_one_left_for_want_of_memory() -> None:
    packing = GpuPacking(["cuda:0"], most=MOST)
    gpu = Gpu(packing, SHARINGS["all fit"], memory=100 * GIB)
    gpu.run(10, trial=2000)
    left = max(gpu.training)
    packing.note_left(left, "cuda:0")
    del gpu.training[left]
    before = len(gpu.training) + len(gpu.starting)
    assert 1 < before < MOST
    assert gpu.run(300, trial=2000) == before
    assert packing.shares["cuda:0"].workers == before


def test_epochs_of_a_worker_that_tries_how_many_trials_to_fuse_do_not_count() -> None:
    packing = GpuPacking(["cuda:0"], most=MOST)
    epoch = EpochEnded(
        number=0, epoch=1, epochs=9, value=0.0, seconds=1.0, free_memory=64 * GIB, peak_memory=GIB,
        steady=False,
    )  # fmt: skip
    for _ in range(9):
        packing.handle_event(0, "cuda:0", epoch)
    assert packing.devices_to_fill() == []
    for _ in range(9):
        packing.handle_event(0, "cuda:0", replace(epoch, steady=True))
    assert packing.devices_to_fill() == ["cuda:0"]


def epoch_of(number: int, seconds: float, *, steady: bool = True) -> EpochEnded:
    return EpochEnded(
        number=number, epoch=1, epochs=60, value=0.0, seconds=seconds, free_memory=64 * GIB,
        peak_memory=GIB, steady=steady,
    )  # fmt: skip


def packing_with_one_added() -> GpuPacking:
    """Worker 0 trains trial 0, at a second an epoch; worker 1 was added."""
    packing = GpuPacking(["cuda:0"], most=MOST)
    for _ in range(6):
        packing.handle_event(0, "cuda:0", epoch_of(0, 1.0))
    assert packing.devices_to_fill() == ["cuda:0"]
    packing.note_added(1, "cuda:0")
    return packing


def test_epochs_beside_a_worker_that_tries_how_many_to_fuse_are_neither_before_nor_after() -> None:
    """They were counted as before, so that a worker which gained nothing got another one."""
    packing = packing_with_one_added()
    for _ in range(8):
        packing.handle_event(0, "cuda:0", epoch_of(0, 2.0))
        packing.handle_event(1, "cuda:0", epoch_of(1, 2.0, steady=False))
    for _ in range(6):
        packing.handle_event(1, "cuda:0", epoch_of(1, 2.0))
        packing.handle_event(0, "cuda:0", epoch_of(0, 2.0))
    assert packing.devices_to_fill() == []
    assert packing.shares["cuda:0"].settled


def test_a_worker_that_holds_several_trials_is_a_load_until_the_last_one_ends() -> None:
    packing = packing_with_one_added()
    share = packing.shares["cuda:0"]
    for number in (1, 2):
        packing.handle_event(1, "cuda:0", Started(number=number, parameters={}, epochs=60))
    packing.handle_event(1, "cuda:0", Ended(number=1, outcome="complete", value=0.0))
    packing.handle_event(0, "cuda:0", epoch_of(0, 2.0))
    assert share.before[0] == [1.0] * 6
    assert share.after[0] == [2.0]
    packing.handle_event(1, "cuda:0", Ended(number=2, outcome="complete", value=0.0))
    packing.handle_event(0, "cuda:0", epoch_of(0, 1.0))
    assert share.before[0] == [1.0] * 7


def test_a_worker_whose_process_has_ended_is_no_load() -> None:
    packing = packing_with_one_added()
    packing.handle_event(1, "cuda:0", epoch_of(1, 2.0, steady=False))
    packing.handle_event(1, "cuda:0", Gone(code=-9))
    packing.handle_event(0, "cuda:0", epoch_of(0, 1.0))
    assert packing.shares["cuda:0"].before[0] == [1.0] * 7
