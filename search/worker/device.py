"""A worker's device: how it is prepared, what memory may be taken of it, what was taken.

    limit_memory("cpu", 2.0, before=taken_memory("cpu"))     # GiB
    memory = TrialMemory("cpu", before=taken)
    memory.peak_mebibytes()

On a CPU the limit is on the process's data (Linux's RLIMIT_DATA): an allocation beyond it is
refused, which ends the trial as infeasible, where the kernel would have killed the worker.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil
import torch

from search.errors import BadVariable

GIBIBYTE = 2**30
OWN_CONTEXT = 768 * 2**20  # bytes that this process takes on a GPU beside its tensors, at most
TO_TRAIN = 2**28  # bytes: what compiled kernels and a model of the smallest size take
CGROUPS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


class GpuMemory(NamedTuple):
    """Bytes: free on the GPU, and the most that this process took there."""

    free: int
    peak: int


def limit_memory(device: str, gibibytes: float | None, *, before: int) -> None:
    """Let this process take no more than ``gibibytes`` from now on.

    gibibytes: None: all that there is; before: bytes taken before the first trial

    Raises `BadVariable` for less than is needed.
    """
    if device.startswith("cuda"):
        if gibibytes is not None:
            total = torch.cuda.mem_get_info(device)[1]
            torch.cuda.set_per_process_memory_fraction(
                min(1.0, gibibytes * GIBIBYTE / total), device
            )
    elif sys.platform == "linux":
        wanted = _machine_bytes() if gibibytes is None else int(gibibytes * GIBIBYTE)
        least = before + TO_TRAIN
        if gibibytes is not None and wanted < least:
            raise BadVariable(
                f"MEMORY={gibibytes:g} is too little: a worker takes {least / GIBIBYTE:.1f} GiB "
                "before its first trial; set MEMORY to that and what the models need"
            )
        _set_limit(wanted)
    elif gibibytes is not None:
        raise BadVariable("MEMORY cannot be held to on this system; leave it unset")


def lift_limit(device: str) -> None:
    """Lift the limit, for an export or for saying that memory ran out."""
    if sys.platform == "linux" and not device.startswith("cuda"):
        _set_limit(None)


def memory_budget(device: str) -> float:
    """Return the bytes that a trial can have: of the GPU, or of what this process may take."""
    if device.startswith("cuda"):
        share = torch.cuda.get_per_process_memory_fraction(device)
        return share * float(torch.cuda.mem_get_info(device)[1])
    limits = [_machine_bytes()]
    with suppress(ImportError):  # not on Windows
        import resource

        for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
            soft, _ = resource.getrlimit(kind)
            if soft != resource.RLIM_INFINITY:
                limits.append(soft)
    return float(min(limits))


def held_by_others(device: str) -> int:
    """Return the bytes of a GPU that other processes hold; 0 for a CPU."""
    if not device.startswith("cuda"):
        return 0
    free, total = torch.cuda.mem_get_info(device)
    return max(0, total - free - torch.cuda.memory_reserved(device) - OWN_CONTEXT)


def taken_memory(device: str) -> int:
    """Return the bytes that count against the budget by now.

    On a GPU, the most since the last `forget_peak`.
    """
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    return _status_bytes("VmData") or int(psutil.Process().memory_info().rss)


def forget_peak(device: str) -> None:
    """Measure the most that is taken from now on."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):  # Linux can forget a peak; elsewhere it is the whole life's
            Path("/proc/self/clear_refs").write_text("5")


class TrialMemory:
    """The memory of one trial, measured from when this is made.

    before: bytes that the process took before its first trial; 0: unknown
    """

    def __init__(self, device: str, *, before: int) -> None:
        self.device = device
        forget_peak(device)  # at first: the peak of the trial before is not left behind
        # bytes that earlier trials of this process have taken and not given back
        self.left_behind = max(0, taken_memory(device) - before) if before else 0

    def peak_mebibytes(self) -> float:
        """Return the most that was taken, in MiB: of the GPU, or by this process on a CPU."""
        if self.device.startswith("cuda"):
            peak = torch.cuda.max_memory_allocated(self.device)
        else:
            peak = _status_bytes("VmHWM") or int(psutil.Process().memory_info().rss)
        return round(peak / 2**20, 1)

    def taken_by_trial(self) -> int:
        """Return the bytes that count against the budget, without what earlier trials left."""
        return taken_memory(self.device) - self.left_behind


def _machine_bytes() -> int:
    """Return the bytes that this machine has, or its container may have, swap included."""
    limits = [psutil.virtual_memory().total + psutil.swap_memory().total]
    for path in CGROUPS:
        with suppress(OSError, ValueError):  # "max" where there is no limit
            limits.append(int(path.read_text()))
    return int(min(limits))


def _set_limit(size: int | None) -> None:
    """Set a soft limit, never above what the caller of the run has set.

    size: bytes; None: up to the hard limit
    """
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if size is None:
        soft = hard
    else:
        soft = min(limit for limit in (size, soft, hard) if limit != resource.RLIM_INFINITY)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _status_bytes(name: str) -> int:
    """Return the kernel's count ``name`` for this process, in bytes; 0 where it does not tell."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return 0


def use_device(device: str, *, fuses: bool = False) -> str:
    """Prepare this process to train on ``device``; returns its name for the record.

    fuses: whether trials may be trained together, which must not change their values
    """
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
        # gradients of convolutions would else be summed in another order each time
        torch.backends.cudnn.deterministic = True
        if fuses:  # PyTorch lets convolutions round to TF32, and not the products of several models
            torch.backends.cudnn.allow_tf32 = False
        return f"{device} ({torch.cuda.get_device_name(device)})"
    torch.set_num_threads(1)
    return device


def gpu_memory(device: str) -> GpuMemory | None:
    """Return what is free on a GPU and what this process took there at most; None for a CPU."""
    if not device.startswith("cuda"):
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return GpuMemory(free=free, peak=torch.cuda.max_memory_reserved(device))
