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
from search.progress import Display
from search.run import StudyRun
from search.study import Study
from search.supervisor import Crew, Event, Worker
from storage.exports import read_provenance, remove_ranks_beyond
from storage.leases import RENEWAL

TICK = 0.5  # seconds between two looks at the database


class Stopped(Exception):
    """Ctrl-C or SIGTERM: end cleanly, the next run goes on."""


class Session:
    """The supervisor's side of a run."""

    def __init__(self, study: Study, run: StudyRun, claims: Claims, crew: Crew, display: Display):
        self.study = study
        self.run = run
        self.claims = claims
        self.crew = crew
        self.display = display
        self.stop_asked = False
        self.ready = False  # a worker has come up: later deaths are worth a replacement

    def search(self) -> None:
        """Until exactly ``run.trials`` trials have ended, by us or by anybody else."""
        total = self.run.trials
        looked = 0.0
        while self.claims.ended() < total or self.crew.busy():
            counts = self.claims.count()
            if counts["WAITING"] or counts.total() < total:
                for worker in self.crew.idle():
                    self.crew.send(worker, {"job": "search"})
            elif self.crew.idle() and time.monotonic() - looked >= RENEWAL:
                looked = time.monotonic()
                self.claims.take_back_abandoned()  # of other machines
            self._listen()
            self.display.counts(self.claims.count())

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
        numbers = self._best(top)
        self.display.finishing(numbers, top)
        self._hand_out(
            [{"job": "retrain", "number": n} for n in numbers if not self._is_retrained(n)]
        )
        ranked = sorted(numbers, key=self._retrained_value)
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
        numbers = self._best(top)
        if not all(self._is_retrained(number) for number in numbers):
            return False
        ranked = enumerate(sorted(numbers, key=self._retrained_value), start=1)
        return all(self._is_exported(number, rank) for rank, number in ranked)

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
                if worker.job.get("job") in ("retrain", "export"):
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

    def _best(self, top: int) -> list[int]:
        complete = self.claims.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        sign = 1 if self.study.spec.direction == "minimize" else -1
        values = [(sign * (trial.value or 0.0), trial.number) for trial in complete]
        return [number for _, number in sorted(values)[:top]]

    def _record(self, number: int) -> dict[str, Any] | None:
        try:
            path = self.run.paths.retraining(self.run.study, number).record
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return content

    def _is_retrained(self, number: int) -> bool:
        """A record counts if today's run would end where it did."""
        record = self._record(number)
        if record is None or not self.run.paths.retraining(self.run.study, number).best.exists():
            return False
        if record["patience"] != self.study.spec.patience:
            return False
        if record["ended_by"] == "patience":
            return bool(record["epochs"] <= self.run.retrain_epochs)
        return bool(record["most_epochs"] == self.run.retrain_epochs)

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
        return judged and (found.get("trial"), found.get("made")) == (number, record["made"])


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
