"""A study without other processes: the supervisor's only worker is a part of it.

    monkeypatch.setattr("search.cli.study_command.WorkerPool", LocalPool)
    main(["study"])

It works when the supervisor listens: a job is done as a whole, then its events are heard.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self, cast

from search.events import Event, Idle
from search.jobs import Job
from search.run import StudyRun
from search.supervisor.worker_pool import WorkerHandle, WorkerState
from search.trials.owner import forget_mark, owner_name
from search.worker.context import WorkerContext
from search.worker.main import _do_jobs
from search.worker.startup import open_context


class LocalControl:
    """A worker's connection to a supervisor in the same process."""

    def __init__(self) -> None:
        self.heard: list[Event] = []

    def send(self, event: Event) -> None:
        self.heard.append(event)

    def interrupted(self) -> bool:
        return False

    def warn_of_database(self, message: str) -> None:
        assert "waiting" in message or "back" in message


class LocalPool:
    """Stands for `search.supervisor.worker_pool.WorkerPool`."""

    def __init__(self, devices: list[str], log_path: Callable[[int], Path]) -> None:
        self.devices = devices[:1]
        self.control = LocalControl()
        self.worker = WorkerHandle(
            index=0, device="cpu", process=cast(Any, None), owner=owner_name(os.getpid()),
            log=log_path(0),
        )  # fmt: skip
        self.workers = {0: self.worker}
        self.context: WorkerContext | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.context is None:
            return
        self.context.queue.engine.dispose()
        forget_mark(self.worker.owner)

    def set_up(self, run: StudyRun) -> None:
        self.context = open_context(run, "cpu", self.control, self.worker.owner)
        self.worker.state = WorkerState.IDLE

    def send(self, worker: WorkerHandle, job: Job) -> None:
        worker.state, worker.job = WorkerState.BUSY, job

    def idle_workers(self) -> list[WorkerHandle]:
        return [self.worker] if self.worker.state is WorkerState.IDLE else []

    def busy_workers(self) -> list[WorkerHandle]:
        return [self.worker] if self.worker.state is WorkerState.BUSY else []

    def events(self, timeout: float) -> Iterator[tuple[WorkerHandle, Event]]:
        if self.worker.job is not None and self.context is not None:
            _do_jobs(iter([self.worker.job]), self.context)
        heard, self.control.heard = self.control.heard, []
        for event in heard:
            if isinstance(event, Idle):
                self.worker.state, self.worker.job = WorkerState.IDLE, None
            yield self.worker, event

    def kill(self) -> None:
        raise AssertionError("nobody asks for it")
