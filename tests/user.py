"""A user of genstudy for tests: runs commands as make does, watches, kills and waits."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from storage import curves

ROOT = Path(__file__).parent.parent


WriteStudy = Callable[..., Path]


LONGER = {"epochs=2, retrain": "epochs=40, retrain"}


# Seconds instead of a minute of grace, for the processes of one test: set as they import it.
SHORT_LEASES = """
import importlib.abc, importlib.util, sys

class Quick(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name not in ("storage.database.leases", "search.supervisor.loop"):
            return None
        sys.meta_path.remove(self)
        try:
            found = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        run = found.loader.exec_module

        def exec_module(module):
            run(module)
            for key, value in {"GRACE": 3.0, "RENEWAL": 0.5, "LINGER": 2.0}.items():
                if hasattr(module, key):
                    setattr(module, key, value)

        found.loader.exec_module = exec_module
        return found

sys.meta_path.insert(0, Quick())
"""


class User:
    """Runs commands with variables, as make does."""

    def __init__(self, runs: Path, environment: dict[str, str]) -> None:
        self.runs = runs
        self.environment = {**environment, "RUNS": str(runs), "GPUS": "none"}

    def start(self, command: str = "study", **variables: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "search", command],
            env={**self.environment, **{name: str(value) for name, value in variables.items()}},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            start_new_session=True,
        )

    def run(self, command: str = "study", **variables: object) -> tuple[int, str, str]:
        process = self.start(command, **variables)
        try:
            out, error = process.communicate(timeout=200)
        except subprocess.TimeoutExpired:
            kill_all(process)
            raise
        return process.returncode, out, error

    @property
    def url(self) -> str:
        return f"sqlite:///{self.runs / 'studies.db'}"


def kill_all(process: subprocess.Popen[str]) -> None:
    for child in [*workers_of(process), psutil.Process(process.pid)]:
        child.kill()
    process.communicate()


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return [
        child for child in psutil.Process(process.pid).children() if "worker" in child.cmdline()
    ]


@contextmanager
def watched(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """No process outlives its test."""
    family = psutil.Process(process.pid)
    known: list[psutil.Process] = []
    try:
        yield process
        known = family.children() if family.is_running() else []
    finally:
        for child in known:
            with_no_error(child.kill)
        if process.poll() is None:
            process.kill()
        process.communicate()


def with_no_error(action: Callable[[], object]) -> None:
    try:
        action()
    except psutil.NoSuchProcess:
        return


def wait_until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)


def make_leases_short(user: User) -> None:
    site = user.runs.parent / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SHORT_LEASES)
    user.environment["PYTHONPATH"] = str(site)


def one_line(text: str) -> bool:
    return text.count("\n") == 1 and text.startswith("error: ")


SLOW = """import time

    class Slow(CAE):
        def train_step(self, batch):
            time.sleep(SECONDS)
            return super().train_step(batch)

    """


def slow(seconds: float) -> dict[str, str]:
    """Replacements that make every step last so much longer."""
    code = SLOW.replace("SECONDS", str(seconds))
    return {"model=CAE,": "model=Slow,", "def suggest": code + "def suggest"}


def progress(url: str) -> Callable[[], int]:
    def epochs() -> int:
        try:
            return len(curves("small", storage=url))
        except Exception:
            return 0

    return epochs


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def get(url: str, seconds: float = 30.0) -> bytes:
    deadline = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                content: bytes = answer.read()
            return content
        except urllib.error.URLError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
