"""Names of files that are being written, and the removal of those whose writer was killed.

    path.with_name(temporary_name(path.name))       # .weights.safetensors.0a1b...
    remove_left_behind(paths.checkpoints("cae"))    # what killed processes have left

A name ends with 32 hexadecimal digits: eight tell the machine, eight the process, the others are
random. A process of this machine that is gone writes no more. Of other machines nothing is known:
what they have left goes when nobody has changed it for a day.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import socket
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

TEMPORARY = re.compile(
    r"\..+\.(?P<machine>[0-9a-f]{8})(?P<process>[0-9a-f]{8})[0-9a-f]{16}(\.old)?"
)
LEFT_FOR = 24 * 3600.0  # seconds without a change


def temporary_name(name: str) -> str:
    """Return a name of its own for what becomes ``name``."""
    return f".{name}.{machine_digits()}{os.getpid():08x}{secrets.token_hex(8)}"


def remove_left_behind(folder: Path) -> int:
    """Remove what killed processes have left in ``folder``; return how many files that were."""
    removed = 0
    with suppress(OSError):  # a folder that is not there, or not ours
        for path in folder.iterdir():
            if is_left_behind(path):
                _remove(path)
                removed += 1
    return removed


def is_left_behind(path: Path) -> bool:
    """Whether ``path`` has a temporary name, and nobody writes to it any more."""
    found = TEMPORARY.fullmatch(path.name)
    if found is None:
        return False
    if found["machine"] == machine_digits():
        return not _is_alive(int(found["process"], 16))
    try:
        return time.time() - _last_change(path) > LEFT_FOR
    except OSError:
        return False  # it just got its name


@cache
def machine_digits() -> str:
    """Return eight digits of this machine since it was started; a container has its own.

    Where the system does not tell, they are random: a host's name may be that of another one, too.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        names = Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return secrets.token_hex(4)
    return hashlib.sha256(f"{socket.gethostname()}|{boot}|{names}".encode()).hexdigest()[:8]


def _is_alive(process: int) -> bool:
    """Whether a process of this machine runs."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True  # somebody else's
    return True


def _last_change(path: Path) -> float:
    """Return when a file, or anything in a folder, was last changed."""
    inside = [*path.iterdir()] if path.is_dir() and not path.is_symlink() else []
    return max([entry.lstat().st_mtime for entry in (path, *inside)])


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
