"""Exports that machines share out: each rank is one machine's, and all have it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from search.jobs import Export, Retrain
from search.supervisor.finish_jobs import Finishing
from search.supervisor.loop import Supervisor
from search.supervisor.shared_jobs import LOOK, SharedJobs
from search.trials.abandoned import SECOND_LOOK
from search.trials.files_access import FilesAccess
from search.trials.shared_exports import export_file
from search.trials.standings import Standing
from storage.database.job_claims import read_claims
from storage.database.leases import GRACE, RENEWAL
from storage.database.retry import DatabaseRetry
from storage.files.exports import is_whole, read_provenance
from storage.paths import RunPaths
from tests.conftest import contents
from tests.test_fetched_exports import TOKEN, Shared

TRIALS = (7, 3)  # in their ranks
Jobs = list[Retrain | Export]


class Machine:
    """A machine with a RUNS of its own, and a clock of the test's."""

    def __init__(self, shared: Shared, name: str) -> None:
        self.shared, self.name = shared, name
        self.paths = RunPaths(shared.folder / name)
        self.time = 0.0
        self.said: list[str] = []
        run = SimpleNamespace(token=TOKEN, study="s", paths=self.paths)
        queue = SimpleNamespace(engine=shared.storage.engine, retry=DatabaseRetry())
        display = SimpleNamespace(say=self.said.append)
        found = SimpleNamespace(run=run, queue=queue, leaderboard=self, display=display)
        self.supervisor = cast("Supervisor", found)
        access = FilesAccess(shared.files, queue.retry, lambda: False, self.said.append)
        self.jobs = SharedJobs(self.supervisor, access, now=lambda: self.time)
        about = SimpleNamespace(to_plain=dict)
        ranked = [SimpleNamespace(number=n, repeat=1, certificate=about) for n in TRIALS]
        self.standings = cast("list[Standing]", ranked)
        self.jobs.expect(self.standings)
        self.waiting: Jobs = [Export(number=n, rank=k) for k, n in enumerate(TRIALS, start=1)]

    def is_export_of(self, found: Any, number: int, rank: int, **_: Any) -> bool:
        """What a leaderboard says."""
        return bool((found["trial"], found["rank"]) == (number, rank))

    def is_exported(self, number: int, rank: int, **_: Any) -> bool:
        """Likewise."""
        folder = self.paths.export("s", rank)
        found = read_provenance(folder)
        stands = found is not None and self.is_export_of(found, number, rank)
        return stands and found is not None and is_whole(folder, found)

    def take(self) -> Retrain | Export | None:
        """Take a job, after a while."""
        self.time += LOOK
        return self.jobs.take(self.waiting)

    def export(self, job: Retrain | Export | None) -> None:
        """Do what a worker does."""
        assert isinstance(job, Export)
        self.shared.export(job.rank, job.number, runs=self.name, claim=job.claim)

    def exports(self) -> dict[str, str]:
        found = contents(self.paths.exports("s"))
        return {path.partition("/exports/s/")[2]: kept for path, kept in found.items()}


@pytest.fixture
def machines(tmp_path: Path) -> tuple[Machine, Machine]:
    shared = Shared(tmp_path)
    return Machine(shared, "here"), Machine(shared, "there")


def test_each_rank_is_exported_once_and_all_machines_have_it(
    machines: tuple[Machine, Machine],
) -> None:
    here, there = machines
    first, second = here.take(), there.take()
    assert [job and (job.number, job.claim) for job in (first, second)] == [(7, 1), (3, 1)]
    assert there.take() is None
    assert there.said == ["waiting for 1 export of other machines"]
    for machine, job in ((here, first), (there, second)):
        machine.export(job)
        assert job is not None
        assert machine.jobs.end(job)
    assert [machine.take() for machine in machines] == [None, None]
    assert [machine.take() for machine in machines] == [None, None]
    assert not here.waiting
    assert not there.waiting
    assert here.exports() == there.exports()
    claims = read_claims(here.shared.storage.engine, TOKEN)
    assert {name: (claim.fence, claim.owner) for name, claim in claims.items()} == {
        export_file(rank): (1, None) for rank in (1, 2)
    }


def test_a_machine_that_goes_down_is_followed_and_takes_what_the_next_has_made(
    machines: tuple[Machine, Machine],
) -> None:
    here, there = machines
    del here.waiting[1], there.waiting[1]
    lost = here.take()
    assert lost is not None
    for _ in range(3):  # it says that it is at it
        here.time += RENEWAL
        here.jobs.check()
        there.time += GRACE
        assert there.take() is None
    there.time += GRACE + SECOND_LOOK
    taken = there.take()
    assert taken is not None
    assert (taken.number, taken.claim) == (7, 2)
    here.shared.export(1, 7, runs="here", claim=None)  # it wakes up: its own is not shared
    assert not here.jobs.end(lost)
    here.waiting = [lost]
    there.shared.seed = 5
    there.export(taken)
    assert there.jobs.end(taken)
    assert here.exports() != there.exports()
    assert here.take() is None
    assert here.take() is None
    assert not here.waiting
    kept = {path: what for path, what in here.exports().items() if "earlier" not in path}
    assert kept == there.exports()


def test_an_export_that_stands_here_alone_is_put(machines: tuple[Machine, Machine]) -> None:
    """Such as after a kill in between."""
    here, there = machines
    del here.waiting[1], there.waiting[1]
    here.shared.export(1, 7, runs="here", claim=None)
    assert here.take() is None
    assert here.take() is None
    assert not here.waiting
    assert there.take() is None
    assert there.take() is None
    assert not there.waiting
    assert here.exports() == there.exports()


def test_an_export_that_stands_here_is_not_said_to_be_missing(
    machines: tuple[Machine, Machine],
) -> None:
    """It has to be agreed on with the others all the same."""
    here, _ = machines
    here.shared.export(1, 7, runs="here", claim=None)
    finishing = Finishing(here.supervisor, None, here.jobs)
    jobs = finishing.exports(here.standings)
    assert [job.rank for job in jobs] == [1, 2]
    assert [job.rank for job in finishing.missing(jobs, here.standings)] == [2]


@pytest.mark.parametrize("number", [7, 8])
def test_an_export_of_before_is_taken_only_if_it_is_the_one(
    machines: tuple[Machine, Machine], number: int
) -> None:
    here, there = machines
    here.shared.export(1, number, runs="here", claim=0)
    del there.waiting[1]
    job = there.take()
    assert (job is None) == (number == 7)
    assert (there.paths.export("s", 1)).exists() == (number == 7)
