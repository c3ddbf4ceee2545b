"""How time on a GPU is taken: after a warm-up, with an empty queue, the median of rounds.

seconds = seconds_each(lambda: step(batch), settings, calls=50)
for row in contain("cae n 9", rows_of_cae()): ...      # a failure costs its own rows only
"""

from __future__ import annotations

import gc
import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from models.base import build
from models.data.images import ImageSplits
from models.data.loading import load_images
from models.errors import first_line
from tests.gpu.part import Row, Settings

__all__ = ["build", "contain", "load_set", "seconds_each", "tensor_cores", "wait"]

ROUNDS = 3


def wait(settings: Settings) -> None:
    """Wait until the GPU has done what it was told."""
    if settings.on_gpu:
        torch.cuda.synchronize(settings.device)


def seconds_each(
    call: Callable[[], object],
    settings: Settings,
    *,
    calls: int,
    warm: int = 8,
    rounds: int = ROUNDS,
    most: float = 1.0,
) -> float:
    """Return the seconds of one call: the median of ``rounds``, each of ``calls`` in a row.

    most: seconds of all rounds; of slow calls there are fewer
    """
    for _ in range(1 if settings.tiny else warm):
        call()
    wait(settings)
    began = time.perf_counter()
    call()
    wait(settings)
    once = time.perf_counter() - began
    if settings.tiny:
        return once
    calls = max(1, min(calls, round(most / rounds / once)))
    found = []
    for _ in range(rounds):
        wait(settings)
        began = time.perf_counter()
        for _ in range(calls):
            call()
        wait(settings)
        found.append((time.perf_counter() - began) / calls)
    return statistics.median(found)


@contextmanager
def tensor_cores(allowed: bool) -> Iterator[None]:
    """Let products and convolutions of float32 round to TF32 inside the block, or forbid it."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def contain(what: str, rows: Iterator[Row]) -> Iterator[Row]:
    """Yield ``rows``. Where they fail say so in a row, and free what they held on the GPU."""
    try:
        yield from rows
    except Exception as error:
        traceback.print_exc()
        yield Row(name=what, found=f"{type(error).__name__}: {first_line(error)}", ok=False)
    free_memory()


def free_memory() -> None:
    """Give the GPU back what nothing refers to any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def load_set(name: str, settings: Settings, shape: tuple[int, int, int] | None) -> ImageSplits:
    """Return a set of torchvision's or a folder, on the device."""
    cache = settings.work.parent / "cache"  # of all parts that run alone
    found = load_images(name, root=settings.data, cache=cache, shape=shape)
    return found.to(settings.device)
