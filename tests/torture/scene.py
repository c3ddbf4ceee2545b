"""What faults fall on, and what a fault is.

    def kill_worker(scene: Scene, blow: Blow) -> str: ...       # returns what it hit; "": nothing
    Fault(name="worker killed", strike=kill_worker, weight=20)

Faults run in threads of their own, several at a time. What a fault aims at belongs to it alone
meanwhile, so that nobody starts a server that another fault has stopped.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path

from tests.torture.databases import Database
from tests.torture.journal import Journal
from tests.torture.machines import Machine


class Aim(Enum):
    """What a fault has for itself alone."""

    NOTHING = auto()  # some worker or file of a machine
    MACHINE = auto()  # one machine
    DATABASE = auto()
    FILES = auto()  # what machines share
    MACHINES = auto()  # all of them
    EVERYTHING = auto()  # all machines and the database


@dataclass
class HoldUp:
    """Some time in which nothing gets on, on the monotonic clock."""

    ended: float = float("inf")


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A study under torture.

    folder: of this turn: logs, RUNS, copies of the database
    asked: TRIALS of this round, as a list of one number that grows
    over: set when the faults have to end
    held_up: the faults with which nothing gets on
    """

    folder: Path
    machines: list[Machine]
    database: Database
    journal: Journal
    asked: list[int]
    visitors: list[Machine] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)
    held_up: list[HoldUp] = field(default_factory=list)

    def is_held_up(self, within: float = 0.0) -> bool:
        """Whether nothing can get on now, or could so at some time in the last seconds."""
        return any(each.ended >= time.monotonic() - within for each in self.held_up)

    def rest(self, seconds: float) -> None:
        """Wait, unless the faults have to end."""
        self.over.wait(seconds)


@dataclass(frozen=True, kw_only=True)
class Blow:
    """One fall of a fault: its chance, and the machine that it may hit."""

    chance: random.Random
    machine: Machine


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A kind of fault.

    weight: how often it is drawn, beside the others
    halts: nothing gets on while it lasts, so nothing hangs either
    is_heavy: work is lost by it, or stands still: the study gets on before the next such fault
    """

    name: str
    strike: Callable[[Scene, Blow], str]
    weight: float
    aim: Aim = Aim.NOTHING
    halts: bool = False
    is_heavy: bool = False


def wait_until(true: Callable[[], bool], seconds: float) -> bool:
    """Return whether ``true`` was in time."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
