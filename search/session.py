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
from search.errors import WorkersFailed
from search.packing import Packing
from search.progress import Display
from search.run import StudyRun
from search.study import Study
from search.supervisor import Crew, Event, Worker
from storage.exports import is_whole, read_provenance, remove_ranks_beyond, sweep
from storage.leases import RENEWAL
from storage.standing import ended

TICK = 0.5  # seconds between two looks at the database
LINGER = 15.0  # seconds that a worker may take to notice that no trial is left


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
        self.ready = False  # a worker has come up: later deaths are worth a replacement

    def search(self) -> None:
        """Until exactly ``run.trials`` trials have ended, by us or by anybody else."""
        total = self.run.trials
        looked = 0.0
        over: float | None = None  # since when all trials have ended
        counts = self.claims.count()
        while ended(counts) < total or self.crew.busy():
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
        except (OSError, ValueError):
            return None
        if not isinstance(record, dict) or record.get("token") != self.run.token:
            return None
        if "failed" in record:
            return record
        if not paths.best.exists() or record["patience"] != self.study.spec.patience:
            return None
        if record["ended_by"] == "most epochs":
            alike = record["most_epochs"] == self.run.retrain_epochs
        else:
            alike = record["epochs"] <= self.run.retrain_epochs
        return record if alike else None

    def _retrained_value(self, number: int) -> tuple[float, int]:
        record = self._record(number)
        assert record is not None, "ranked after retraining"
        sign = 1 if self.study.spec.direction == "minimize" else -1
        return sign * record["valid"][self.study.spec.metric], number

    def _is_exported(self, number: int, rank: int) -> bool:
        record = self._record(number)
        found = read_provenance(self.run.paths.export(self.run.study, rank))
        if record is None or found is None:
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
