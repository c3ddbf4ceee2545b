"""Ctrl-C while a command imports: it ends at once, and without a traceback.

    end_silently_on_ctrl_c()      # first of all, before anything large is imported
    heed_ctrl_c()                 # from now on Ctrl-C is a KeyboardInterrupt, as usual in Python
    was_ctrl_c()                  # whether there was one: an error may have taken its place
    leave_when_told()             # in a worker that joins a study: a scheduler may want it to leave

A module in C that is interrupted while it is imported turns the KeyboardInterrupt into an
ImportError of its own, "initialization failed".
A shell that runs a command in the background has it ignore Ctrl-C; that stays so.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import suppress
from types import FrameType

LEAVE = (signal.SIGTERM, signal.SIGUSR2)  # what schedulers say before they end a process
TRY_AGAIN = 75  # exit code of one that has left: EX_TEMPFAIL, in the words of sysexits.h


def end_silently_on_ctrl_c() -> None:
    """Let Ctrl-C end this process, as it ends any program that has no use for it."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def heed_ctrl_c() -> None:
    """Let Ctrl-C be a `KeyboardInterrupt` again."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, _interrupt)


def was_ctrl_c() -> bool:
    """Whether Ctrl-C has interrupted this process."""
    return bool(_interruptions)


def leave_when_told() -> None:
    """Let the signals `LEAVE` end this process with the code `TRY_AGAIN`. It holds nothing yet."""
    for number in LEAVE:
        signal.signal(number, _leave)


def leave_with_input() -> None:
    """Act as on SIGTERM once standard input ends: the process that started this one is gone."""

    def watch() -> None:
        with suppress(OSError, ValueError):
            sys.stdin.buffer.read()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="input", daemon=True).start()


_interruptions: list[int] = []


def _interrupt(number: int, frame: FrameType | None) -> None:
    _interruptions.append(number)
    signal.default_int_handler(number, frame)


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(TRY_AGAIN)
