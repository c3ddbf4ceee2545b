"""Engines: workers as processes, Slurm jobs or tasks of Ray; what each refuses, and who replaces
the dead.

A cluster is not at hand here. What submitit and Ray are asked for is tested against stand-ins; the
study that an engine runs is a real one, with ENGINE=local.
"""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from search.engines import following, launch, slurm
from search.engines.engine import EngineFailed, Job, last_error
from search.engines.following import MOST_DEATHS, FollowingSupervisor
from search.engines.launch import check_secrets, own_place
from search.engines.local import LocalEngine
from search.engines.ray import read_resources
from search.engines.slurm import SlurmEngine, check_slurm
from search.engines.worker_job import IN_JOB, WorkerJob, run_job
from search.errors import BadVariable
from search.interrupts import TRY_AGAIN
from search.variables import read_variables
from storage import trials
from tests.user import User, WriteStudy, wait_until

FEW_DIGITS = True

# ---- what is refused ----


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"ENGINE": "slrum"}, "did you mean 'slurm'?"),
        ({"JOBS": 3}, "JOBS is given without an ENGINE that takes it"),
        ({"SLURM": "time=3"}, "SLURM is given without an ENGINE that takes it: add ENGINE=slurm"),
        ({"ENGINE": "slurm", "SLURM": "gpu"}, "'gpu' is no option=value"),
        ({"ENGINE": "slurm", "SLURM": "time=1,time=2"}, "gives time twice"),
        ({"ENGINE": "slurm", "SLURM": "time=2h"}, "time=2h is not a whole number above 0"),
        ({"ENGINE": "slurm", "SLURM": "cluster=pbs"}, "cluster=pbs is neither slurm nor local"),
        ({"ENGINE": "ray", "RAY": "gpus=1"}, "unknown option 'gpus'; did you mean 'num_gpus'?"),
        ({"ENGINE": "ray", "RAY": "num_gpus=half"}, "num_gpus=half is no number"),
    ],
)
def test_a_mistake_in_an_engines_variables_is_one_line(
    refused: Callable[..., str], variables: dict[str, object], said: str
) -> None:
    assert said in refused(NAME="cae", **variables)


@pytest.mark.parametrize(("engine", "package"), [("slurm", "submitit"), ("ray", "ray")])
def test_a_missing_package_is_named_with_its_extra(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, engine: str, package: str
) -> None:
    monkeypatch.setattr(f"search.engines.{engine}.find_spec", lambda name: None)
    said = refused(NAME="cae", ENGINE=engine)
    assert f"needs {'Ray' if engine == 'ray' else package}, which is not installed" in said
    assert f"pip install 'genstudy[{engine}]'" in said


@pytest.fixture
def with_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    """submitit and sbatch seem to be there."""
    monkeypatch.setattr(slurm, "find_spec", lambda name: name)
    monkeypatch.setattr("search.engines.slurm.shutil.which", lambda name: f"/usr/bin/{name}")


