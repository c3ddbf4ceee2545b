"""Faults that fall by chance, several at a time.

storm = Storm(scene, faults, seed=0)
storm.strike()            # now and then: one more
storm.end()               # no fault is under way any more
"""

from __future__ import annotations

import random
import threading
import time
import traceback
from collections.abc import Callable, Sequence

from tests.torture.journal import Harm
from tests.torture.machines import Machine
from tests.torture.scene import Aim, Blow, Fault, HoldUp, Scene

MOST = 8  # faults at once
HASTE = 0.15  # how often a heavy fault falls though nothing has got on since the last
PATIENCE = 240.0  # seconds that the last faults may take to end


class Storm:
    """The faults of one turn.

    progress: a number that grows whenever the study gets on
    """

    def __init__(
        self,
        scene: Scene,
        faults: Sequence[Fault],
        *,
        seed: int,
        progress: Callable[[], int] = lambda: 0,
    ) -> None:
        self.scene = scene
        self.faults = [fault for fault in faults if fault.weight > 0]
        self.progress = progress
        self.chance = random.Random(seed)
        self._lost: list[int] = []  # the progress when the last two heavy faults fell
        self._database = threading.Lock()
        self._files = threading.Lock()
        self._running: dict[threading.Thread, Fault] = {}
        self.has_missed = False  # the last one hit nothing: another may fall at once

    def strike(self) -> None:
        """Let one fault fall, unless too many are under way."""
        self._forget_ended()
        self.has_missed = False
        if len(self._running) >= MOST:
            return
        for _ in range(20):
            fault, machine = self.draw()
            if fault.is_heavy and self.is_worn_out():
                continue
            held = self._take(fault.aim, machine)
            if held is not None:
                blow = Blow(chance=random.Random(self.chance.random()), machine=machine)
                thread = threading.Thread(target=self._fall, args=(fault, blow, held), daemon=True)
                self._running[thread] = fault
                thread.start()
                if fault.is_heavy:
                    self._lost = [*self._lost, self.progress()][-2:]
                return

    def is_worn_out(self) -> bool:
        """Whether the study has not got on since it was last struck hard: a slow machine would
        else do nothing but start anew.

        Sometimes it is struck once more. After that it is left alone until it gets on: of trials
        that nobody runs, only a supervisor that lives for more than a minute can be sure.
        """
        since = self._lost.count(self.progress())
        return since > 1 or (since == 1 and self.chance.random() > HASTE)

    def draw(self) -> tuple[Fault, Machine]:
        weights = [fault.weight for fault in self.faults]
        (fault,) = self.chance.choices(self.faults, weights)
        return fault, self.chance.choice(self.scene.machines)

    def end(self) -> None:
        """Wait until all faults are over."""
        self.scene.over.set()
        for thread, fault in [*self._running.items()]:
            thread.join(PATIENCE)
            if thread.is_alive():
                self.scene.journal.fail(Harm.TORTURE, f"{fault.name} does not end")

    def _fall(self, fault: Fault, blow: Blow, held: Sequence[threading.Lock]) -> None:
        journal, hold_up = self.scene.journal, HoldUp()
        if fault.halts:
            self.scene.held_up.append(hold_up)
        try:
            if hit := fault.strike(self.scene, blow):
                journal.note_fault(fault.name, hit)
            else:
                self.has_missed = True
        except Exception as error:
            journal.fail(Harm.TORTURE, f"{fault.name}: {error!r}")
            journal.write(traceback.format_exc())
        finally:
            hold_up.ended = time.monotonic()
            for lock in held:
                lock.release()

    def _take(self, aim: Aim, machine: Machine) -> list[threading.Lock] | None:
        """Take what a fault has for itself alone; None where another has it."""
        everywhere = [each.in_use for each in self.scene.machines]
        wanted = {
            Aim.NOTHING: [],
            Aim.MACHINE: [machine.in_use],
            Aim.DATABASE: [self._database],
            Aim.FILES: [self._files],
            Aim.MACHINES: everywhere,
            Aim.EVERYTHING: [*everywhere, self._database],
        }[aim]
        held: list[threading.Lock] = []
        for lock in wanted:
            if not lock.acquire(blocking=False):
                for taken in held:
                    taken.release()
                return None
            held.append(lock)
        return held

    def _forget_ended(self) -> None:
        for thread in [each for each in self._running if not each.is_alive()]:
            del self._running[thread]
