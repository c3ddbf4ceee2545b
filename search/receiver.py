"""The receiver of messages about a study: a URL that takes JSON by POST, or a command that reads
it.

    receiver = parse_receiver("https://hooks.example/T0/B1")     # or "file:PATH", which holds it
    receiver.deliver({"event": "done", "text": "..."})           # raises `NotDelivered`
    receiver.shown                                               # "hooks.example": no secret

A command reads one line of JSON, so that `cat >> heard` keeps a message a line.

A URL may hold a secret anywhere after its host. So only the host is ever shown, stored or passed
on. The shell runs a command, with the JSON on its standard input. Process lists show the words of a
command, so a secret belongs in a file that it reads.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from search.errors import BadVariable, SearchError
from storage.errors import short

TIMEOUT = 10.0  # seconds that a receiver may take
FILE = "file:"
OTHERS = 0o077  # bits of a file that others may use
LATER = (429, 503)  # answers of a server that takes nothing now


class NotDelivered(SearchError):
    """A receiver has not taken a message; the error's text holds no secret.

    may_repeat: whether the receiver certainly got nothing
    """

    def __init__(self, reason: str, *, may_repeat: bool = False) -> None:
        super().__init__(reason)
        self.may_repeat = may_repeat


@dataclass(frozen=True, kw_only=True)
class Receiver:
    """url: where JSON is sent; command: of the shell, which reads it; one of them is given

    Neither stands in what Python prints of this object.
    """

    url: str | None = field(default=None, repr=False)
    command: str | None = field(default=None, repr=False)

    @property
    def shown(self) -> str:
        """The host of the URL, or the first word of the command."""
        if self.url is not None:
            return urlsplit(self.url).hostname or "?"
        try:
            words = shlex.split(self.command or "")
        except ValueError:
            words = []
        return short(Path(words[0]).name) if words else "the command"

    def deliver(self, message: Mapping[str, Any], timeout: float = TIMEOUT) -> None:
        """Send a message; raises `NotDelivered`. timeout: in seconds"""
        content = json.dumps(message, ensure_ascii=False, allow_nan=False).encode()
        if self.url is not None:
            self._post(self.url, content, timeout)
        else:
            self._run(self.command or "", content, timeout)

    def _post(self, url: str, content: bytes, timeout: float) -> None:
        headers = {"Content-Type": "application/json", "User-Agent": "genstudy"}
        request = urllib.request.Request(url, content, headers, method="POST")
        opener = urllib.request.build_opener(_NoRedirect)
        try:
            with opener.open(request, timeout=timeout):
                pass
        except urllib.error.HTTPError as error:
            error.close()
            raise NotDelivered(f"it answers {error.code}", may_repeat=error.code in LATER) from None
        except TimeoutError:
            raise NotDelivered(f"no answer in {timeout:g} s") from None
        except urllib.error.URLError as error:
            refused = isinstance(error.reason, ConnectionRefusedError | socket.gaierror)
            if isinstance(error.reason, TimeoutError):
                raise NotDelivered(f"no answer in {timeout:g} s") from None
            why = getattr(error.reason, "strerror", None) or type(error.reason).__name__
            raise NotDelivered(f"it cannot be reached ({why})", may_repeat=refused) from None
        except Exception as error:  # what it says may hold the address
            raise NotDelivered(f"the connection failed ({type(error).__name__})") from None

    def _run(self, command: str, content: bytes, timeout: float) -> None:
        process = subprocess.Popen(
            command,
            shell=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            process.communicate(content + b"\n", timeout)  # a line each in a file that grows
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # the shell, and what it has started
            process.communicate()
            raise NotDelivered(f"it has not ended after {timeout:g} s") from None
        if process.returncode:
            raise NotDelivered(f"it ended with code {process.returncode}")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A message goes to the address that was given, and to no other."""

    def redirect_request(self, *_: Any) -> None:
        return None


def parse_receiver(written: str) -> Receiver:
    """Return the receiver that NOTIFY names; raises `BadVariable` without what is written there."""
    text = _read_file(written.removeprefix(FILE)) if written.startswith(FILE) else written
    kind, colon, _ = text.partition("://")
    if not colon or any(letter.isspace() for letter in kind):
        return Receiver(command=text)
    if kind.lower() not in ("http", "https"):
        raise BadVariable(
            f"NOTIFY begins with {short(kind)}://, which takes no JSON; give an address that "
            "begins with https:// or http://, or a command"
        )
    try:
        place = urlsplit(text)
        is_sound = bool(place.hostname) and (place.port is None or place.port > 0)
    except ValueError:
        is_sound = False
    if not is_sound or not text.isascii() or not text.isprintable() or " " in text:
        raise BadVariable("NOTIFY is no address such as https://host/path, without blanks in it")
    return Receiver(url=text)


def _read_file(name: str) -> str:
    """Return the one line of a file that only its owner reads."""
    path = Path(name).expanduser()
    try:
        mode, held = path.stat().st_mode, path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError, RuntimeError) as error:
        why = getattr(error, "strerror", None) or type(error).__name__
        raise BadVariable(
            f"cannot read NOTIFY={short(FILE + name)} ({why}); name a file that holds the address"
        ) from error
    if mode & OTHERS:
        raise BadVariable(
            f"NOTIFY={short(FILE + name)} may be read by others; keep it to yourself: "
            f"chmod 600 {short(str(path))}"
        )
    if not held or "\n" in held or held.startswith(FILE):
        raise BadVariable(f"NOTIFY={short(FILE + name)} is no file of one line, the address")
    return held
