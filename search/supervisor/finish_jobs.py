"""The jobs of a finish, retrainings and exports, and how workers come to them.

    hand_out(finishing, jobs)      # until all are done, on this machine or on others

Each idle worker gets a job. The job of a dead worker is done again, unless it has killed several
workers in a row.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from search.console import shorten_path
from search.errors import WorkersFailed
from search.jobs import Export, Retrain
from search.supervisor.finish_claim import FinishClaim
from search.supervisor.loop import Supervisor
from search.supervisor.shared_jobs import SharedJobs
from search.supervisor.worker_pool import WorkerHandle
from search.trials.retraining_files import exchange_retrainings
from search.trials.retraining_record import FailedRetraining
from search.trials.standings import Standing, is_exported
from search.words import name_seed

MOST_DEATHS = 3  # workers that one retraining or export may kill in a row, without an epoch


@dataclass(frozen=True)
class Finishing:
    """One supervisor's finish of a study.

    claim: on the finish; None: other machines share the work
    shared: the jobs that the machines share; None: there is no FILES, and one machine does all
    """

    supervisor: Supervisor
    claim: FinishClaim | None
    shared: SharedJobs | None

    def check(self) -> None:
        """Renew the claims. Raises `FinishLost`."""
        if self.claim is not None:
            self.claim.check()
        if self.shared is not None:
            self.shared.check()

    def take(self, waiting: list[Retrain | Export]) -> Retrain | Export | None:
        """Take a job out of ``waiting``; None: there is none that we may do now."""
        if self.shared is not None:
            return self.shared.take(waiting)
        return waiting.pop(0) if waiting else None

    def take_back(self, job: Retrain | Export) -> bool:
        """Note that a worker has ended a job. False: the job has to be done again."""
        return self.shared is None or self.shared.end(job)

    def unclaimed(self, job: Retrain | Export) -> Retrain | Export:
        """Return a job as it was handed in."""
        if isinstance(job, Retrain):
            return replace(job, claim=None)
        return job if self.shared is None else replace(job, claim=0)

    def exports(self, standings: Sequence[Standing]) -> list[Export]:
        """Return the exports that are missing, or out of date."""
        jobs = [
            Export(
                number=standing.number,
                rank=rank,
                repeat=standing.repeat,
                claim=0 if self.claim is None or self.shared is not None else self.claim.fence,
                certificate=json.dumps(standing.certificate.to_plain()),
            )
            for rank, standing in enumerate(standings, start=1)
        ]
        if self.shared is None:
            return self.missing(jobs, standings)
        self.shared.expect(standings)
        return [job for job in jobs if not self.shared.is_done(job)]

    def missing(self, jobs: Sequence[Export], standings: Sequence[Standing]) -> list[Export]:
        """Return those of which no export stands here."""
        ranked, leaderboard = dict(enumerate(standings, start=1)), self.supervisor.leaderboard
        return [job for job in jobs if not is_exported(leaderboard, ranked[job.rank], job.rank)]


def hand_out(finishing: Finishing, jobs: Sequence[Retrain | Export]) -> None:
    """Give each idle worker a job until all jobs are done; the job of a dead worker is done again.

    A job that kills several workers in a row is given up, and the others are done.
    Raises `WorkersFailed` at the end if an export was given up, `FinishLost`, and
    `DatabaseWentBack`.
    """
    supervisor = finishing.supervisor
    waiting, given_up = list(jobs), list[str]()
    deaths: Counter[Retrain | Export] = Counter()
    supervisor.epochs.clear()
    reached: dict[Retrain | Export, int] = {}
    at_work: dict[int, Retrain | Export] = {}  # by worker
    while True:
        for worker in supervisor.pool.idle_workers():
            done = at_work.pop(worker.index, None)
            if done is not None and not finishing.take_back(done):
                waiting.append(finishing.unclaimed(done))
            if (job := finishing.take(waiting)) is not None:
                at_work[worker.index] = job
                supervisor.pool.send(worker, job)
        if not waiting and not supervisor.pool.busy_workers():
            break
        died = supervisor.handle_events()
        finishing.check()
        if died:
            supervisor.queue.check_counts()
        for worker in died:
            at_work.pop(worker.index, None)
            if not isinstance(worker.job, Retrain | Export):
                continue  # it did not die at work
            job = finishing.unclaimed(worker.job)
            epoch = supervisor.epochs.get((job.number, job.repeat), 0)
            if epoch > reached.get(job, 0):
                deaths[job] = 0  # it makes progress: something else kills its workers
            reached[job] = epoch
            deaths[job] += 1
            if deaths[job] < MOST_DEATHS:
                waiting.insert(0, job)
            else:
                given_up += _give_up(supervisor, job, worker)
                finishing.take_back(job)
    supervisor.queue.check_counts()
    if given_up:
        raise WorkersFailed("; ".join(given_up))


def _give_up(supervisor: Supervisor, job: Retrain | Export, worker: WorkerHandle) -> list[str]:
    """Give up a job that kills its workers; return what is to be said at the end.

    A retraining that is given up leaves a record, so that the next call does not try it again: the
    next best trial takes its place.
    """
    how = f"it killed {MOST_DEATHS} workers in a row"
    if isinstance(job, Export):
        line = f"the export of trial {job.number} as rank {job.rank} is given up: {how}"
        return [f"{line}; see {worker.log}"]
    run = supervisor.run
    path = run.paths.retraining(run.study, job.number, job.repeat).record
    FailedRetraining(
        trial=job.number,
        token=run.token,
        failed=how,
        parameters=supervisor.leaderboard.parameters_of(job.number),
        repeat=job.repeat,
    ).write(path)
    if supervisor.files is not None:
        exchange_retrainings(supervisor.files, run)
    supervisor.display.say(
        f"retraining of trial {job.number}{name_seed(job.repeat)} is given up: {how} (log: "
        f"{worker.log}); without {shorten_path(path)} it is tried again"
    )
    return []
