"""Workers that die when they start, and retrainings and exports that take down their workers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from search.errors import WorkersFailed
from search.jobs import Export, Retrain
from search.supervisor import finish_jobs, restarts
from search.supervisor.finish_claim import FinishClaim
from search.supervisor.loop import Supervisor
from search.supervisor.restarts import Restarts
from search.trials.retraining_record import FailedRetraining, read_record
from tests.trials import MakeContext
from tests.user import User, WriteStudy, is_error_line

FEW_DIGITS = True

# The first workers are killed while they read the study, as by a kernel that is short of memory.
BORN_DEAD = """import os, signal
    from pathlib import Path
    if Path("/proc/self/comm").read_text() == "trainer\\n":
        place = Path("PLACE")
        place.mkdir(exist_ok=True)
        if len(list(place.iterdir())) < COUNT:
            (place / str(os.getpid())).touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def suggest"""
# Training the best configuration again kills its worker, and nothing else does.
KILLED_AGAIN = """import os, signal, traceback
    from pathlib import Path

    class Killed(CAE):
        def train_step(self, batch):
            if any(place.name == "retrain" for place in traceback.extract_stack()):
                first = Path("PLACE")
                if not first.exists():
                    first.write_text(str(self.config.latent))
                if first.read_text() == str(self.config.latent):
                    os.kill(os.getpid(), signal.SIGKILL)
            return super().train_step(batch)

    def suggest"""


def born_dead(place: Path, count: int) -> dict[str, str]:
    code = BORN_DEAD.replace("PLACE", str(place)).replace("COUNT", str(count))
    return {"def suggest": code}


def test_workers_killed_before_they_are_ready_are_started_again(
    user: User, study_file: WriteStudy, tmp_path: Path
) -> None:
    user.deaths = 2  # only a forked worker can be told apart
    name = study_file(replace=born_dead(tmp_path / "born", 2))
    code, out, error = user.run(NAME=name, TRIALS=2, WORKERS=1, TOP=0)
    assert (code, error) == (0, "")
    assert out.count("worker 0 ended by signal 9") == 2
    assert "study small: 2 trials, 2 complete" in out


def test_workers_that_never_come_up_are_one_line(
    user: User, study_file: WriteStudy, tmp_path: Path
) -> None:
    user.deaths = restarts.MOST_AT_START
    name = study_file(replace=born_dead(tmp_path / "born", 99))
    code, _, error = user.run(NAME=name, TRIALS=2, WORKERS=1, TOP=0)
    assert code == 2
    assert is_error_line(error)
    assert "worker 0 ended by signal 9 before it could work, 3 times in a row; see " in error
    assert len(list((tmp_path / "born").iterdir())) == restarts.MOST_AT_START


def test_starts_that_fail_become_rarer_and_then_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("search.supervisor.restarts.time.monotonic", lambda: now[0])
    deaths = Restarts()
    starts = []
    while now[0] < 600 and not deaths.given_up:
        if now[0] == 0 or deaths.take_due():
            starts.append(now[0])
            deaths.note_death(0, at_start=False)  # at once
        now[0] += 0.5
    assert starts == [0.0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5, 63.5]
    assert deaths.given_up == {0}


def test_a_worker_that_has_worked_is_replaced_at_once() -> None:
    deaths = Restarts()
    for _ in range(20):
        assert deaths.note_death(0, at_start=False) == 0.0
        assert deaths.take_due() == [0]
        deaths.note_work(0)


def test_a_retraining_that_kills_its_worker_is_given_up_and_others_take_its_place(
    user: User, study_file: WriteStudy, tmp_path: Path
) -> None:
    replace = {
        "model=CAE,": "model=Killed,",
        "def suggest": KILLED_AGAIN.replace("PLACE", str(tmp_path / "first")),
    }
    user.deaths = finish_jobs.MOST_DEATHS
    variables: dict[str, Any] = {"NAME": study_file(replace=replace), "TRIALS": 3, "SEED": 2}
    code, out, error = user.run(**variables, WORKERS=1, TOP=1)
    assert (code, error) == (0, "")
    assert out.count("ended by signal 9") == finish_jobs.MOST_DEATHS
    assert "is given up: it killed 3 workers in a row" in out
    assert (user.runs / "exports" / "small" / "1" / "provenance.json").exists()
    code, out, error = user.run(**variables, WORKERS=1, TOP=1)
    assert (code, error) == (0, "")
    assert "study small is done" in out
    assert "ended by signal 9" not in out


class Pool:
    """Workers that die of every job that ``kills`` names; the others do theirs."""

    def __init__(self, kills: set[Retrain | Export], epochs: int = 0) -> None:
        self.kills = kills
        self.epochs = epochs  # that a retraining gets on before each death
        self.worker = SimpleNamespace(index=0, job=None, log=Path("worker-0.log"))
        self.done: list[Retrain | Export] = []

    def idle_workers(self) -> list[Any]:
        return [] if self.worker.job else [self.worker]

    def busy_workers(self) -> list[Any]:
        return [self.worker] if self.worker.job else []

    def send(self, worker: Any, job: Retrain | Export) -> None:
        worker.job = job


def hand_out(
    context: Any, pool: Pool, jobs: list[Retrain | Export], most: int = 50
) -> tuple[list[Retrain | Export], list[str]]:
    """Return which jobs were done, and what was said."""
    said: list[str] = []
    leaderboard = SimpleNamespace(parameters_of=lambda number: {"latent": number})
    display = SimpleNamespace(say=said.append)
    fake = SimpleNamespace(
        pool=pool, run=context.run, epochs={}, display=display, leaderboard=leaderboard, files=None
    )
    deaths = 0

    def handle_events() -> list[Any]:
        nonlocal deaths
        job, worker = pool.worker.job, SimpleNamespace(**vars(pool.worker))
        pool.worker.job = None
        if job not in pool.kills or deaths >= most:
            pool.done.append(job)
            return []
        deaths += 1
        key = job.number, job.repeat
        fake.epochs[key] = fake.epochs.get(key, 0) + pool.epochs
        return [worker]

    fake.handle_events = handle_events
    fake.queue = SimpleNamespace(check_counts=lambda: None)
    claim = SimpleNamespace(check=lambda: None)
    supervisor = cast("Supervisor", fake)
    finish_jobs.hand_out(finish_jobs.Finishing(supervisor, cast("FinishClaim", claim), None), jobs)
    return pool.done, said


def test_a_retraining_that_gets_on_is_not_given_up(make_context: MakeContext) -> None:
    """Somebody else kills its workers: each attempt goes on where the one before was killed."""
    jobs: list[Retrain | Export] = [Retrain(number=0)]
    done, said = hand_out(make_context(), Pool(set(jobs), epochs=1), jobs, most=20)
    assert (done, said) == (jobs, [])


def test_of_a_retraining_that_is_given_up_a_record_stays(make_context: MakeContext) -> None:
    context = make_context()
    jobs: list[Retrain | Export] = [Retrain(number=0), Retrain(number=1)]
    done, said = hand_out(context, Pool({jobs[0]}), jobs)
    assert done == jobs[1:]
    assert len(said) == 1
    record = read_record(context.retraining_paths(0).record, token=context.run.token, trial=0)
    assert isinstance(record, FailedRetraining)
    assert record.parameters == {"latent": 0}, "another trial of this number is none of it"


def test_an_export_that_kills_its_worker_costs_no_other(make_context: MakeContext) -> None:
    jobs: list[Retrain | Export] = [Export(number=4, rank=1), Export(number=2, rank=2)]
    pool = Pool({jobs[0]})
    with pytest.raises(
        WorkersFailed, match="the export of trial 4 as rank 1 is given up: it killed"
    ):
        hand_out(make_context(), pool, jobs)
    assert pool.done == jobs[1:]
