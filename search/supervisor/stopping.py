"""Ctrl-C, or a signal of a scheduler: a run ends cleanly, and the next one goes on.

with stop_on_signals(stop, pool.kill):    # the first sets ``stop``; the second ends at once
    ...
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType


class Stopped(Exception):
    """Ctrl-C or SIGTERM: end cleanly, the next run goes on."""


@contextmanager
def stop_on_signals(
    stop: threading.Event,
    kill: Callable[[], None],
    signals: Sequence[int] = (signal.SIGINT, signal.SIGTERM),
) -> Iterator[list[int]]:
    """The first Ctrl-C or SIGTERM sets ``stop``, for a clean end; the second ends at once.

    signals: that do so; a scheduler says SIGUSR2 more than once, and never means at once by it
    Yields those that came.
    """
    heard: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set() and number != signal.SIGUSR2:
            kill()
            raise KeyboardInterrupt
        heard.append(number)
        stop.set()

    before = {number: signal.signal(number, handle) for number in signals}
    try:
        yield heard
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