def test_without_sbatch_no_job_is_submitted(
    refused: Callable[..., str], with_slurm: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.engines.slurm.shutil.which", lambda name: None)
    assert "needs sbatch, which is not on PATH" in refused(NAME="cae", ENGINE="slurm")
    check_slurm({"cluster": "local"})


def test_what_other_machines_do_not_see_is_refused(
    refused: Callable[..., str],
    with_slurm: None,
    monkeypatch: pytest.MonkeyPatch,
    study_file: WriteStudy,
) -> None:
    given = {"NAME": "cae", "ENGINE": "slurm"}
    assert "SQLite is a file of this one" in refused(**given)
    given["STORAGE"] = "postgresql://me@db/x"
    assert "is under /tmp, which other machines do not see" in refused(**given, RUNS="/tmp/runs")
    monkeypatch.setattr(launch, "ROOT", Path("/home/me/genstudy"))
    given["RUNS"] = "/home/me/runs"
    for variables, said in (
        ({"DATA": "folder:/tmp/pets"}, "DATA=/tmp/pets is under /tmp"),
        (
            {"DATA": "mnist", "DATA_ROOT": "/dev/shm/data"},
            "DATA_ROOT=/dev/shm/data is under /dev/shm",
        ),
        ({"NAME": study_file(), "DATA": "digits"}, "NAME="),
        ({"FILES": "/var/tmp/f", "DATA": "digits"}, "FILES=/var/tmp/f is under /var/tmp"),
    ):
        assert said in refused(**{**given, **variables})


def test_a_place_in_memory_is_a_machines_own(tmp_path: Path) -> None:
    mounts = {"/": "ext4", "/mnt/ram": "tmpfs", "/mnt/ram/nfs": "nfs4", "/home": "nfs"}
    assert own_place(Path("/mnt/ram/runs"), mounts) == "in this machine's memory (tmpfs)"
    assert own_place(Path("/mnt/ram/nfs/runs"), mounts) is None
    assert own_place(Path("/home/me/runs"), mounts) is None
    assert own_place(Path("/tmp/runs"), mounts) == "under /tmp"
    assert own_place(Path("/tmpfiles/runs"), mounts) is None
    assert "/" in launch.read_mounts()


@pytest.mark.parametrize(
    ("typed", "environment", "said"),
    [
        ("postgresql://me:secret@db/x", {}, "STORAGE holds a password"),
        ("postgresql://db/x?password=secret", {}, "STORAGE holds a password"),
        ("postgresql://me@db/x", {"PGPASSWORD": "secret"}, "PGPASSWORD is in the environment"),
    ],
)
def test_no_password_goes_into_jobs(typed: str, environment: dict[str, str], said: str) -> None:
    with pytest.raises(BadVariable, match=said) as why:
        check_secrets("slurm", typed, environment)
    assert "secret" not in str(why.value)
    check_secrets("slurm", "file:~/.genstudy", {"PGPASSFILE": "/home/me/.pgpass"})


def test_a_job_is_told_places_and_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = tmp_path / "address"
    held.write_text("postgresql://me:secret@db/x")
    held.chmod(0o600)
    given = {"STORAGE": f"file:{held}", "RUNS": "/r", "GPUS": "0", "TRIALS": "9", "MEMORY": "2"}
    given["FUSE"] = "4"
    for name, text in given.items():
        monkeypatch.setenv(name, text)
    run = SimpleNamespace(
        name="cae", study="cae-digits", image_source={"name": "digits"}, inception=None
    )
    job = launch.make_job(read_variables(), cast(Any, run), f"file:{held}")
    assert job.variables == {
        "NAME": "cae-digits", "RUNS": "/r", "DATA": "digits", "GPUS": "0", "MEMORY": "2",
        "FUSE": "4", "DATA_ROOT": str(Path("data").absolute()), "STORAGE": f"file:{held}",
    }  # fmt: skip
    assert "secret" not in repr(job)
    assert {"TRIALS", "EPOCHS"} <= set(job.dropped)


# ---- a job ----


def a_job(program: str, **variables: str) -> WorkerJob:
    """A job whose worker runs another program."""
    job = WorkerJob(
        python=sys.executable, path=["search"], folder="/", variables=variables, dropped=["TRIALS"]
    )
    begin = subprocess.Popen

    def start(**options: Any) -> subprocess.Popen[bytes]:
        around = {n: t for n, t in os.environ.items() if n not in job.dropped}
        words = [sys.executable, "-c", program]
        return begin(words, env={**around, **variables}, stdin=subprocess.PIPE, **options)

    job.begin = start  # type: ignore[method-assign]
    return job


WAITS = """
import signal, sys, time
signal.signal(signal.SIGUSR2, lambda *_: sys.exit(75))
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
print("ready", flush=True)
time.sleep(60)
"""


def test_a_job_whose_time_is_over_gives_its_trial_back_first() -> None:
    job = a_job(WAITS)
    job.process = job.begin(stdout=subprocess.PIPE)
    assert job.process.stdout.readline() == b"ready\n"
    job.leave()
    assert job.process.wait(10) == TRY_AGAIN
    job.process.stdout.close()
    job.process.stdin.close()


def test_a_signal_that_comes_while_a_job_waits_is_heard() -> None:
    """submitit's handler runs in the middle of the job, and waits for the worker, too."""
    job = a_job(WAITS)
    before = signal.signal(signal.SIGALRM, lambda *_: job.leave())
    job.process = job.begin(stdout=subprocess.PIPE)
    job.process.stdout.readline()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        began = time.monotonic()
        assert job.wait() == TRY_AGAIN
        assert time.monotonic() - began < 20
    finally:
        signal.signal(signal.SIGALRM, before)
    job.process.stdout.close()
    job.process.stdin.close()


def test_a_job_says_how_its_worker_has_ended() -> None:
    bad = "import sys; print('Warning', file=sys.stderr); sys.exit('error: no such place')"
    job = a_job(bad)
    assert run_job(job) == (1, "no such place")
    job.process.stdin.close()
    assert last_error("a\nerror: one\nerror: two\nb") == "two"
    assert last_error("") == ""


def test_a_worker_of_a_job_drops_what_it_would_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def popen(words: list[str], **options: Any) -> Any:
        seen.update(options, words=words)
        return SimpleNamespace(wait=lambda: 0, pid=2**30)  # of no process

    monkeypatch.setattr(subprocess, "Popen", popen)
    monkeypatch.setenv("TRIALS", "9")
    job = WorkerJob(
        python="/py", path=["/code"], folder="/", variables={"NAME": "cae"}, dropped=["TRIALS"]
    )
    assert job() == 0
    assert seen["words"][-2:] == ["worker", "/code"]
    assert "TRIALS" not in seen["env"]
    assert (seen["env"]["NAME"], seen["env"]["GENSTUDY_GIVEN"]) == ("cae", "NAME")
    assert seen["env"][IN_JOB] == "1"


def test_local_jobs_end_with_their_engine(tmp_path: Path) -> None:
    engine = LocalEngine(a_job(WAITS), tmp_path / "jobs")
    engine.start(2)
    assert [job.is_alive for job in engine.alive()] == [True, True]
    wait_until(lambda: all(p.read_text() for p in (tmp_path / "jobs").iterdir()))
    engine.stop()
    assert [(job.is_alive, job.code) for job in engine.alive()] == [(False, TRY_AGAIN)] * 2


def test_ray_takes_a_gpu_where_there_is_one() -> None:
    assert read_resources({}, has_gpus=False) == {"num_cpus": 1.0, "num_gpus": 0.0}
    assert read_resources({"num_gpus": "0.5"}, has_gpus=True) == {"num_cpus": 1.0, "num_gpus": 0.5}


# ---- Slurm, as submitit shows it ----


class StandIn:
    """submitit's executor."""

    def __init__(self) -> None:
        self.submitted: list[Any] = []

    def batch(self) -> Any:
        return io.StringIO()  # a context that does nothing

    def submit(self, job: Any) -> Any:
        index, ended = len(self.submitted), self.ended
        place = SimpleNamespace(
            exists=lambda: index in ended, read_text=lambda **_: "error: no such study\n"
        )
        found = SimpleNamespace(
            job_id=f"7_{index}", paths=SimpleNamespace(result_pickle=place, stderr=place),
            result=lambda: ended[index], cancel=lambda check: self.cancelled.append(index),
        )  # fmt: skip
        self.submitted.append(found)
        return found

    ended: dict[int, int]
    cancelled: list[int]


def test_slurms_queue_says_which_jobs_live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = StandIn()
    stand_in.ended, stand_in.cancelled = {}, []
    queued = {"7_0", "7_1"}
    asked: list[list[str]] = []

    def squeue(words: list[str], **_: Any) -> Any:
        asked.append(words)
        return SimpleNamespace(returncode=0, stdout="\n".join(queued) + "\n", stderr="")

    monkeypatch.setattr(slurm, "make_executor", lambda folder, options: stand_in)
    monkeypatch.setattr(slurm, "_ship_by_value", lambda: None)
    monkeypatch.setattr(subprocess, "run", squeue)
    monkeypatch.setattr(slurm, "ASK_AFTER", 0.0)
    monkeypatch.setattr(slurm, "PATIENCE", 0.0)
    engine = SlurmEngine(a_job(""), tmp_path, {})
    engine.start(3)
    queued.add("7_2")
    assert [job.is_alive for job in engine.alive()] == [True] * 3
    assert "--jobs=7" in asked[-1]
    stand_in.ended[0] = 0
    queued.remove("7_2")  # its node went down
    codes = [(job.is_alive, job.code) for job in engine.alive()]
    assert codes == [(False, 0), (True, None), (False, None)]
    assert engine.alive()[2].said == "no such study"
    engine.stop()
    assert stand_in.cancelled == [0, 1], "7_0 has ended, and was put into the queue again"


# ---- who follows a study ----


class Jobs:
    """An engine whose jobs live and die as a test says."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []

    def start(self, count: int) -> None:
        self.jobs += [
            Job(name=f"job {len(self.jobs) + index}", is_alive=True) for index in range(count)
        ]

    def alive(self) -> list[Job]:
        return self.jobs

    def stop(self) -> None:
        self.jobs = []

    def describe(self) -> str:
        return "jobs of a test"

    def end(self, index: int, code: int | None, said: str = "") -> None:
        self.jobs[index] = Job(name=f"job {index}", is_alive=False, code=code, said=said)


@pytest.fixture
def follower() -> FollowingSupervisor:
    """One that has four jobs for ten trials."""
    made = FollowingSupervisor.__new__(FollowingSupervisor)
    ended = Counter(COMPLETE=0)
    made.run = cast(Any, SimpleNamespace(trials=10))
    made.queue = cast(Any, SimpleNamespace(count_ended=ended.total, ended=ended))
    made.queue.is_stopped = lambda: False  # type: ignore[method-assign]
    said: list[str] = []
    progress = SimpleNamespace(elsewhere={})
    made.display = cast(Any, SimpleNamespace(say=said.append, said=said, progress=progress))
    made.employ(Jobs(), 4)
    return made


def test_a_study_that_stops_early_is_finished_with_the_trials_that_it_has(
    follower: FollowingSupervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped: Any = follower
    stopped.queue.is_stopped, stopped.queue.read_again = lambda: True, lambda: None
    stopped.display.begin_finish = lambda: None
    stopped.leaderboard = SimpleNamespace(export_records=lambda top: [{"rank": top}])
    monkeypatch.setattr(following, "is_finished", lambda board, ended, top: ended >= 10)
    assert follower.wait_for_exports(1) == [{"rank": 1}]
    for index in range(4):
        stopped.engine.end(index, 0)
    follower._look_after_jobs()
    assert sum(job.is_alive for job in stopped.engine.jobs) == 1, "for what is left to export"


def test_a_job_that_dies_is_replaced_while_trials_are_left(follower: FollowingSupervisor) -> None:
    engine = cast(Jobs, follower.engine)
    assert len(engine.jobs) == 4
    engine.end(1, None)
    engine.end(2, TRY_AGAIN)
    follower._look_after_jobs()
    assert [job.is_alive for job in engine.jobs] == [True, False, False, True, True, True]
    assert "job 1 ended before its time" in follower.display.said  # type: ignore[attr-defined]
    assert "job 2 was told to leave" in follower.display.said  # type: ignore[attr-defined]
    follower.queue.ended["COMPLETE"] = 9  # type: ignore[attr-defined]
    for index in (0, 3, 4):
        engine.end(index, 0)
    follower._look_after_jobs()
    assert sum(job.is_alive for job in engine.jobs) == 1, "one trial is left, and one job"


def test_a_mistake_that_each_job_would_meet_ends_the_study(follower: FollowingSupervisor) -> None:
    cast(Jobs, follower.engine).end(0, 2, "RUNS=/r on n1 is not the folder")
    with pytest.raises(EngineFailed, match="job 0 ended with an error: RUNS=/r on n1 is not"):
        follower._look_after_jobs()


def test_jobs_that_die_without_work_are_not_replaced_for_ever(
    follower: FollowingSupervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = cast(Jobs, follower.engine)
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    def tick() -> None:
        for index, job in enumerate(engine.jobs):
            if job.is_alive:
                engine.end(index, None)
        follower._look_after_jobs()
        clock[0] += 1.0

    with pytest.raises(EngineFailed, match="jobs in a row ended without an epoch"):
        deque(iter(tick, 0), maxlen=0)
    assert len(engine.jobs) <= (MOST_DEATHS + 1) * 4
    assert clock[0] > 10, "there are pauses between them"


def test_an_epoch_forgives_the_deaths_before(follower: FollowingSupervisor) -> None:
    engine = cast(Jobs, follower.engine)
    for round_ in range(3 * MOST_DEATHS):
        for index, job in enumerate(engine.jobs):
            if job.is_alive:
                engine.end(index, TRY_AGAIN)
        follower.display.progress.elsewhere = {1: ("n1", SimpleNamespace(epoch=round_))}  # type: ignore[dict-item]
        follower._look_after_jobs()
    assert sum(job.is_alive for job in engine.jobs) == 4


# ---- a study ----


def test_the_workers_of_an_engine_run_a_study_as_those_of_this_command_do(
    user: User, study_file: WriteStudy
) -> None:
    """Exactly TRIALS trials, one export, the same table of parameters and values."""
    name = study_file()
    asked: dict[str, Any] = {"NAME": name, "TRIALS": 3, "TRY": "latent=8"}
    code, out, error = user.run(ENGINE="local", JOBS=1, WORKERS=1, TOP=1, **asked)
    assert (code, error) == (0, "")
    assert "1 worker started as processes of this machine" in out
    assert re.search(r"^trial +2  complete .* on ", out, re.MULTILINE), out
    frame = trials("small", storage=user.url)
    assert frame["state"].tolist() == ["COMPLETE"] * 3
    assert frame["reference"].tolist()[0] == "TRY latent=8"
    exports = user.runs / "exports" / "small"
    assert [folder.name for folder in exports.iterdir()] == ["1"]
    assert f"{exports / '1'}" in out
    plain = user.with_other_runs("plain")
    assert plain.run(WORKERS=1, TOP=0, **asked)[0] == 0
    columns = ["number", "value", "channels", "latent", "lr"]
    assert frame[columns].equals(trials("small", storage=plain.url)[columns])
