"""Which worker trains on what: one process a GPU, or one a CPU core with one thread.

assign_devices(gpus=None, workers=None, visible=count_gpus())   # all GPUs, else every core
assign_devices(gpus=(0, 1), workers=4, visible=2)               # two processes on each GPU
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch

from search.errors import BadVariable
from search.run import StudyRun
from search.trials.seed_race import FIRST
from search.variables import Variables
from storage.errors import short

DEVICES = Path("/dev")  # in which NVIDIA's driver has a file for each GPU


def find_devices(variables: Variables, warn: Callable[[list[str]], object]) -> list[str]:
    """Return what each worker of this machine trains on, as the variables say.

    warn: hears why GPUs that are there cannot be used
    """
    visible = count_gpus()
    if not visible and variables.gpus is None and (reason := explain_no_gpu()):
        warn([f"{reason}: training on the CPU"])
    return assign_devices(gpus=variables.gpus, workers=variables.workers, visible=visible)


def assign_devices(*, gpus: tuple[int, ...] | None, workers: int | None, visible: int) -> list[str]:
    """Return a device's name for each worker: ``cpu``, ``cuda:0``, ...

    gpus: None: all visible; (): CPU only. visible: how many GPUs this machine shows

    Raises `BadVariable` for a GPU that is not there.
    """
    chosen = tuple(range(visible)) if gpus is None else gpus
    missing = [gpu for gpu in chosen if gpu >= visible]
    if missing:
        there = f"0 to {visible - 1}" if visible > 1 else "only 0" if visible else "none"
        reason = explain_no_gpu() if not visible else None
        raise BadVariable(
            f"GPUS names GPU {missing[0]}, but this machine shows {there}; "
            f"{f'{reason}; ' if reason else ''}"
            "set GPUS to what is there, or GPUS=none for the CPU"
        )
    if not chosen:
        return ["cpu"] * (workers or count_cores())
    return [f"cuda:{chosen[index % len(chosen)]}" for index in range(workers or len(chosen))]


def count_useful(run: StudyRun, *, ended: int, top: int) -> int:
    """Return how many workers have something to do at once, >= 1; more would only wait.

    ended: trials that have ended; top: how many of the best are retrained here
    """
    left = run.trials - ended
    retrained = top * min(FIRST, run.seeds)
    return max(min(left, run.shown or left), retrained, 1)


def count_gpus() -> int:
    """Count the GPUs that a process can use.

    CUDA itself is asked. `torch.cuda.device_count` asks the driver (NVML), which also counts what
    CUDA does not show: where a GPU is cut up (MIG), a process sees one part, and no GPU beside it.
    """
    return torch._C._cuda_getDeviceCount() if torch.cuda.is_available() else 0


def explain_no_gpu() -> str | None:
    """Return why PyTorch shows no GPU of a machine that has one; None where there is none."""
    if not any(DEVICES.glob("nvidia[0-9]*")):
        return None
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return f"CUDA_VISIBLE_DEVICES={short(repr(chosen))} shows none of this machine's GPUs"
    return "this machine has an NVIDIA GPU that PyTorch cannot use (is its driver too old?)"


def count_cores() -> int:
    """Count the CPU cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        return os.cpu_count() or 1
