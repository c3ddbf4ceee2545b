"""One call of `make study`, from the loaded study to the exported best.

    settle      variables, data, database -> StudyRun, or one clear line
    search      workers take trials until exactly TRIALS have ended
    finish      the best TOP are retrained, ranked, judged, exported

Whatever is interrupted is taken up by the next call of the same command.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from filelock import FileLock, Timeout
from optuna.trial import TrialState

from search.claims import Claims
from search.errors import SearchError, WorkersFailed
from search.packing import Packing
from search.progress import Display
from search.run import StudyRun
from search.study import Study
from search.supervisor import Crew, Event, Worker
from storage.exports import is_whole, read_provenance, remove_ranks_beyond, sweep
from storage.leases import RENEWAL
from storage.standing import ended

HANG = 30.0  # seconds beyond TRIAL_MINUTES after which a worker cannot be waiting for its epoch
ALIKE = 3  # failures of one kind, one after the other, that end the search
TICK = 0.5  # seconds between two looks at the database
RECORDED = {"trial", "token", "made", "patience", "ended_by", "most_epochs", "epochs", "test"}
LINGER = 15.0  # seconds that a worker may take to notice that no trial is left


class SearchFailed(SearchError):
    """Trials fail one after the other for the same reason; the message names it and the log."""


class Stopped(Exception):
    """Ctrl-C or SIGTERM: end cleanly, the next run goes on."""


class Session:
    """The supervisor's side of a run."""

    def __init__(
        self,
        study: Study,
        run: StudyRun,
        claims: Claims,
        crew: Crew,
        display: Display,
        packing: Packing | None = None,
    ) -> None:
        self.study = study
        self.run = run
        self.claims = claims
        self.crew = crew
        self.display = display
        self.packing = packing  # None: as many workers as were asked for
        self.stop_asked = False
        claims.patience.given_up = lambda: self.stop_asked
        claims.patience.tell = display.say
        self.ready = False  # a worker has come up: later deaths are worth a replacement
        self.failures: list[str] = []  # reasons, one after the other
        self.running: dict[int, tuple[int, float]] = {}  # worker -> trial, since when
        self.hung: dict[int, int] = {}  # worker that was killed for it -> trial

    def search(self, minutes: float | None = None) -> None:
        """Until exactly ``run.trials`` trials have ended, by us or by anybody else.

        minutes: after which trials are given back, to go on in the next run
        """
        total = self.run.trials
        deadline = time.monotonic() + 60 * (minutes or float("inf"))
        looked = 0.0
        over: float | None = None  # since when all trials have ended
        counts = self.claims.count()
        while ended(counts) < total or self.crew.busy():
            if time.monotonic() > deadline:
                self._halt(minutes)
                return
            self._kill_hung()
            if ended(counts) >= total:
                over = over or time.monotonic()
                if time.monotonic() - over > LINGER:
                    self.crew.kill_busy()  # they hang over trials that others have ended
            if counts["WAITING"] or counts.total() < total:
                for worker in self.crew.idle():
                    self.crew.send(worker, {"job": "search"})
            elif self.crew.idle() and time.monotonic() - looked >= RENEWAL:
                looked = time.monotonic()
                self.claims.take_back_abandoned()  # of other machines
            self._listen()
            self._pack()
            counts = self.claims.count()
            self.display.counts(counts)

    def _halt(self, minutes: float | None) -> None:
        self.crew.halt()
        asked = time.monotonic()
        while self.crew.busy():
            self._listen()
            if time.monotonic() - asked > LINGER:
                self.crew.kill_busy()
        self.display.counts(self.claims.count())
        self.display.say(f"MINUTES={minutes:g} are over; the same command goes on from here")

    def _kill_hung(self) -> None:
        """A worker that does not end its trial by itself, long after TRIAL_MINUTES, is killed."""
        if self.run.trial_minutes is None:
            return
        for index, (number, since) in self.running.items():
            worker = self.crew.workers[index]
            late = time.monotonic() - since > 60 * self.run.trial_minutes + HANG
            if late and index not in self.hung and worker.state == "busy":
                self.hung[index] = number
                worker.process.kill()

    def _note(self, worker: Worker, event: Event) -> None:
        """What an event says of the trials that run and how they end."""
        if event["event"] == "started":
            self.running[worker.index] = event["number"], time.monotonic()
        elif event["event"] in ("ended", "released", "idle"):
            self.running.pop(worker.index, None)
        if event["event"] == "ended":
            self._count_failures(worker, event)

    def _count_failures(self, worker: Worker, event: Event) -> None:
        """End the search when trial after trial fails alike: the next would too."""
        if event["outcome"] != "failed":
            self.failures.clear()
            return
        kind = str(event["reason"]).splitlines()[0]
        if self.failures and self.failures[-1] != kind:
            self.failures.clear()
        self.failures.append(kind)
        if len(self.failures) >= ALIKE:
            raise SearchFailed(
                f"{ALIKE} trials one after the other failed alike ({kind}); mend the model or the "
                f"study, then the same command goes on (log: {worker.log})"
            )

    def _pack(self) -> None:
        """More workers where a GPU has room for them and they pay."""
        if self.packing is None or ended(self.claims.count()) + len(self.crew.workers) >= (
            self.run.trials
        ):
            return  # one more would find nothing to do
        for device in self.packing.wanted():
            worker = self.crew.add(device)
            self.packing.added(worker.index, device)
            self.display.say(f"{device} has room for more: worker {worker.index} joins")

    def finish(self, top: int) -> list[dict[str, Any]]:
        """Retrain, rank and export; the records of the exports, best first.

        One run at a time: a second one under the same RUNS waits, then finds it done.
        """
        with self._alone():
            return self._finish(top)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        lock = FileLock(self.run.paths.finishing_lock(self.run.study))
        while True:
            try:
                lock.acquire(timeout=TICK)
                break
            except Timeout:
                self._listen()
        try:
            yield
        finally:
            lock.release()

    def _finish(self, top: int) -> list[dict[str, Any]]:
        self.display.finishing()
        sweep(self.run.paths.exports(self.run.study))
        chosen: list[int] = []
        candidates = self._candidates()
        while candidates and len(chosen) < top:
            batch, candidates = candidates[: top - len(chosen)], candidates[top - len(chosen) :]
            missing = [number for number in batch if self._record(number) is None]
            self._hand_out([{"job": "retrain", "number": number} for number in missing])
            chosen += [number for number in batch if "failed" not in (self._record(number) or {})]
        if len(chosen) < top:
            self.display.say(f"{len(chosen)} usable trials for TOP={top}: fewer exports")
        ranked = sorted(chosen, key=self._retrained_value)
        jobs = [
            {"job": "export", "number": number, "rank": rank}
            for rank, number in enumerate(ranked, start=1)
            if not self._is_exported(number, rank)
        ]
        self._hand_out(jobs)
        remove_ranks_beyond(self.run.paths.exports(self.run.study), len(ranked))
        return self.records(len(ranked))

    def is_finished(self, top: int) -> bool:
        """All trials have ended and the best are exported: nothing is left to do."""
        if self.claims.ended() < self.run.trials:
            return False
        chosen: list[int] = []
        for number in self._candidates():
            record = self._record(number)
            if len(chosen) == top:
                break
            if record is None:
                return False
            if "failed" not in record:
                chosen.append(number)
        ranked = enumerate(sorted(chosen, key=self._retrained_value), start=1)
        return all(self._is_exported(number, rank) for rank, number in ranked)

    def first_reason(self) -> str | None:
        """Why the first failed trial failed."""
        failed = self.claims.study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
        return next((t.user_attrs.get("reason") for t in failed), None)

    def records(self, count: int) -> list[dict[str, Any]]:
        """What the export folders say, best first."""
        found = [
            read_provenance(self.run.paths.export(self.run.study, rank))
            for rank in range(1, count + 1)
        ]
        return [record for record in found if record is not None]

    def _hand_out(self, jobs: list[dict[str, Any]]) -> None:
        """One job a worker, the next to whoever is free; a dead worker's job goes round again."""
        waiting = list(jobs)
        failures = 0
        while waiting or self.crew.busy():
            for worker in self.crew.idle():
                if waiting:
                    self.crew.send(worker, waiting.pop(0))
            for worker in self._listen():
                if worker.job.get("job") in ("retrain", "export"):  # it died at work
                    failures += 1
                    if failures > 3:
                        raise WorkersFailed(
                            f"{worker.job['job']} of trial {worker.job['number']} kills its "
                            f"worker again and again; see {worker.log}"
                        )
                    waiting.insert(0, worker.job)

    def _listen(self) -> list[Worker]:
        """Pass on what workers say for one tick; returns those that died, replaced already."""
        if self.stop_asked:
            raise Stopped
        died = []
        for worker, event in self.crew.events(TICK):
            if event["event"] == "gone":
                self._bury(worker, event)
                died.append(worker)
            elif event["event"] != "error":
                self.ready = self.ready or event["event"] == "ready"
                self._note(worker, event)
                if self.packing is not None:
                    self.packing.heard(worker.index, worker.device, event)
                self.display.heard(worker, event)
            if self.stop_asked:
                raise Stopped
        return died

    def _bury(self, worker: Worker, event: Event) -> None:
        """Free the trial of a worker that ended unasked; go on with a new one if that can help."""
        if worker.error is not None:
            raise WorkersFailed(f"worker {worker.index}: {worker.error} (log: {worker.log})")
        if not self.ready:
            raise WorkersFailed(
                f"worker {worker.index} ended with code {event['code']} before it was ready; "
                f"see {worker.log}"
            )
        self.running.pop(worker.index, None)
        if worker.index in self.hung:
            number = self.hung.pop(worker.index)
            reason = f"it hung: TRIAL_MINUTES={self.run.trial_minutes:g} were long over"
            if self.claims.end_hung(number, reason):
                self.display.say(f"trial {number:>3}  interrupted: {reason}")
        freed = self.claims.take_back_from(worker.owner)
        self.display.died(worker, event["code"], freed)
        self.crew.replace(worker)

    def _candidates(self) -> list[int]:
        """Complete trials, best first."""
        complete = self.claims.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        sign = 1 if self.study.spec.direction == "minimize" else -1
        return [
            number for _, number in sorted((sign * (t.value or 0.0), t.number) for t in complete)
        ]

    def _record(self, number: int) -> dict[str, Any] | None:
        """The record of a retraining, if it is this study's and today's run would end alike."""
        paths = self.run.paths.retraining(self.run.study, number)
        try:
            record: dict[str, Any] = json.loads(paths.record.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return None
        if not isinstance(record, dict) or record.get("token") != self.run.token:
            return None
        if "failed" in record:
            return record
        if not self._is_complete(record):
            return None
        if not paths.best.exists() or record["patience"] != self.study.spec.patience:
            return None
        if record["ended_by"] == "most epochs":
            alike = record["most_epochs"] == self.run.retrain_epochs
        else:
            alike = record["epochs"] <= self.run.retrain_epochs
        return record if alike else None

    def _is_complete(self, record: dict[str, Any]) -> bool:
        """Whether a record, or a provenance, says what the leaderboard is made from."""
        metric = self.study.spec.metric
        values = [record.get("valid"), record.get("test") or record.get("valid")]
        return (
            record.keys() >= RECORDED
            and isinstance(record["epochs"], int)
            and all(isinstance(value, dict) for value in values)
            and all(isinstance(dict(value or {}).get(metric), int | float) for value in values)
        )

    def _retrained_value(self, number: int) -> tuple[float, int]:
        record = self._record(number)
        assert record is not None, "ranked after retraining"
        sign = 1 if self.study.spec.direction == "minimize" else -1
        return sign * record["valid"][self.study.spec.metric], number

    def _is_exported(self, number: int, rank: int) -> bool:
        record = self._record(number)
        found = read_provenance(self.run.paths.export(self.run.study, rank))
        if record is None or found is None or not self._is_complete(found):
            return False
        judged = rank > 1 or record["test"] is not None
        same = all(found.get(key) == record[key] for key in ("trial", "made", "token"))
        folder = self.run.paths.export(self.run.study, rank)
        return judged and same and found.get("rank") == rank and is_whole(folder, found)


@contextmanager
def stop_on_signals(session: Session, kill: Callable[[], None]) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM asks for a clean end, the second ends at once."""

    def handle(number: int, frame: FrameType | None) -> None:
        if session.stop_asked:
            kill()
            raise KeyboardInterrupt
        session.stop_asked = True

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
