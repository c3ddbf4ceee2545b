"""Watches a study under torture: does it get on, are there trials too many, or tracebacks?

    watch = Watch(scene)
    with watch: ...                   # in a thread of its own: a frozen database holds it up alone
    watch.has_hung                    # since it was last set to False

Progress is any change of the study in the database, a training that was done again, an export, and
a supervisor that has ended. Noise is none: what is said of a database that is away, say.
"""

from __future__ import annotations

import re
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from tests.torture.databases import Look
from tests.torture.journal import Harm, Journal
from tests.torture.scene import Scene

PAUSE = 1.5  # seconds between two looks
HUNG = 120.0  # seconds without progress that a supervisor lives through, with no fault in its way
TRACEBACK = "Traceback (most recent call last)"
GETS_ON = re.compile(r"^(retrained trial|exported rank) ", re.MULTILINE)
SHOWN = 40  # lines of a traceback


class Logs:
    """All logs below a folder, read once as they grow."""

    def __init__(self, folder: Path, journal: Journal) -> None:
        self.folder = folder
        self.journal = journal
        self.steps = 0  # trainings and exports that they tell of
        self._read: dict[Path, int] = {}  # bytes

    def read(self) -> None:
        """Read what is new, and report tracebacks."""
        for path in sorted(self.folder.rglob("*.log")):
            if path == self.journal.path:
                continue
            start = self._read.get(path, 0)
            with path.open("rb") as file:
                file.seek(start)
                content = file.read()
            whole = content[: content.rfind(b"\n") + 1]
            self._read[path] = start + len(whole)
            self._judge(path, whole.decode(errors="replace"), content.decode(errors="replace"))

    def _judge(self, path: Path, new: str, content: str) -> None:
        self.steps += len(GETS_ON.findall(new))
        place = 0
        while (found := new.find(TRACEBACK, place)) >= 0:
            lines = content[found:].splitlines()[:SHOWN]
            text = "\n    ".join(lines)
            self.journal.fail(Harm.TRACEBACK, f"in {path.relative_to(self.folder)}:\n    {text}")
            place = found + len(TRACEBACK)


class Watch:
    """The watching of one turn."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.logs = Logs(scene.folder, scene.journal)
        self.last: Look | None = None
        self.has_hung = False
        self.stalled = 0.0  # seconds
        self.progress = 0  # how often the study has got on
        self._signature: object = None
        self._got: object = None
        self._most = 0  # trials, of those that were too many
        self._failed = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end.set()
        self._thread.join(30)
        self.logs.read()

    def _watch(self) -> None:
        before = time.monotonic()
        while not self._end.wait(PAUSE):
            look = self.scene.database.look()
            with suppress(FileNotFoundError):
                self.logs.read()
            now = time.monotonic()
            self.judge(look, now - before)
            before = now

    def judge(self, look: Look | None, seconds: float) -> None:
        """Judge what was seen, ``seconds`` after the look before."""
        if look is not None:
            self.last = look
            self._count(look)
        ends = [machine.run and machine.run.ended for machine in self.scene.machines]
        signature = (self.last, self.logs.steps, self.scene.asked[-1], ends)
        if signature != self._signature:
            self._signature, self.stalled = signature, 0.0
        got = self.last and (self.last.trials, self.last.ended, self.last.epochs)
        if (got, self.logs.steps) != self._got:  # the end of a worker or a supervisor is none
            self._got = got, self.logs.steps
            self.progress += 1
        elif not self.scene.is_held_up():
            self.stalled += seconds
        # Who is killed waits for nothing: after a restored state, trials that nobody runs are free
        # once one supervisor has seen for a minute that their leases do not change.
        self.stalled = min(self.stalled, self._longest_life())
        if self.stalled > HUNG:
            self.stalled = 0.0
            self.has_hung = True
            self.scene.journal.fail(Harm.HUNG, self._describe())

    def _longest_life(self) -> float:
        """Return for how many seconds the oldest supervisor has run."""
        runs = [machine.run for machine in self.scene.machines if machine.run is not None]
        now = time.monotonic()
        return max((now - run.began for run in runs if run.ended is None), default=0.0)

    def _count(self, look: Look) -> None:
        journal = self.scene.journal
        if look.trials > max(self.scene.asked[-1], self._most):
            self._most = look.trials
            journal.fail(Harm.TOO_MANY, f"{look.trials} trials of {self.scene.asked[-1]}")
        if look.failed > self._failed:
            journal.fail(Harm.FAILED, f"{look.failed} trials have failed")
        self._failed = look.failed

    def _describe(self) -> str:
        """Return how a study stands that does not get on."""
        lines = [f"no progress for {HUNG:.0f} s; {self.last} of {self.scene.asked[-1]} trials"]
        for machine in [*self.scene.machines, *self.scene.visitors]:
            for process in machine.processes():
                with suppress(psutil.Error, OSError):
                    does = Path(f"/proc/{process.pid}/wchan").read_text()
                    words = " ".join(process.cmdline()[1:4])[:60]
                    age = time.time() - process.create_time()
                    lines.append(
                        f"{machine.name}: {process.pid} {process.status()} in {does}, "
                        f"{age:.0f} s old, {process.cpu_times().user:.0f} s of CPU: {words}"
                    )
        for machine in self.scene.machines:
            if machine.log.exists():
                lines += machine.log.read_text(errors="replace").splitlines()[-8:]
        return "\n    ".join(lines)
