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
from tests.preloaded import Preloaded

ROOT = Path(__file__).parent.parent


WriteStudy = Callable[..., Path]


LONG = 25  # epochs
LONGER = {"epochs=2, retrain": f"epochs={LONG}, retrain"}


# Constants of genstudy that have other values in the processes of one test.
CONSTANTS = """
import sys

for name, module in list(sys.modules.items()):
    if name.startswith(("search.", "storage.")):
        for key, value in {values}.items():
            if hasattr(module, key):
                setattr(module, key, value)
"""


class User:
    """Runs commands with variables, as make does.

    One seed for each retraining is enough where the point is another; SEEDS=3 asks for more.
    preloaded: what forks them; None: each is a new interpreter
    first, before: programs that each command runs before all else, where they are forked
    deaths: workers of a study that may die before further ones cost the start of an interpreter
    """

    def __init__(
        self,
        runs: Path,
        environment: dict[str, str],
        preloaded: Preloaded | None = None,
        first: str = "",
    ) -> None:
        self.runs = runs
        self.preloaded = preloaded
        self.first = first
        self.before, self.deaths = "", 1
        self.environment = {**environment, "RUNS": str(runs), "GPUS": "none", "SEEDS": "1"}

    def start(self, command: str = "study", **variables: object) -> subprocess.Popen[str]:
        given = {name: str(value) for name, value in variables.items()}
        if self.preloaded is not None:
            environment = {**self.environment, **given}
            return self.preloaded.start(command, environment, self.first + self.before, self.deaths)
        return subprocess.Popen(
            [sys.executable, "-m", "search", command],
            env={**self.environment, **given},
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

    def with_other_runs(self, name: str) -> User:
        """The same user with another folder RUNS, beside this one."""
        return User(self.runs.with_name(name), self.environment, self.preloaded, self.first)

    @property
    def url(self) -> str:
        return f"sqlite:///{self.runs / 'studies.db'}"


def kill_all(process: subprocess.Popen[str]) -> None:
    for child in [*workers_of(process), psutil.Process(process.pid)]:
        child.kill()
    process.communicate()


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process(process.pid).children()
        if "trainer" in (child.name(), *child.cmdline())
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


def set_constants(user: User, **values: float) -> None:
    assert user.preloaded is not None, "a new interpreter has the constants of the source"
    user.before = CONSTANTS.format(values=values)


def limit_files(size: int) -> str:
    """Return a program for `User.before`: no file of its processes gets larger."""
    return f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))"


def make_leases_short(user: User) -> None:
    """Seconds instead of a minute of grace."""
    set_constants(user, GRACE=3.0, RENEWAL=0.5, SECOND_LOOK=1.0, LINGER=2.0)


def is_error_line(text: str) -> bool:
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


HOLD = """
import sys, time
from search.trials.owner import hold_mark

hold_mark(sys.argv[1])
print("held", flush=True)
time.sleep(60)
"""


@contextmanager
def living(owner: str, preloaded: Preloaded) -> Iterator[None]:
    """A process that is ``owner``, as its leases have it; afterwards it is killed."""
    process = preloaded.run_program(HOLD, owner)
    assert process.stdout is not None
    process.stdout.readline()
    try:
        yield
    finally:
        process.kill()
        process.communicate()


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
