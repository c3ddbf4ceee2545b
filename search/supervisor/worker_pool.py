"""Starts workers, sends them jobs, hears their events, replaces the dead, ends cleanly.

    with WorkerPool(devices, paths_of_logs) as pool:
        pool.set_up(run)
        pool.send(worker, Search())
        for worker, event in pool.events(timeout=1.0): ...

A pool knows processes and pipes, and nothing of trials: `search.supervisor.loop` says what is to
be done. Workers have a session of their own, so that Ctrl-C reaches the supervisor alone and each
worker can finish its step.
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from queue import Empty, Queue
from types import TracebackType
from typing import IO, Self, cast

from search.events import Event, Failed, Gone, Idle, Ready
from search.jobs import Halt, Job, SetUp, Stop
from search.messages import read_message, write_message
from search.run import StudyRun
from search.supervisor.process import start_process
from search.trials.owner import forget_mark, owner_name, sweep_marks

STOP_PATIENCE = 8.0  # seconds that a worker has to end its step and release its trial


class WorkerState(StrEnum):
    """starting -> idle <-> busy -> gone"""

    STARTING = "starting"
    IDLE = "idle"
    BUSY = "busy"
    GONE = "gone"


@dataclass
class WorkerHandle:
    """One worker's process, as its supervisor sees it.

    owner: as the worker calls itself in leases; job: what a busy worker does
    error: why it ended, where it said so
    """

    index: int
    device: str
    process: subprocess.Popen[str]
    owner: str
    log: Path
    state: WorkerState = WorkerState.STARTING
    job: Job | None = None
    error: str | None = None
    listener: threading.Thread | None = None

    def send(self, job: Job) -> None:
        """Write ``job`` to the process; one that is gone is an event of its own."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.write(write_message(job))
            self.process.stdin.flush()

    def hang_up(self) -> None:
        """Close the pipes."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        if self.listener is not None:
            self.listener.join(timeout=1.0)


class WorkerPool:
    """All workers of one supervisor. Leaving the context ends them.

    devices: of each worker; log_path: worker's index -> path of its log
    """

    def __init__(self, devices: list[str], log_path: Callable[[int], Path]) -> None:
        self.devices = devices
        self.log_path = log_path
        self.workers: dict[int, WorkerHandle] = {}
        self._heard: Queue[tuple[WorkerHandle, Event]] = Queue()
        self._run: StudyRun | None = None

    def __enter__(self) -> Self:
        for index in range(len(self.devices)):
            self._start(index)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop(patience=STOP_PATIENCE)

    def set_up(self, run: StudyRun) -> None:
        """Tell every worker, and every later replacement, what the run is."""
        self._run = run
        for worker in self.workers.values():
            self._set_up(worker)

    def send(self, worker: WorkerHandle, job: Job) -> None:
        """Give an idle worker a job."""
        worker.state, worker.job = WorkerState.BUSY, job
        worker.send(job)

    def idle_workers(self) -> list[WorkerHandle]:
        """Return the workers that wait for a job."""
        return [w for w in self.workers.values() if w.state is WorkerState.IDLE]

    def busy_workers(self) -> list[WorkerHandle]:
        """Return the workers that are at a job, or start."""
        busy = (WorkerState.BUSY, WorkerState.STARTING)
        return [w for w in self.workers.values() if w.state in busy]

    def events(self, timeout: float) -> Iterator[tuple[WorkerHandle, Event]]:
        """Yield what is heard within ``timeout`` seconds, the deaths of workers included."""
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            try:
                worker, event = self._heard.get(timeout=left)
            except Empty:
                return
            match event:
                case Ready() | Idle():
                    worker.state, worker.job = WorkerState.IDLE, None
                case Failed():
                    worker.error = event.message
                case Gone():
                    worker.state = WorkerState.GONE
            yield worker, event

    def add(self, device: str) -> WorkerHandle:
        """Start one more worker, on ``device``."""
        self.devices.append(device)
        index = len(self.devices) - 1
        self._start(index)
        self._set_up(self.workers[index])
        return self.workers[index]

    def replace(self, worker: WorkerHandle) -> None:
        """Start a new process in the place of one that is gone."""
        worker.hang_up()
        forget_mark(worker.owner)
        self._start(worker.index)
        self._set_up(self.workers[worker.index])

    def stop(self, patience: float) -> list[WorkerHandle]:
        """End all: ask, then SIGTERM, then SIGKILL. Returns those that had to be killed.

        patience: seconds that they have to end by themselves
        """
        alive = [worker for worker in self.workers.values() if worker.process.poll() is None]
        for worker in alive:
            worker.send(Stop())
        stubborn = _wait_for_ends(alive, patience)
        for worker in stubborn:
            worker.process.terminate()
        killed = _wait_for_ends(stubborn, 1.0)
        for worker in killed:
            worker.process.kill()
            worker.process.wait()
        for worker in self.workers.values():
            worker.hang_up()  # the mark of one that held a trial stays: the next run sees it gone
        sweep_marks()
        return killed

    def kill(self) -> None:
        """End all at once: their trials go on from the last checkpoint."""
        self.stop(patience=0.0)

    def halt(self) -> None:
        """Have all trials given back; the workers wait for what comes next."""
        for worker in self.workers.values():
            if worker.state is not WorkerState.GONE:
                worker.send(Halt())

    def kill_busy(self) -> None:
        """Kill the workers that are at a job, without asking; those that start are left alone."""
        for worker in self.workers.values():
            if worker.state is WorkerState.BUSY:
                worker.process.kill()

    def _start(self, index: int) -> None:
        log = self.log_path(index)
        process = start_process(log)
        worker = WorkerHandle(
            index=index,
            device=self.devices[index],
            process=process,
            owner=owner_name(process.pid),
            log=log,
        )
        self.workers[index] = worker
        assert process.stdout is not None
        worker.listener = threading.Thread(
            target=self._listen, args=(worker, process.stdout), daemon=True
        )
        worker.listener.start()

    def _set_up(self, worker: WorkerHandle) -> None:
        assert self._run is not None
        worker.send(
            SetUp(run=self._run, device=worker.device, log=str(worker.log), owner=worker.owner)
        )

    def _listen(self, worker: WorkerHandle, lines: IO[str]) -> None:
        with lines:
            for line in lines:
                if not line.endswith("\n"):
                    break  # a kill has cut it off
                try:
                    event = cast(Event, read_message(line))
                except ValueError as error:
                    event = Failed(message=str(error))
                self._heard.put((worker, event))
        self._heard.put((worker, Gone(code=worker.process.wait())))


def _wait_for_ends(workers: list[WorkerHandle], seconds: float) -> list[WorkerHandle]:
    """Return the workers that still run after ``seconds``."""
    deadline = time.monotonic() + seconds
    for worker in workers:
        with suppress(subprocess.TimeoutExpired):
            worker.process.wait(max(0.0, deadline - time.monotonic()))
    return [worker for worker in workers if worker.process.poll() is None]
