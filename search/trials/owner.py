"""Who a process is, over all machines, and whether it is gone.

    owner = owner_name(pid)     # a word that no other process has, here or elsewhere
    hold_mark(owner)            # in that process: for as long as it lives
    is_gone(owner)              # in any other

An owner is a random identity. Names and numbers of machines and processes are not unique: clones of
a machine share its name, its boot and the numbers of its processes, and not every system tells one
boot from another. So no process concludes from something missing that a worker is dead.

A live process holds a lock on a file of its own, its mark, in the machine's folder for temporary
files. The system releases the lock when the process ends, however it ends. A process that finds the
mark without its lock knows that the owner is gone. The mark may be out of sight: on another
machine, in another container, for another user, or if /tmp was swept or is full. Then only the
silence of its lease tells that a worker is gone. So it is for containers that share RUNS but not
/tmp.
"""

from __future__ import annotations

import fcntl
import os
import re
import socket
import stat
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

BOOT = Path("/proc/sys/kernel/random/boot_id")
# Not where TMPDIR points to: a cluster's jobs have one each.
MARKS = Path("/tmp" if os.access("/tmp", os.W_OK) else tempfile.gettempdir())
NAME = "genstudy-process-"
OLD = 86400.0  # seconds: nobody asks for it any more
WORD = re.compile("[0-9a-f]{32}")  # an owner's name comes from a database: it leads nowhere else

_held: dict[str, int] = {}  # open files by owner


def owner_name(pid: int) -> str:
    """Return a new identity for process ``pid``, whose number is there for people to read."""
    return f"{machine_name()}:{pid}:{uuid4().hex}"


def machine_name() -> str:
    """Return a word for this machine since it was started; clones may share it."""
    with suppress(OSError):
        return BOOT.read_text().strip()
    return socket.gethostname()


def hold_mark(owner: str) -> None:
    """Show that ``owner``, this process, lives. On a full disk there is no mark."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with suppress(OSError):
        file = os.open(_mark_of(owner), flags, 0o644)
        _held[owner] = file
        fcntl.lockf(file, fcntl.LOCK_EX)


def forget_mark(owner: str) -> None:
    """Remove the mark of a process that is gone, or of this one."""
    with suppress(OSError):
        _mark_of(owner).unlink()
    if (file := _held.pop(owner, None)) is not None:
        os.close(file)


def sweep_marks() -> None:
    """Remove the marks of processes that were killed long ago."""
    ours = {_mark_of(owner) for owner in _held}
    for path in MARKS.glob(f"{NAME}*"):
        with suppress(OSError):
            is_old = time.time() - path.lstat().st_mtime > OLD
            if is_old and path not in ours and _is_free(path):
                path.unlink()


def is_gone(owner: str) -> bool:
    """Whether the owner of a lease has certainly ended: its mark is here, and is not locked."""
    here = owner.startswith(f"{machine_name()}:")
    if not here or owner in _held or not WORD.fullmatch(_word_of(owner)):
        return False
    try:
        return _is_free(_mark_of(owner))
    except OSError:  # not here, or not ours to see
        return False


def _word_of(owner: str) -> str:
    return owner.rpartition(":")[2]


def _mark_of(owner: str) -> Path:
    return MARKS / f"{NAME}{_word_of(owner)}"


def _is_free(path: Path) -> bool:
    """Whether a mark that this user has made is not locked. Raises `OSError`."""
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        found = os.fstat(file)
        if found.st_uid != os.getuid() or not stat.S_ISREG(found.st_mode):
            return False  # anybody may write there
        fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two may look at once
    except BlockingIOError:
        return False
    finally:
        os.close(file)
    return True
