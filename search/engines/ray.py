"""Workers as tasks of Ray: ENGINE=ray JOBS=4 RAY='num_gpus=0.5'.

RAY_ADDRESS names the cluster; without it, Ray starts on this machine. A fraction of a GPU puts
several workers on one. Nodes may join and leave: Ray says which tasks have ended, and what they
were at goes on elsewhere.
"""

from __future__ import annotations

import os
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from search.engines import worker_job
from search.engines.engine import EngineFailed, Job
from search.engines.worker_job import WorkerJob, run_job
from search.errors import BadVariable, unknown_name
from storage.errors import short

PATIENCE = 20.0  # seconds that workers have to give their trials back
OPTIONS = ("num_cpus", "num_gpus", "memory")


class RayEngine:
    """Runs ``job`` as tasks.

    folder: of the workers' own logs; options: of a task
    """

    def __init__(self, job: WorkerJob, folder: Path, options: dict[str, str]) -> None:
        self.job = job
        self.folder = folder
        self.address = os.environ.get("RAY_ADDRESS", "").strip()
        self.ray = _open_ray(self.address)
        self.resources = read_resources(options, has_gpus=self._has_gpus())
        # shipped by value: the nodes' Ray does not know where this checkout is
        self.ray.cloudpickle.register_pickle_by_value(worker_job)
        self.task = self.ray.remote(max_retries=0, **self.resources)(run_job)
        self.tasks: list[Any] = []

    def _has_gpus(self) -> bool:
        return bool(self.ray.cluster_resources().get("GPU", 0) > 0)

    def start(self, count: int) -> None:
        self.tasks += [self.task.remote(self.job) for _ in range(count)]

    def alive(self) -> list[Job]:
        done, _ = self.ray.wait(self.tasks, num_returns=len(self.tasks), timeout=0)
        over = set(done)
        return [self._look(index, task, task in over) for index, task in enumerate(self.tasks)]

    def _look(self, index: int, task: Any, is_over: bool) -> Job:
        name = f"task {index}"
        if not is_over:
            return Job(name=name, is_alive=True)
        try:
            code, said = self.ray.get(task)
        except Exception as error:  # its node went down, or it was cancelled
            lines = str(error).strip().splitlines()
            return Job(name=name, is_alive=False, said=short(lines[0]) if lines else "")
        return Job(name=name, is_alive=False, code=code, said=said)

    def stop(self) -> None:
        _, waiting = self.ray.wait(self.tasks, num_returns=len(self.tasks), timeout=0)
        for task in waiting:
            with suppress(Exception):  # it has ended meanwhile
                self.ray.cancel(task)
        if waiting:
            self.ray.wait(waiting, num_returns=len(waiting), timeout=PATIENCE)
        self.ray.shutdown()

    def describe(self) -> str:
        return f"tasks of Ray at {self.address}" if self.address else "tasks of Ray on this machine"


def check_ray(options: dict[str, str]) -> None:
    """Raise `BadVariable` for an option, and `EngineFailed` where Ray is not installed."""
    read_resources(options, has_gpus=False)
    if find_spec("ray") is None:
        raise EngineFailed(
            "ENGINE=ray needs Ray, which is not installed: pip install 'genstudy[ray]'"
        )


def read_resources(options: dict[str, str], *, has_gpus: bool) -> dict[str, float]:
    """Return what a task takes; without a word, one GPU where there are any, and one core."""
    resources = {"num_cpus": 1.0, "num_gpus": 1.0 if has_gpus else 0.0}
    for name, written in options.items():
        if name not in OPTIONS:
            raise BadVariable("RAY: " + unknown_name("option", name, OPTIONS))
        plain = written.replace(".", "", 1)
        if not (plain.isascii() and plain.isdigit()):
            raise BadVariable(f"RAY: {name}={short(written)} is no number from 0 on")
        resources[name] = float(written)
    return resources


def _open_ray(address: str) -> Any:
    """Return Ray, connected. Raises `EngineFailed`."""
    if not address:  # a machine that is busy takes longer than Ray's half minute
        os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")
    import ray

    try:
        ray.init(
            address=address or "local",
            log_to_driver=False,
            include_dashboard=False if not address else None,
            configure_logging=False,
        )
    except Exception as error:  # Ray raises it for a node that does not come up in time
        lines = str(error).strip().splitlines() or [type(error).__name__]
        if address:
            what, fix = f"no Ray at RAY_ADDRESS={short(address)}", "without it, Ray starts here"
        else:
            what, fix = "Ray does not start on this machine", "RAY_ADDRESS names one that runs"
        raise EngineFailed(f"{what} ({short(lines[0])}); {fix}") from error
    return ray
