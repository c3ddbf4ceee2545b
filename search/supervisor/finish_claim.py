"""The claim on the finishing of a study: one run at a time, and one folder RUNS for good.

    claim = FinishClaim(supervisor)
    with claim.hold(top) as elsewhere:     # waits while another run holds it
        if elsewhere is None: ...          # ours: `claim.check()` at every tick
        claim.result = {...}               # at the end: what other machines show
    elsewhere.describe()                   # retrained and exported in another folder RUNS

Machines that share a trial database each have a folder RUNS. One of them retrains the best and
measures the winner on the test images. The others wait for it, then say where the exports are. If
that machine goes down, the next one takes its place: it sees that the claim is not renewed any
more. FINISH=here makes exports in this RUNS, too; the values on the test images then come from the
database. With FILES all machines retrain and export (`search.supervisor.shared_jobs`), and the one
that claims the finish writes down the result.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from filelock import FileLock, Timeout

from search.run import StudyRun, place_of
from search.supervisor.loop import TICK, Supervisor
from search.trials.abandoned import SECOND_LOOK
from search.trials.owner import forget_mark, hold_mark, is_gone, owner_name
from search.trials.queue import TrialQueue
from search.words import show_text
from storage.database.finishes import (
    Finish,
    FinishLost,
    claim_finish,
    end_finish,
    read_finish,
    renew_finish,
)
from storage.database.leases import GRACE, RENEWAL
from storage.database.retry import DatabaseLost
from storage.files.identity import make_identity, read_identity


@dataclass(frozen=True, kw_only=True)
class FinishedElsewhere:
    """A study whose best is retrained and exported in another folder RUNS."""

    place: str
    result: Mapping[str, Any]

    def describe(self, metric: str) -> str:
        """Return where the exports are, and what the best of them scored."""
        end = "FINISH=here does so in this RUNS, too"
        place, goals = show_text(self.place), self.result.get("goals")
        if isinstance(goals, str):
            first = f"the first with {show_text(goals)}"
            return f"the front is retrained and exported in {place}, {first}; {end}"
        parts = [f"the best is retrained and exported in {place}"]
        for name in ("trial", "validation", "test"):
            value = self.result.get(name)
            if isinstance(value, int | float):
                of = "" if name == "trial" else f" {metric}"
                parts.append(f"{name}{of} {value:.6g}")
        return f"{', '.join(parts)}; {end}"


def find_elsewhere(
    run: StudyRun, queue: TrialQueue, *, ended: int, top: int
) -> FinishedElsewhere | None:
    """Return where the study is finished, if that is another RUNS and nothing has changed since.

    ended: how many trials have ended; top: how many exports are wanted
    """
    found = queue.retry.wait_for(lambda: read_finish(queue.engine, run.token))
    if found is None or found.owner is not None:
        return None
    return _is_elsewhere(found, run, queue, ended=ended, top=top)


def _identity_of(run: StudyRun, found: Finish) -> str:
    """Return the word of this folder RUNS; if it has lost its word, the word that the database
    knows.

    If two machines agree in name and path, both export. No value is measured twice.
    """
    here = read_identity(run.paths.finishing_identity(run.study))
    return here or (found.runs if found.place == place_of(run) else "")


def _is_elsewhere(
    found: Finish, run: StudyRun, queue: TrialQueue, *, ended: int, top: int
) -> FinishedElsewhere | None:
    result = found.result
    if run.finishes_here or result is None or found.runs == _identity_of(run, found):
        return None
    wanted = _asked_for(run, queue, ended)
    exported = result.get("top")
    known = {"epochs": run.epochs, **result}  # of older versions, which raised no EPOCHS
    if {name: known.get(name) for name in wanted} != wanted:
        return None  # it has gone on since: the best may be another
    if not isinstance(exported, int) or exported < top:
        return None
    return FinishedElsewhere(place=found.place, result=result)


def _asked_for(run: StudyRun, queue: TrialQueue, ended: int) -> dict[str, Any]:
    """Return the settings on which a finishing depends."""
    choices = None if run.shown is None else queue.read_choices().clicks
    lengths = {
        "epochs": run.epochs,
        "retrain_epochs": run.retrain_epochs,
        "seeds": run.seeds,
    }
    return {"ended": ended, **lengths, "choices": choices}


class FinishClaim:
    """The claim of one supervisor.

    fence: its number, once we have it
    result: of the finishing; None: it has not come to its end
    """

    def __init__(self, supervisor: Supervisor, now: Callable[[], float] = time.monotonic) -> None:
        self.supervisor = supervisor
        self.run, self.queue = supervisor.run, supervisor.queue
        self.owner = owner_name(os.getpid())  # another attempt is another owner
        self.now = now
        self.fence = 0
        self.result: dict[str, Any] | None = None
        self._renewed = 0.0
        self._seen: tuple[int, int] | None = None  # of another's claim
        self._since = 0.0  # when it was seen for the first time

    @contextmanager
    def hold(self, top: int) -> Iterator[FinishedElsewhere | None]:
        """Hold the claim; yields where the study is finished, if this run has not to do it.

        Waits while another run holds it. Raises `FinishLost` if another run takes it meanwhile.
        """
        with self._lock_of_runs():
            try:
                elsewhere = self._take(top)
                yield elsewhere
                if elsewhere is None:
                    self._let_go()
            except FinishLost:
                raise
            except BaseException:
                self._give_up()
                raise
            finally:
                forget_mark(self.owner)

    def check(self) -> None:
        """Renew the claim when it is time. Raises `FinishLost`."""
        if self.now() - self._renewed < RENEWAL:
            return
        self._renewed = self.now()
        engine, token = self.queue.engine, self.run.token
        self.queue.retry.try_once(lambda: renew_finish(engine, token, self.fence))

    def _take(self, top: int) -> FinishedElsewhere | None:
        """Take the claim as soon as it is free, unless the study is finished elsewhere."""
        place, said = place_of(self.run), False
        engine, token, retry = self.queue.engine, self.run.token, self.queue.retry
        while True:
            found = retry.wait_for(lambda: read_finish(engine, token))
            if found is not None and self._is_held(found):
                if not said:
                    said = True
                    where = show_text(found.place)
                    does = "retrains the best" if self.run.files is None else "ends the study"
                    self.supervisor.display.say(f"{where} {does}: waiting for it")
                self.supervisor.handle_events()
                continue
            if found is not None:
                ended = self.queue.count_ended()
                elsewhere = _is_elsewhere(found, self.run, self.queue, ended=ended, top=top)
                if elsewhere is not None:
                    return elsewhere
            before = None if found is None else _identity_of(self.run, found)
            runs = make_identity(self.run.paths.finishing_identity(self.run.study), before)
            seen = 0 if found is None else found.fence
            hold_mark(self.owner)
            claim = partial(claim_finish, engine, token, owner=self.owner, runs=runs, place=place)
            fence = retry.wait_for(partial(claim, seen=seen))
            if fence is not None:
                self.fence, self._renewed = fence, self.now()
                return None

    def _is_held(self, found: Finish) -> bool:
        """Whether another live process holds the claim, as far as its mark or its renewals tell."""
        if found.owner is None or is_gone(found.owner):
            return False
        state = found.fence, found.renewed
        if state != self._seen:
            self._seen, self._since = state, self.now()
        return self.now() - self._since < GRACE + SECOND_LOOK

    def _let_go(self) -> None:
        """Release the claim, with the result if there is one."""
        result = self.result
        if result is not None:
            asked = _asked_for(self.run, self.queue, self.queue.count_ended())
            result = {**asked, **result}
        engine, token = self.queue.engine, self.run.token
        self.queue.retry.wait_for(lambda: end_finish(engine, token, self.fence, result))

    def _give_up(self) -> None:
        """Release the claim without a result, if the database answers; otherwise it expires."""
        if not self.fence:
            return
        engine, token = self.queue.engine, self.run.token
        with suppress(FinishLost, DatabaseLost):
            self.queue.retry.try_once(lambda: end_finish(engine, token, self.fence))

    @contextmanager
    def _lock_of_runs(self) -> Iterator[None]:
        """Hold the lock of this folder RUNS: its runs wait for each other without the database,
        too."""
        lock = FileLock(self.run.paths.finishing_lock(self.run.study))
        while True:
            try:
                lock.acquire(timeout=TICK)
                break
            except Timeout:
                self.supervisor.handle_events()
        try:
            yield
        finally:
            lock.release()
