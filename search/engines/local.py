"""Workers as processes of this machine: ENGINE=local JOBS=2, to try out what a cluster would do."""

from __future__ import annotations

import subprocess
import time
from contextlib import suppress
from pathlib import Path

from search.engines.engine import Job, last_error
from search.engines.worker_job import WorkerJob

PATIENCE = 15.0  # seconds that workers have to give their trials back


class LocalEngine:
    """Runs ``job`` as often as it is asked to.

    folder: of the jobs' logs
    """

    def __init__(self, job: WorkerJob, folder: Path) -> None:
        self.job = job
        self.folder = folder
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, count: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for _ in range(count):
            with self._log(len(self.processes)).open("ab") as log:
                process = self.job.begin(stdout=log, stderr=log, start_new_session=True)
            self.processes.append(process)

    def alive(self) -> list[Job]:
        return [
            Job(
                name=f"job {index}",
                is_alive=process.poll() is None,
                code=process.poll(),
                said="" if process.poll() is None else self._said(index),
            )
            for index, process in enumerate(self.processes)
        ]

    def stop(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + PATIENCE
        for process in self.processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
            if process.poll() is None:
                process.kill()
                process.wait()
            if process.stdin is not None:
                process.stdin.close()

    def describe(self) -> str:
        return "processes of this machine"

    def _log(self, index: int) -> Path:
        return self.folder / f"job-{index}.log"

    def _said(self, index: int) -> str:
        with suppress(OSError):
            return last_error(self._log(index).read_text(encoding="utf-8", errors="replace"))
        return ""
