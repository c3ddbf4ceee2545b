"""How many trials share a GPU: as many as its memory holds and as pay.

A worker is added to a GPU while that makes the GPU do more. Whether it did is measured on the
trials that ran before and after: k workers that each slow down by less than (k + 1) / k have
gained from one more. The same trial is compared with itself, since another one may have a
larger network.

    packing = GpuPacking(devices, most=count_cores())
    packing.handle_event(index, device, event)     # what workers say
    packing.devices_to_fill()                      # GPUs that should get another worker now

A CPU needs none of this: there a worker has a core of its own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median

from search.messages import Ended, EpochEnded, Event, Released

EPOCHS = 3  # of a trial, before and after, that make a measurement
GAIN = 1.1  # one more worker has to raise a GPU's epochs per second by a tenth
SPARE = 1.5  # times the memory of the largest trial so far must be free for another
CONTEXT = 768 * 2**20  # bytes that a process takes on a GPU before it has done anything


@dataclass
class Sharing:
    """The workers of one GPU and their measured times.

    workers: on it, with those that start; settled: no other is added
    """

    workers: int = 1
    free: int = 0  # bytes
    largest: int = 0  # bytes, peak of a trial
    seconds: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    before: dict[int, float] = field(default_factory=dict)  # median epoch of the trials then
    newest: int | None = None  # the worker that was added last, until it is judged
    newest_trains: bool = False
    settled: bool = False


class GpuPacking:
    """Decides for every GPU of ``devices``; most: workers in all, since each takes a CPU core."""

    def __init__(self, devices: Iterable[str], *, most: int) -> None:
        self.most = most
        self.shares: dict[str, Sharing] = {}
        for device in devices:
            if device.startswith("cuda"):
                self.shares.setdefault(device, Sharing(workers=0)).workers += 1

    def handle_event(self, index: int, device: str, event: Event) -> None:
        """Take in an event of worker ``index`` on ``device``."""
        share = self.shares.get(device)
        if share is None:
            return
        match event:
            case EpochEnded(free_memory=int(free), peak_memory=int(peak)):  # not of a retraining
                share.free, share.largest = free, max(share.largest, peak)
                if share.newest == index:
                    share.newest_trains = True
                elif share.newest is None or share.newest_trains:
                    share.seconds[event.number].append(event.seconds)
            case Ended() | Released():
                share.seconds.pop(event.number, None)
                share.before.pop(event.number, None)
                if share.newest == index:
                    share.newest_trains = False  # between two trials it is no load

    def devices_to_fill(self) -> list[str]:
        """Return the GPUs to put another worker on; each is counted as put there."""
        chosen = []
        for device, share in self.shares.items():
            if share.newest is not None:
                self._decide_on_newest(share)
            if share.newest is None and not share.settled and self._has_room(share):
                measured = _median_seconds(share)
                if measured:  # this is what one more must not spoil
                    share.before = measured
                    share.seconds.clear()
                    chosen.append(device)
        return chosen

    def note_added(self, index: int, device: str) -> None:
        """Take in that worker ``index`` was started on ``device``."""
        share = self.shares[device]
        share.workers += 1
        share.newest, share.newest_trains = index, False

    def _decide_on_newest(self, share: Sharing) -> None:
        """Decide whether the newest worker pays, once earlier trials were timed beside it."""
        after = {n: s for n, s in _median_seconds(share).items() if n in share.before}
        if not share.newest_trains or (share.before and not after):
            return
        share.newest = None
        if not after:  # all trials of before have ended: to be measured anew
            return
        slower = median(after[number] / share.before[number] for number in after)
        gain = share.workers / (share.workers - 1) / slower
        share.settled = gain < GAIN

    def _has_room(self, share: Sharing) -> bool:
        if sum(other.workers for other in self.shares.values()) >= self.most:
            return False
        return share.free >= SPARE * share.largest + CONTEXT


def _median_seconds(share: Sharing) -> dict[int, float]:
    """Return the median seconds of an epoch, by trial, where enough epochs were timed."""
    return {
        number: median(seconds[-EPOCHS:])
        for number, seconds in share.seconds.items()
        if len(seconds) >= EPOCHS
    }
