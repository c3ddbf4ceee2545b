"""What is secret in STORAGE, WARM and NOTIFY stays out of process lists and other environments.

    hide_password()                    # the first thing that a command does
    with received_storage():           # then
        with_storage(os.environ)       # what the environment was

`ps` shows everybody the words of a command line, and a child process inherits the environment. So
a command that finds a secret in one writes the address into a pipe, and starts itself anew, in
the same process, with ``STORAGE=fd:3`` instead. It warns of one on the command line: there a shell
keeps it in its history, and make shows it as long as it runs. Of STORAGE and WARM a password is
secret; of NOTIFY all that follows the host may be.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

PIPED = "fd:"  # what an address begins with where a pipe holds it
REPEATS = ("MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES")  # where make repeats its command line
LONGEST = 4096  # bytes that a pipe takes at once
WARNINGS = {
    "STORAGE": "warning: STORAGE on the command line holds a password, which ps shows to everybody "
    "on this machine; leave it to ~/.pgpass, or give the address as a file that only you can read: "
    "STORAGE=file:PATH",
    "WARM": "warning: WARM on the command line holds a password, which ps shows to everybody on "
    "this machine; leave it to ~/.pgpass, or give the address as a file that only you can read: "
    "WARM=file:PATH#STUDY",
    "NOTIFY": "warning: NOTIFY on the command line holds an address that may be secret, which ps "
    "shows to everybody on this machine; give it as a file that only you can read: "
    "NOTIFY=file:PATH",
}

_received: dict[str, str] = {}


def holds_password(address: str) -> bool:
    """Whether an address seems to hold a password; it need not be a right one."""
    kind, _, rest = address.partition(":")
    if kind == "sqlite":
        return False
    of_user = re.match("[^@?]*:[^@]*@", rest.lstrip("/"))
    return bool(of_user or re.search(r"password\s*=", address, re.IGNORECASE))


def names_password(written: str) -> bool:
    """Whether one of several addresses, which commas separate, seems to hold a password."""
    return bool(re.search(r"postgres[^:,]*://[^@?/]*:[^@]*@|password\s*=", written, re.IGNORECASE))


def holds_path(address: str) -> bool:
    """Whether an address names more than a host, which may be secret."""
    found = re.match(r"https?://[^/?#@]*(.*)", address.strip(), re.IGNORECASE)
    return found is not None and found[1] not in ("", "/")


HOLDS_SECRET = {"STORAGE": holds_password, "WARM": names_password, "NOTIFY": holds_path}


def hide_password() -> None:
    """Start this process anew if its command line or its environment holds a secret."""
    words, environment = sys.orig_argv[1:], dict(os.environ)
    found = [name for name in HOLDS_SECRET if _hide(name, words, environment)]
    if not found:
        return
    for name in REPEATS:
        environment.pop(name, None)
    os.execve(sys.executable, [sys.executable, *words], environment)


def _hide(name: str, words: list[str], environment: dict[str, str]) -> bool:
    """Put an address into a pipe, in ``words`` and ``environment``, if it holds a secret."""
    place = next((i for i, word in enumerate(words) if word.startswith(f"{name}=")), None)
    address = environment.get(name, "") if place is None else words[place].partition("=")[2]
    if not HOLDS_SECRET[name](address) or len(os.fsencode(address)) > LONGEST:
        return False
    if place is not None or name in environment.get("GENSTUDY_GIVEN", "").split():
        print(WARNINGS[name], file=sys.stderr, flush=True)
    read, write = os.pipe()
    os.write(write, os.fsencode(address))
    os.close(write)
    os.set_inheritable(read, True)
    environment.pop(name, None)
    if place is None:
        environment[name] = f"{PIPED}{read}"
    else:
        words[place] = f"{name}={PIPED}{read}"
    return True


@contextmanager
def received_storage() -> Iterator[None]:
    """Take the addresses out of the environment, which child processes inherit, while a command
    runs."""
    given = {name: os.environ.pop(name) for name in HOLDS_SECRET if name in os.environ}
    _received.clear()
    _received.update({name: _read_pipe(address) for name, address in given.items()})
    try:
        yield
    finally:
        os.environ.update(_received)
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
    """Return the environment ``given`` with the addresses that were taken out of it."""
    return {**given, **_received} if _received else given
