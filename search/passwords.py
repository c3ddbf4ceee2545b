"""A password in STORAGE stays out of process lists, and out of the environment of other processes.

    hide_password()                    # the first thing that a command does
    with received_storage():           # then
        with_storage(os.environ)       # what the environment was

`ps` shows everybody the words of a command line, and a child process inherits the environment. So
a command that finds a password in either writes the address into a pipe, and starts itself anew, in
the same process, with ``STORAGE=fd:3`` instead. It warns of one on the command line: there a shell
keeps it in its history, and make shows it as long as it runs.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

NAME = "STORAGE"
PIPED = "fd:"  # what STORAGE begins with where a pipe holds it
REPEATS = ("MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES")  # where make repeats its command line
LONGEST = 4096  # bytes that a pipe takes at once
WARNING = (
    "warning: STORAGE on the command line holds a password, which ps shows to everybody on this "
    "machine; leave it to ~/.pgpass, or give the address as a file that only you can read: "
    "STORAGE=file:PATH"
)

_received: list[str] = []


def holds_password(address: str) -> bool:
    """Whether an address seems to hold a password; it need not be a right one."""
    kind, _, rest = address.partition(":")
    if kind == "sqlite":
        return False
    of_user = re.match("[^@?]*:[^@]*@", rest.lstrip("/"))
    return bool(of_user or re.search(r"password\s*=", address, re.IGNORECASE))


def hide_password() -> None:
    """Start this process anew if its command line or its environment holds a password."""
    word = next((word for word in sys.orig_argv[1:] if word.startswith(f"{NAME}=")), None)
    address = os.environ.get(NAME, "") if word is None else word.partition("=")[2]
    if not holds_password(address) or len(os.fsencode(address)) > LONGEST:
        return
    if word is not None or NAME in os.environ.get("GENSTUDY_GIVEN", "").split():
        print(WARNING, file=sys.stderr, flush=True)
    read, write = os.pipe()
    os.write(write, os.fsencode(address))
    os.close(write)
    os.set_inheritable(read, True)
    piped = f"{PIPED}{read}"
    words = [f"{NAME}={piped}" if given == word else given for given in sys.orig_argv[1:]]
    environment = {n: v for n, v in os.environ.items() if n not in (NAME, *REPEATS)}
    if word is None:
        environment[NAME] = piped
    os.execve(sys.executable, [sys.executable, *words], environment)


@contextmanager
def received_storage() -> Iterator[None]:
    """Take STORAGE out of the environment, which child processes inherit, while a command runs."""
    given = os.environ.pop(NAME, None)
    _received[:] = [] if given is None else [_read_pipe(given)]
    try:
        yield
    finally:
        if given is not None:
            os.environ[NAME] = _received[0]
        _received.clear()


def _read_pipe(address: str) -> str:
    number = address.removeprefix(PIPED)
    if number == address or not number.isdigit():
        return address
    try:
        with open(int(number), encoding="utf-8", errors="surrogateescape") as pipe:  # noqa: PTH123
            return pipe.read()
    except OSError:
        return address  # nobody has piped anything: it is no address


def with_storage(given: Mapping[str, str]) -> Mapping[str, str]:
    """Return the environment ``given`` with the STORAGE that was taken out of it."""
    return {**given, NAME: _received[0]} if _received else given
