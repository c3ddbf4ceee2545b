"""One turn: a database and a layout of machines, faults for some minutes, then peace.

    turn = Turn(folder, database, layout="2x2", seed=0, journal=journal)
    count = turn.run(minutes=2.5)         # as many trials were asked for in the end

The study grows in rounds: each asks for some more trials and ends with a retraining and an export,
so that faults fall on ends, too. A supervisor that is gone is started again.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.torture.databases import Database, Look
from tests.torture.journal import Clock, Harm, Journal
from tests.torture.machines import PATIENCE, Machine, Run, make_host, send
from tests.torture.process_faults import ENDED_BY_US, judge_end, tail
from tests.torture.scene import Fault, Scene
from tests.torture.storm import Storm
from tests.torture.wanted import LAYOUTS, SHARING
from tests.torture.watch import Watch

ROUND = 24  # trials
SHORT_ROUND = 8  # trials where they pause: those that ended in one round are promoted by the next
PAUSE = (0.5, 3.5)  # seconds between two faults
TICK = 0.25  # seconds between two looks at the supervisors
WENT_BACK = 3.0  # seconds before its end in which a supervisor need not see an older state
CALM = 1200.0  # seconds that a study may take to its end
STUDY = "small"


def make_machines(folder: Path, study: Path, url: str, layout: str) -> list[Machine]:
    """Return the machines of a layout; where they are several, each is played."""
    count, workers = LAYOUTS[layout]
    return [
        Machine(
            name=name,
            study=study,
            runs=folder / f"runs-{name}",
            url=url,
            workers_wanted=workers,
            host=make_host(folder / f"host-{name}") if count > 1 else None,
            files=folder / "shared" if layout.endswith(SHARING) else None,
        )
        for name in "abcdef"[:count]
    ]


class Turn:
    """A study under torture, from its first trial to its end in peace."""

    def __init__(
        self,
        folder: Path,
        study: Path,
        database: Database,
        layout: str,
        faults: Sequence[Fault],
        *,
        seed: int,
        journal: Journal,
        grows: int = ROUND,
    ) -> None:
        self.grows = grows  # trials that a round has more than the one before
        machines = make_machines(folder, study, database.url, layout)
        self.scene = Scene(
            folder=folder, machines=machines, database=database, journal=journal, asked=[grows]
        )
        self.watch = watch = Watch(self.scene)
        self.storm = Storm(self.scene, faults, seed=seed, progress=lambda: watch.progress)
        self.journal = journal
        self._clock = Clock()
        self._is_calm = False

    def run(self, minutes: float) -> int:
        """Let faults fall, then bring the study to its end; return how many trials it has."""
        try:
            with self.watch:
                self._storm(time.monotonic() + 60 * minutes)
                self._end_in_peace()
        finally:
            self.scene.over.set()
            for machine in [*self.scene.machines, *self.scene.visitors]:
                machine.kill_all()
        return self.scene.asked[-1]

    def _storm(self, until: float) -> None:
        """Let faults fall from the first epoch on."""
        chance = self.storm.chance
        strikes = 0.0
        while (left := until - time.monotonic()) > 0:
            self._look_after(self._begin_next_round)
            trains = strikes > 0 or (self.watch.last is not None and self.watch.last.epochs > 0)
            if trains and (time.monotonic() >= strikes or self.storm.has_missed):
                self.storm.strike()
                strikes = time.monotonic() + chance.uniform(*PAUSE)
            self._show(f"{int(left // 60)}:{int(left % 60):02} left")
            time.sleep(TICK)

    def _end_in_peace(self) -> None:
        """End all faults, bring the study to its end, and call the command once more."""
        began = time.monotonic()
        self.storm.end()
        self._is_calm = True
        self.scene.database.mend()
        for machine in self.scene.machines:
            machine.is_off = False
            send(machine.processes(), signal.SIGCONT)
        over: list[bool] = []
        while not over and time.monotonic() - began < CALM:
            self._look_after(lambda: over.append(True))
            self._show("the study ends in peace")
            time.sleep(TICK)
        if not over:
            self.journal.fail(Harm.HUNG, f"the study has not ended in peace after {CALM:.0f} s")
        for machine in self.scene.machines:
            machine.start(self.scene.asked[-1])
            assert machine.run is not None
            self._wait_for_end(machine, machine.run)

    def _wait_for_end(self, machine: Machine, run: Run) -> None:
        """See that a call with nothing left to do says so."""
        deadline = time.monotonic() + PATIENCE
        while (code := run.process.poll()) is None and time.monotonic() < deadline:
            time.sleep(TICK)
        if code is None:
            words = f"machine {machine.name} does not end, though all is done: {tail(machine)}"
            self.journal.fail(Harm.HUNG, words)
        elif code:
            words = f"machine {machine.name} ended with code {code} in peace: {tail(machine)}"
            self.journal.fail(Harm.UNASKED, words)

    def _look_after(self, finish: Callable[[], None]) -> None:
        """Start what is gone; ``finish`` is called when all machines have ended a round."""
        if self.watch.has_hung:
            self.watch.has_hung = False
            for machine in self.scene.machines:
                machine.kill_all()
        done = [self._is_done(machine) for machine in self.scene.machines]
        if all(done) and not self.scene.is_held_up():
            look = self.scene.database.look()
            if look is not None:
                self._judge_round(look, finish)

    def _is_done(self, machine: Machine) -> bool:
        """Whether a machine has ended this round; it is started where it has not."""
        run, asked = machine.run, self.scene.asked[-1]
        if run is not None and run.process.poll() is None:
            return False
        if run is not None and run.ended is None:
            run.ended = time.monotonic()
            self._judge_end(machine, run)
        if run is not None and run.process.poll() == 0 and run.trials == asked:
            return True
        if not machine.is_off:
            machine.start(asked)
        return False

    def _judge_end(self, machine: Machine, run: Run) -> None:
        code = run.process.poll()
        self.journal.write(f"the supervisor of machine {machine.name} ended with code {code}")
        if code == 0 or (run.is_ended_by_us and code in ENDED_BY_US):
            return
        judge_end(self.scene, machine, code)

    def _judge_round(self, look: Look, finish: Callable[[], None]) -> None:
        """See whether the database has what all supervisors say that it has."""
        asked = self.scene.asked[-1]
        if look.trials == look.ended == asked:
            finish()
            return
        ends = [machine.run.ended or 0.0 for machine in self.scene.machines if machine.run]
        if self.scene.database.went_back < max(ends) - WENT_BACK:
            words = f"all ended with code 0, and {look.ended} of {asked} trials have ended"
            self.journal.fail(Harm.FALSE_END, f"{words} ({look})")
        for machine in self.scene.machines:
            machine.start(asked)

    def _begin_next_round(self) -> None:
        self.scene.asked.append(self.scene.asked[-1] + self.grows)

    def _show(self, words: str) -> None:
        look = self.watch.last
        have = "" if look is None else f"{look.ended} of {self.scene.asked[-1]} trials, "
        harms = self.journal.harms.total()
        line = f"{words}, {self.journal.faults.total()} faults, {have}{harms} failures"
        self.journal.show(line)
        if self._clock.has_struck():
            self.journal.say(line)
