"""Workers as an array of Slurm jobs: ENGINE=slurm JOBS=8 SLURM='partition=gpu,time=240'.

submitit writes the batch script, submits it and passes on Slurm's signals: shortly before a job's
time is over, or where another needs its machine, the worker gives its trial back and the job goes
into the queue again. SLURM holds the options of `sbatch` in submitit's names; ``cluster=local``
tries the same without a Slurm, as processes of this machine.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from search.engines import worker_job
from search.engines.engine import EngineFailed, Job, last_error
from search.engines.worker_job import WorkerJob
from search.errors import BadVariable
from storage.errors import short

MINUTES = 60  # of a job without a time of its own
MOST_REQUEUES = 100_000  # a study takes as many jobs as it needs
ASK_AFTER = 10.0  # seconds between two looks into Slurm's queue
PATIENCE = 30.0  # seconds that jobs have to end once they are cancelled


class SlurmEngine:
    """Submits ``job``.

    folder: of scripts, logs and results, which all machines see
    options: of `sbatch`
    """

    def __init__(self, job: WorkerJob, folder: Path, options: dict[str, str]) -> None:
        self.job = job
        self.folder = folder
        self.is_local = options.get("cluster") == "local"
        self.executor = make_executor(folder, options)
        _ship_by_value()
        self.jobs: list[Any] = []
        self._queued: set[str] | None = None  # ids that Slurm knew at the last look
        self._asked = float("-inf")

    def start(self, count: int) -> None:
        try:
            with self._quiet(), self.executor.batch():
                started = [self.executor.submit(self.job) for _ in range(count)]
        except Exception as error:  # submitit has its own classes, and those of subprocess
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise EngineFailed(f"Slurm takes no job: {short(reason[-1])}") from error
        self.jobs += started
        self._asked = float("-inf")

    def alive(self) -> list[Job]:
        self._ask_slurm()
        return [self._look(job) for job in self.jobs]

    def stop(self) -> None:
        self._asked = float("-inf")
        self._ask_slurm()
        queued = self._queued or set()  # one that others have put there again has a result already
        for job in self.jobs:
            if self._look(job).is_alive or job.job_id in queued:
                with suppress(Exception):  # it has ended meanwhile
                    job.cancel(check=False)
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            self._asked = float("-inf")
            if not any(job.is_alive for job in self.alive()):
                return
            time.sleep(0.5)

    def describe(self) -> str:
        return "jobs of submitit on this machine" if self.is_local else "jobs of Slurm"

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        """Let what submitit's own processes say go to a log; only on this machine it has any."""
        if not self.is_local:
            yield
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        ours = os.dup(2)
        with (self.folder / "submitit.log").open("ab") as log:
            os.dup2(log.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(ours, 2)
            os.close(ours)

    def _look(self, job: Any) -> Job:
        is_over = job.paths.result_pickle.exists()
        if self.is_local:
            is_alive = job.state == "RUNNING"
        else:
            is_alive = not is_over and (self._queued is None or job.job_id in self._queued)
        name = f"job {job.job_id}"
        if is_alive:
            return Job(name=name, is_alive=True)
        code = None
        if is_over:
            with suppress(Exception):  # it ended with an error of its own
                code = int(job.result())
        return Job(name=name, is_alive=False, code=code, said=self._said(job))

    def _said(self, job: Any) -> str:
        with suppress(OSError):
            return last_error(job.paths.stderr.read_text(encoding="utf-8", errors="replace"))
        return ""

    def _ask_slurm(self) -> None:
        """Ask Slurm which of the jobs run or wait; an answer that does not come changes nothing."""
        if self.is_local or not self.jobs or time.monotonic() - self._asked < ASK_AFTER:
            return
        self._asked = time.monotonic()
        ids = ",".join(sorted({job.job_id.partition("_")[0] for job in self.jobs}))
        asked = ["squeue", "--noheader", "--array", "--format=%i", f"--jobs={ids}"]
        try:
            done = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return
        if done.returncode == 0:
            self._queued = set(done.stdout.split())
        elif "Invalid job id" in done.stderr:  # Slurm forgets jobs that ended long ago
            self._queued = set()


def check_slurm(options: dict[str, str]) -> None:
    """Raise `BadVariable` for an option, and `EngineFailed` where no job can be submitted."""
    cluster = options.get("cluster", "slurm")
    if cluster not in ("slurm", "local"):
        raise BadVariable(f"SLURM: cluster={short(cluster)} is neither slurm nor local")
    for name, value in options.items():
        if name == "time" or (cluster == "local" and name != "cluster"):
            _whole(name, value)
    if find_spec("submitit") is None:
        raise EngineFailed(
            "ENGINE=slurm needs submitit, which is not installed: pip install 'genstudy[slurm]'"
        )
    if cluster == "slurm" and shutil.which("sbatch") is None:
        raise EngineFailed(
            "ENGINE=slurm needs sbatch, which is not on PATH: start it where jobs are submitted, "
            "or try it on this machine with SLURM=cluster=local"
        )


def make_executor(folder: Path, options: dict[str, str]) -> Any:
    """Return submitit's executor."""
    import submitit

    given = {name: value for name, value in options.items() if name != "cluster"}
    minutes = _whole("time", given.pop("time", str(MINUTES)))
    if options.get("cluster") == "local":
        numbers = {name: _whole(name, value) for name, value in given.items()}
        local = submitit.LocalExecutor(folder, max_num_timeout=MOST_REQUEUES)
        local.update_parameters(timeout_min=minutes, **numbers)
        return local
    executor = submitit.SlurmExecutor(folder, max_num_timeout=MOST_REQUEUES)
    known = executor._valid_parameters()
    mine: dict[str, Any] = {"job_name": "genstudy", "time": minutes, "stderr_to_stdout": False}
    other: dict[str, str] = {}
    for name, value in given.items():
        if name not in known:
            other[name.replace("_", "-")] = value  # submitit has no name for it
        else:
            mine[name] = int(value) if value.isdigit() else value
    if other:
        mine["additional_parameters"] = other
    executor.update_parameters(**mine)
    return executor


def _ship_by_value() -> None:
    """Ship `worker_job` itself to the jobs: on their machines, Python does not know where it is."""
    import cloudpickle

    cloudpickle.register_pickle_by_value(worker_job)


def _whole(name: str, written: str) -> int:
    if not written.isdigit() or not int(written):
        raise BadVariable(
            f"SLURM: {name}={short(written)} is not a whole number above 0 (time is in minutes)"
        )
    return int(written)
