"""What a command needs around it before it can work: files to print to, names, room for libraries.

    use_utf8()                # file names and variables are read as UTF-8 also where LC_ALL=C
    open_standard_files()     # those that the caller has closed
    check_room("search.worker.main")      # a limit on memory that holds no PyTorch is one line
    explain_shortage(error)   # the line for an error that such a limit causes

Nothing here imports a library: a limit that is too small would be met at once.
"""

from __future__ import annotations

import codecs
import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

from search.errors import SearchError
from storage.errors import causes_of

PATIENCE = 60.0  # seconds for imports: under a limit OpenBLAS may wait for memory for ever
GIBIBYTE = 2**30
# What an import says that finds no room, beside MemoryError.
NO_ROOM = ("failed to map segment", "cannot allocate memory", "without setting an exception")


class TooLittleMemory(SearchError):
    """The shell's limit on memory does not hold the libraries; the message says how to lift it."""


def use_utf8() -> None:
    """Begin this process anew in Python's UTF-8 mode where it reads names of files as ASCII.

    Python does so by itself in the C locale, unless PYTHONUTF8=0 forbids it. In ASCII the name of
    a folder such as ``résultats`` would be no text at all.
    """
    if codecs.lookup(sys.getfilesystemencoding()).name == "ascii":
        words = [sys.executable, "-X", "utf8", *sys.orig_argv[1:]]
        os.execve(sys.executable, words, {**os.environ, "PYTHONUTF8": "1"})


def open_standard_files() -> None:
    """Open those of the three standard files on nothing that the caller has closed.

    Otherwise the next file that is opened, a database for example, would be standard output.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it gets the lowest number that is free: this one
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115


def check_room(*modules: str) -> None:
    """Raise `TooLittleMemory` if a limit on this process's memory does not hold ``modules``.

    A process of its own imports them: under a limit some libraries do not fail, but wait for ever.
    Without a limit nothing is tried.
    """
    if memory_limit() is None:
        return
    program = f"import sys; sys.path[:] = sys.argv[1:]; import {', '.join(modules)}"
    places = [str(Path(entry).absolute()) for entry in sys.path]
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", program, *places],
            capture_output=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
        has_room = done.returncode == 0
    except (subprocess.TimeoutExpired, OSError, MemoryError):
        has_room = False
    if not has_room:
        raise TooLittleMemory(_refuse())


def explain_shortage(error: BaseException) -> str | None:
    """Return the line for an error that a limit on memory causes; None for any other."""
    if memory_limit() is None:
        return None
    for cause in causes_of(error):
        is_shortage = isinstance(cause, MemoryError) or any(
            words in str(cause).lower() for words in NO_ROOM
        )
        if is_shortage or (isinstance(cause, OSError) and cause.errno == errno.ENOMEM):
            return _refuse()
    return None


def memory_limit() -> int | None:
    """Return how many bytes of addresses this process may use; None: as many as it likes."""
    limit: int = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def _refuse() -> str:
    limit = memory_limit() or 0
    return (
        f"this shell limits the memory of a process to {limit / GIBIBYTE:.2g} GiB (ulimit -v), "
        "which does not hold genstudy's libraries; lift it with: ulimit -v unlimited (MEMORY= "
        "limits what a worker takes)"
    )
