"""Starts workers, gives them jobs, hears their events, restarts the dead, ends cleanly.

    with Crew(devices, logs=paths) as crew:
        crew.set_up(run)
        crew.send_all({"job": "search"})
        for worker, event in crew.events(timeout=1.0): ...

A crew knows processes and pipes, nothing of trials: `search/supervisor/loop.py` says
what is to be done. Workers stand in a session of their own, so that Ctrl-C
reaches the supervisor alone and each worker can finish its step.
"""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from queue import Empty, Queue
from types import TracebackType
from typing import IO, Any, Self

from search.run import StudyRun
from search.supervisor.process import start_process
from search.trials.owner import owner_name

STOP_PATIENCE = 8.0  # seconds that a worker has to end its step and release its trial
Event = dict[str, Any]


@dataclass
class WorkerHandle:
    """One process. state: starting -> idle <-> busy -> gone."""

    index: int
    device: str
    process: subprocess.Popen[str]
    owner: str
    log: Path
    state: str = "starting"
    job: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    listener: threading.Thread | None = None

    def send(self, job: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it is gone: its end is an event of its own
            self.process.stdin.write(json.dumps(job) + "\n")
            self.process.stdin.flush()

    def hang_up(self) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        if self.listener is not None:
            self.listener.join(timeout=1.0)


class WorkerPool:
    """All workers of one supervisor. Leaving the context ends them."""

    def __init__(self, devices: list[str], log_of: Any) -> None:
        self.devices = devices
        self.log_of = log_of  # worker's index -> path of its log
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

    def send(self, worker: WorkerHandle, job: dict[str, Any]) -> None:
        worker.state, worker.job = "busy", job
        worker.send(job)

    def idle_workers(self) -> list[WorkerHandle]:
        return [worker for worker in self.workers.values() if worker.state == "idle"]

    def busy_workers(self) -> list[WorkerHandle]:
        return [w for w in self.workers.values() if w.state in ("busy", "starting")]

    def events(self, timeout: float) -> Iterator[tuple[WorkerHandle, Event]]:
        """What was heard within ``timeout`` seconds, the deaths of workers included."""
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            try:
                worker, event = self._heard.get(timeout=left)
            except Empty:
                return
            if event["event"] in ("ready", "idle"):
                worker.state, worker.job = "idle", {}
            elif event["event"] == "error":
                worker.error = event["message"]
            elif event["event"] == "gone":
                worker.state = "gone"
            yield worker, event

    def add(self, device: str) -> WorkerHandle:
        """One more worker, on ``device``."""
        self.devices.append(device)
        index = len(self.devices) - 1
        self._start(index)
        self._set_up(self.workers[index])
        return self.workers[index]

    def replace(self, worker: WorkerHandle) -> None:
        """A new process in the place of one that is gone."""
        worker.hang_up()
        self._start(worker.index)
        self._set_up(self.workers[worker.index])

    def stop(self, patience: float) -> list[WorkerHandle]:
        """End all: ask, then SIGTERM, then SIGKILL. Returns those that had to be killed."""
        alive = [worker for worker in self.workers.values() if worker.process.poll() is None]
        for worker in alive:
            worker.send({"job": "stop"})
        stubborn = _left_after(alive, patience)
        for worker in stubborn:
            worker.process.terminate()
        killed = _left_after(stubborn, 1.0)
        for worker in killed:
            worker.process.kill()
            worker.process.wait()
        for worker in self.workers.values():
            worker.hang_up()
        return killed

    def kill(self) -> None:
        """End all at once: their trials go on from the last checkpoint."""
        self.stop(patience=0.0)

    def halt(self) -> None:
        """Have all trials given back; the workers wait for what comes next."""
        for worker in self.workers.values():
            if worker.state != "gone":
                worker.send({"job": "halt"})

    def kill_busy(self) -> None:
        """End the workers that are at a job, without asking; those that start are left alone."""
        for worker in self.workers.values():
            if worker.state == "busy":
                worker.process.kill()

    def _start(self, index: int) -> None:
        log = self.log_of(index)
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
        plan = {"run": asdict(self._run), "device": worker.device, "log": str(worker.log)}
        worker.send({"job": "setup", **plan})

    def _listen(self, worker: WorkerHandle, lines: IO[str]) -> None:
        with lines:
            for line in lines:
                with suppress(json.JSONDecodeError):  # a line cut off by a kill
                    self._heard.put((worker, json.loads(line)))
        self._heard.put((worker, {"event": "gone", "code": worker.process.wait()}))


def _left_after(workers: list[WorkerHandle], seconds: float) -> list[WorkerHandle]:
    deadline = time.monotonic() + seconds
    for worker in workers:
        with suppress(subprocess.TimeoutExpired):
            worker.process.wait(max(0.0, deadline - time.monotonic()))
    return [worker for worker in workers if worker.process.poll() is None]
