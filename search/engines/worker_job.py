"""A worker as a job of an engine: it runs `make worker` as a process of its own, and ends with it.

    job = WorkerJob(python=sys.executable, path=[...], folder="/home/me", variables={"NAME": "cae"})
    code = job()                 # on the machine that the engine has chosen
    job.checkpoint()             # submitit: the time is nearly over, or others need the machine

Only the standard library is used here: an engine ships this file to its machines.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

PATIENCE = 60.0  # seconds that a worker may take to give its trial back
TICK = 0.2  # seconds between two looks at a process
IN_JOB = "GENSTUDY_JOB"  # set for a worker that leaves when its input ends: the job is gone then
PROGRAM = (
    "import sys; sys.path[:] = sys.argv[2:]; "
    "from search.__main__ import main; sys.exit(main(sys.argv[1:2]))"
)


@dataclass
class WorkerJob:
    """All that a worker has to know, and no secret.

    python: the interpreter, which the machines share; path: where it imports from
    folder: in which it starts; variables: as make takes them
    dropped: names of the environment that a worker has no use for, and refuses
    """

    python: str
    path: Sequence[str]
    folder: str
    variables: Mapping[str, str]
    dropped: Sequence[str] = ()
    process: Any = field(default=None, compare=False)

    def __call__(self) -> int:
        """Run the worker to its end; returns its exit code."""
        self.process = self.begin()
        return self.wait()

    def wait(self) -> int:
        """Wait for the worker's end; returns its exit code."""
        try:
            while not self.has_ended():  # `Popen.wait` holds a lock that a signal's handler needs
                time.sleep(TICK)
            return int(self.process.wait())
        finally:  # the job was cancelled: the trial is given back
            if not self.has_ended():
                self.process.terminate()

    def has_ended(self) -> bool:
        """Whether the worker's process has ended. A handler of a signal may ask, too."""
        try:
            found = os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:  # it has, and that was heard already
            return True
        return found is not None

    def begin(self, **options: Any) -> subprocess.Popen[bytes]:
        """Start the worker's process."""
        given = {"GENSTUDY_GIVEN": " ".join(self.variables), IN_JOB: "1"}
        around = {name: text for name, text in os.environ.items() if name not in self.dropped}
        return subprocess.Popen(
            [self.python, "-P", "-u", "-c", PROGRAM, "worker", *self.path],
            env={**around, **self.variables, **given},
            cwd=self.folder,
            stdin=subprocess.PIPE,
            **options,
        )

    def leave(self) -> None:
        """Tell the worker to give its trial back, and wait until it has."""
        if self.process is None or self.has_ended():
            return
        os.kill(self.process.pid, signal.SIGUSR2)
        deadline = time.monotonic() + PATIENCE
        while not self.has_ended():
            if time.monotonic() > deadline:
                os.kill(self.process.pid, signal.SIGKILL)  # its trial goes on from its checkpoint
                return
            time.sleep(TICK)

    def checkpoint(self) -> Any:
        """Return what submitit submits again, once the trial is given back."""
        from submitit.helpers import DelayedSubmission

        self.leave()
        return DelayedSubmission(
            WorkerJob(
                python=self.python,
                path=self.path,
                folder=self.folder,
                variables=self.variables,
                dropped=self.dropped,
            )
        )


def run_job(job: WorkerJob) -> tuple[int, str]:
    """Run a worker to its end; returns its exit code, and the line of its error, if any."""
    with tempfile.TemporaryFile() as errors:
        job.process = job.begin(stderr=errors, stdout=subprocess.DEVNULL)
        code = job.wait()
        errors.seek(0)
        lines = errors.read().decode("utf-8", "replace").splitlines()
    found = [line for line in lines if line.startswith("error: ")]
    return code, found[-1].removeprefix("error: ") if found else ""
