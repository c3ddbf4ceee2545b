"""How many trials share a GPU: as many as fit into its memory and make it faster.

A GPU gets more workers as long as that raises its epochs per second: each time half as many as it
has, so that a few steps lead from one to many. This is measured on trials before and after: if
twice the workers make each trial take twice as long, nothing is gained. A trial is compared with
itself if it lives long enough, because another trial may have a larger network. If trials end
sooner than a process starts, several earlier trials are compared with several later ones.

    packing = GpuPacking(devices, most=count_cores())
    packing.handle_event(index, device, event)     # of any worker
    packing.devices_to_fill()                      # the GPU of each worker that should be added

A CPU needs no packing: there a worker has a core of its own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median

from search.events import Ended, EpochEnded, Event, Gone, Idle, Paused, Released, Started

EPOCHS = 3  # of a trial, before and after, that make a measurement
TRIALS = 4  # that are compared with as many others, where none was there before and after
LATEST = 8 * TRIALS  # trials whose times are kept
GAIN = 1.1  # the added workers have to raise a GPU's epochs per second by a tenth
SPARE = 1.5  # times the memory of the largest trial so far must be free for another
CONTEXT = 768 * 2**20  # bytes that a process takes on a GPU before it has done anything

Times = dict[int, list[float]]
"""Trial -> the seconds of its epochs."""


@dataclass
class Sharing:
    """The workers of one GPU and their measured times.

    workers: on it, with those that start; settled: no other is added
    before, after: epochs without and with the workers that were added last
    newest: these workers, until they are judged; training: the trials of those that are at one
    trying: workers that try how many trials to fuse, a load that does not stay
    """

    workers: int = 1
    free: int = 0  # bytes
    largest: int = 0  # bytes, peak of a trial
    before: Times = field(default_factory=lambda: defaultdict(list))
    after: Times = field(default_factory=lambda: defaultdict(list))
    running: set[int] = field(default_factory=set)  # trials
    newest: set[int] = field(default_factory=set)
    training: dict[int, set[int]] = field(default_factory=dict)
    trying: set[int] = field(default_factory=set)
    settled: bool = False

    def begin(self, index: int, trial: int) -> None:
        """Note that a worker is at a trial, if it is one of the newest. It may be at several."""
        if index in self.newest:
            self.training.setdefault(index, set()).add(trial)

    def end(self, index: int, trial: int) -> None:
        """Note that a worker has left a trial. Between two trials it is no load."""
        self.running.discard(trial)
        left = self.training.get(index, set()) - {trial}
        if left:
            self.training[index] = left
        else:
            self.training.pop(index, None)

    def forget(self, index: int) -> None:
        """Note that a worker's process, or its work, has ended."""
        self.training.pop(index, None)
        self.trying.discard(index)

    def note_time(self, event: EpochEnded) -> None:
        """Note the time of an epoch, unless the load beside it changes."""
        if self.trying:
            return
        if not self.training:  # the newest start, or there are none
            _note(self.before, event)
        elif self.training.keys() == self.newest:
            _note(self.after, event)


class GpuPacking:
    """Decides for every GPU of ``devices`` how many workers it gets.

    most: workers in all, since each takes a CPU core
    """

    def __init__(self, devices: Iterable[str], *, most: int) -> None:
        self.most = most
        self.shares: dict[str, Sharing] = {}
        for device in devices:
            if device.startswith("cuda"):
                self.shares.setdefault(device, Sharing(workers=0)).workers += 1

    def handle_event(self, index: int, device: str, event: Event) -> None:
        """Note an event of worker ``index`` on ``device``."""
        share = self.shares.get(device)
        if share is None:
            return
        match event:
            case Started(number=number):
                share.begin(index, number)
            case EpochEnded(steady=False, number=number):
                share.begin(index, number)
                share.trying.add(index)
            case EpochEnded(free_memory=int(free), peak_memory=int(peak)):  # not of a retraining
                share.free, share.largest = free, max(share.largest, peak)
                share.running.add(event.number)
                share.trying.discard(index)
                share.begin(index, event.number)
                share.note_time(event)
            case Ended(number=number) | Released(number=number) | Paused(number=number):
                share.end(index, number)
            case Gone() | Idle():
                share.forget(index)

    def devices_to_fill(self) -> list[str]:
        """Return the GPU of each worker that is to be added.

        A worker counts as added once `note_added` is called.
        """
        chosen: list[str] = []
        for device, share in self.shares.items():
            if share.newest:
                self._judge_newest(share)
            if not share.newest and not share.settled and _medians(share.before):
                chosen += [device] * self._count_more(share, taken=len(chosen))
        return chosen

    def note_added(self, index: int, device: str) -> None:
        """Note that worker ``index`` was started on ``device``."""
        share = self.shares[device]
        share.workers += 1
        share.newest.add(index)

    def note_left(self, index: int, device: str) -> None:
        """Note that worker ``index`` has left, because a trial found too little memory.

        No other worker is added to its GPU.
        """
        share = self.shares[device]
        share.workers -= 1
        share.settled = True
        share.newest.discard(index)
        share.forget(index)

    def _judge_newest(self, share: Sharing) -> None:
        """Decide whether the newest workers pay, once enough epochs beside them were timed."""
        slower = _slowdown(share)
        if slower is None:
            return
        gain = share.workers / (share.workers - len(share.newest)) / slower
        share.settled = share.settled or gain < GAIN
        share.before, share.after = share.after, defaultdict(list)
        share.newest, share.training = set(), {}

    def _count_more(self, share: Sharing, *, taken: int) -> int:
        """Return how many workers a GPU gets; taken: what other GPUs get now."""
        cores = self.most - taken - sum(other.workers for other in self.shares.values())
        room = int(share.free / (SPARE * share.largest + CONTEXT))
        return max(0, min(max(1, share.workers // 2), cores, room))


def _slowdown(share: Sharing) -> float | None:
    """Return how much longer an epoch takes beside the newest workers; None: not known yet."""
    before, after = _medians(share.before), _medians(share.after)
    same = before.keys() & after.keys()
    if same:
        return median(after[number] / before[number] for number in same)
    if before.keys() & share.running:  # soon these can be compared
        return None
    if min(len(before), len(after)) < TRIALS and len(after) < 2 * TRIALS:
        return None
    return median(after.values()) / median(before.values())


def _note(times: Times, event: EpochEnded) -> None:
    """Note the time of an epoch; of trials only the last ones count."""
    times[event.number].append(event.seconds)
    if len(times) > LATEST:
        del times[next(iter(times))]


def _medians(times: Times) -> dict[int, float]:
    """Return the median seconds of an epoch, by trial, where enough epochs were timed."""
    return {
        number: median(seconds[-EPOCHS:])
        for number, seconds in times.items()
        if len(seconds) >= EPOCHS
    }
