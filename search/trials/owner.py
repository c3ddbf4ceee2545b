"""Who a process is, over all machines, and whether it is gone."""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path

import psutil


def owner_name(pid: int) -> str:
    """Return a process's name in leases: machine, process and its start.

    A process number alone comes back after a restart.
    """
    return f"{machine_name()}:{pid}:{_start_of(pid)}"


def machine_name() -> str:
    """Return host, boot and process namespace: two containers may share a host's name."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text()[:8])
        parts.append(str(Path("/proc/self/ns/pid").stat().st_ino))
    return "-".join(parts)


def is_gone(owner: str) -> bool:
    """Whether the holder of a lease ran on this machine and does not any more."""
    machine, pid, started = owner.rsplit(":", 2)
    if machine != machine_name():
        return False  # another machine's workers are judged by their grace period alone
    try:
        return str(_start_of(int(pid))) != started
    except psutil.NoSuchProcess:
        return True


def _start_of(pid: int) -> int:
    """Return when a process began, by the kernel's own count where there is one: clocks are set.

    Raises `psutil.NoSuchProcess`.
    """
    try:
        status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        process = psutil.Process(pid)  # no /proc on this system, or no such process
        return int(process.create_time())
    if status[0] == "Z":
        raise psutil.NoSuchProcess(pid)
    return int(status[19])
