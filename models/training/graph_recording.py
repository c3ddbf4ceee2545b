"""How a step is recorded as a CUDA graph, so that a refusal costs speed and nothing else.

    take_step = lambda: model.train_step(batch)
    run_beside(model.device, take_step)                # as a recording asks of the steps before it
    with noting_waits() as waits:                      # where a step waits for the GPU
        take_step()
    graph = record_graph(model.device, take_step)      # raises `NotRecorded`

A step that waits for the GPU (`.item()`, a mask as an index, numbers of the host) cannot be
recorded: CUDA breaks the recording off, and older versions of PyTorch go on with the stream, the
random numbers and the memory of a recording. So a step is watched once, and one that waits is never
recorded.

A process uses one stream for all of this. PyTorch keeps memory for every stream that ever computed
a matrix product, 32 MiB and more on an H100, and never gives it back.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TypeVar

import torch

from models.errors import first_line

WAITS = "called a synchronizing CUDA operation"  # PyTorch's words
RECORDED_ON = ("cuda",)  # types of devices
PROTOTYPE = "Synchronization debug mode is a prototype"  # PyTorch's words at its first use

Result = TypeVar("Result")
_said: set[tuple[str, str, int]] = set()  # warnings of watched steps: each is shown once
_broken = 0  # recordings that were broken off in this process


class NotRecorded(Exception):
    """A step that cannot become a CUDA graph, with the reason."""


def run_beside(device: torch.device, step: Callable[[], Result]) -> Result:
    """Run a step on the stream of recordings, after all that was asked of the GPU before.

    The present stream goes on after it. The host waits for neither.
    """
    beside, present = recording_stream(device), torch.cuda.current_stream(device)
    beside.wait_stream(present)
    with torch.cuda.stream(beside):
        result = step()
    present.wait_stream(beside)
    return result


def may_record(device: torch.device) -> bool:
    """Return whether steps on ``device`` can become a CUDA graph."""
    return device.type in RECORDED_ON


@contextmanager
def noting_waits() -> Iterator[list[str]]:
    """Add every place where the host waits for the GPU to the list; all else goes on as usual."""
    found: list[str] = []
    before = torch.cuda.get_sync_debug_mode()
    caught: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                yield found
            finally:
                torch.cuda.set_sync_debug_mode(before)
    finally:
        for each in caught:
            said, place = str(each.message), (each.filename, each.lineno)
            if WAITS in said:
                found.append(f"{Path(each.filename).name}:{each.lineno} waits for the GPU")
            elif PROTOTYPE not in said and (said, *place) not in _said:
                _said.add((said, *place))
                warnings.warn_explicit(each.message, each.category, *place)


def record_graph(device: torch.device, step: Callable[[], object]) -> torch.cuda.CUDAGraph:
    """Record a step without running it, and return what replays it.

    Raises `NotRecorded` with the reason.
    """
    graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
    present = torch.cuda.current_stream(device)
    try:
        with torch.cuda.graph(graph, pool=pool, stream=recording_stream(device)):
            step()
    except (RuntimeError, AssertionError) as error:
        _leave_recording(device, present, pool)
        raise NotRecorded(first_line(error)) from error
    return graph


def count_broken() -> int:
    """Return how many recordings were broken off in this process.

    A graph from before the last of them may draw from random numbers that no seed reaches any more.
    """
    return _broken


@cache
def recording_stream(device: torch.device) -> torch.cuda.Stream:
    """Return this process's stream for recordings on ``device``."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _leave_recording(
    device: torch.device, stream: torch.cuda.Stream, pool: tuple[int, int]
) -> None:
    """Go on as before a recording that was broken off; newer versions of PyTorch do so alone."""
    global _broken
    _broken += 1
    torch.cuda.set_stream(stream)
    index = torch.cuda.current_device() if device.index is None else device.index
    numbers = torch.cuda.default_generators[index]
    numbers.graphsafe_set_state(numbers.clone_state())  # a clone is in no recording
    with suppress(RuntimeError):  # where memory is left already
        torch._C._cuda_endAllocateToPool(index, pool)
        torch._C._cuda_releasePool(index, pool)
