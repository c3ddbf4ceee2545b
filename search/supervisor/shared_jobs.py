"""Retrainings and exports that the workers of all machines share; each is done once.

    with share_jobs(supervisor) as shared:             # None without FILES
        shared.expect(standings)                       # before exports are handed out
        job = shared.take(waiting)                     # ours now; None: others hold all of them
        shared.check()                                 # at every tick
        shared.end(job)                                # its worker has ended it

A machine claims a job for a worker of its own, and renews the claim every few seconds. If it goes
down, any other machine takes the job over: a retraining goes on from its checkpoints in FILES. The
retrainings and exports of other machines are brought here, so that every machine ranks by the same
records and has the same exports.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial

from search.jobs import Export, Retrain
from search.supervisor.loop import Supervisor
from search.trials.abandoned import SECOND_LOOK
from search.trials.files_access import FilesAccess
from search.trials.owner import forget_mark, hold_mark, is_gone, owner_name
from search.trials.retraining_files import exchange_retrainings
from search.trials.shared_exports import Brought, bring_export, export_file, put_export
from search.trials.standings import Standing, is_export_of, is_exported
from search.words import format_count
from storage.database.job_claims import (
    JobClaim,
    JobLost,
    check_job,
    claim_job,
    read_claims,
    release_job,
    renew_jobs,
)
from storage.database.leases import GRACE, RENEWAL
from storage.database.retry import DatabaseLost, GaveUp
from storage.errors import FilesAway, FileTooLarge
from storage.files.identity import make_identity

LOOK = 2.0  # seconds between two looks at what other machines do


@contextmanager
def share_jobs(supervisor: Supervisor) -> Iterator[SharedJobs | None]:
    """Share the finish of a supervisor's study with other machines, if its run has FILES."""
    if supervisor.files is None:
        yield None
        return
    shared = SharedJobs(supervisor, supervisor.files)
    hold_mark(shared.owner)
    try:
        yield shared
    finally:
        shared.let_go()
        forget_mark(shared.owner)


class SharedJobs:
    """The retrainings and exports of one supervisor.

    held: the claims of this supervisor, by the name of the job
    """

    def __init__(
        self,
        supervisor: Supervisor,
        access: FilesAccess,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.supervisor = supervisor
        self.run, self.queue = supervisor.run, supervisor.queue
        self.leaderboard = supervisor.leaderboard
        self.access = access
        self.owner = owner_name(os.getpid())
        self.now = now
        self.held: dict[str, int] = {}
        self._standings: dict[int, Standing] = {}  # by rank, as its export has to show it
        self._agreed: set[str] = set()  # exports that are the same here and in FILES
        self._tried: dict[str, int] = {}  # claim after whose end an export was looked for
        self._claims: dict[str, JobClaim] = {}
        self._seen: dict[str, tuple[tuple[int, int], float]] = {}  # state of a claim, since when
        self._looked = float("-inf")
        self._renewed = float("-inf")
        self._said: set[str] = set()  # what is waited for

    def expect(self, standings: Sequence[Standing]) -> None:
        """Note what is to be exported, best first."""
        self._standings = dict(enumerate(standings, start=1))

    def look(self, *, at_once: bool = False) -> None:
        """Bring the retrainings of other machines, and see which jobs they hold."""
        if self.now() - self._looked < LOOK and not at_once:
            return
        engine, token = self.queue.engine, self.run.token
        # claims first: of whoever has let go since, all that it has put is there
        self._claims = self.queue.retry.wait_for(lambda: read_claims(engine, token))
        others = [name for name, found in self._claims.items() if self._is_held(name, found)]
        exchange_retrainings(self.access, self.run, besides={*self.held, *others})
        self._looked = self.now()

    def take(self, waiting: list[Retrain | Export]) -> Retrain | Export | None:
        """Take a job out of ``waiting`` that no other machine holds; None: there is none now."""
        self.look()
        for job in list(waiting):
            if self.is_done(job):
                waiting.remove(job)
            elif (fence := self._claim(job)) is not None:
                waiting.remove(job)
                return replace(job, claim=fence)
        self._say_what_is_waited_for(waiting)
        return None

    def end(self, job: Retrain | Export) -> bool:
        """Release a job whose worker has ended it. False: it has to be done again.

        An export that is missing after all is found when the exports are ranked again.
        """
        name = self._name(job)
        fence = self.held.pop(name, None)
        is_ours = fence is not None and self._release(name, fence)
        if isinstance(job, Retrain):
            return self.is_done(job)
        if is_ours:
            self._agreed.add(name)
        return is_ours

    def is_done(self, job: Retrain | Export) -> bool:
        """Whether the result of a job is here, and is the one that all machines have."""
        if isinstance(job, Retrain):
            return self.leaderboard.record(job.number, job.repeat) is not None
        return self._name(job) in self._agreed and self._is_exported(job)

    def check(self) -> None:
        """Renew our claims when it is time."""
        if not self.held or self.now() - self._renewed < RENEWAL:
            return
        self._renewed = self.now()
        engine, token = self.queue.engine, self.run.token
        self.queue.retry.try_once(lambda: renew_jobs(engine, token, self.owner))

    def let_go(self) -> None:
        """Release all jobs, if the database answers; otherwise the claims expire."""
        engine, token = self.queue.engine, self.run.token
        for name, fence in self.held.items():
            with suppress(DatabaseLost, GaveUp):
                self.queue.retry.try_once(partial(release_job, engine, token, name, fence))
        self.held.clear()

    def _claim(self, job: Retrain | Export) -> int | None:
        """Claim a job. None: another live process holds it, or has just done it."""
        name = self._name(job)
        if name in self.held:  # its worker has died
            return self.held[name]
        found = self._claims.get(name)
        if found is not None and self._is_held(name, found):
            return None
        seen = found.fence if found else 0
        if isinstance(job, Export) and self._tried.get(name) != seen:
            self._tried[name] = seen
            self._bring(job)
            if self.is_done(job):
                return None
        engine, token = self.queue.engine, self.run.token
        fence = self.queue.retry.wait_for(
            lambda: claim_job(engine, token, name, owner=self.owner, seen=seen)
        )
        if fence is None:
            self._looked = float("-inf")
            return None
        self.look(at_once=True)  # its record may have come between our look and our claim
        self.held[name] = fence
        if isinstance(job, Export) and self._is_exported(job):
            self._put(job, fence)
            self.end(job)
            return None
        if self.is_done(job):
            self.end(job)
            return None
        if isinstance(job, Export) and job.rank == 1:  # its final test takes place here
            make_identity(self.run.paths.finishing_identity(self.run.study))
        return fence

    def _bring(self, job: Export) -> None:
        """Bring an export of another machine here, if it is the one that is wanted."""
        standing = self._standings[job.rank]
        bring = partial(
            bring_export,
            folder=self.run.paths.export(self.run.study, job.rank),
            rank=job.rank,
            wanted=lambda found: is_export_of(self.leaderboard, found, standing, job.rank),
        )
        with suppress(FilesAway):  # it has been said, and the export is made here
            if self.access.wait_for(bring) in (Brought.FETCHED, Brought.STANDS):
                self._agreed.add(self._name(job))

    def _put(self, job: Export, fence: int) -> None:
        """Put an export into FILES that stands only here, as after a kill."""
        name, token = self._name(job), self.run.token
        folder = self.run.paths.export(self.run.study, job.rank)
        put = partial(
            put_export,
            rank=job.rank,
            folder=folder,
            guard=lambda connection: check_job(connection, token, name, fence),
        )
        try:
            self.access.wait_for(put)
        except (FilesAway, FileTooLarge) as error:
            self.supervisor.display.say(f"{error}: the export is in {folder} alone")
        except JobLost:  # whoever has it puts its own
            self.held.pop(name, None)

    def _release(self, name: str, fence: int) -> bool:
        """Release a claim. False: another process has claimed the job."""
        engine, token = self.queue.engine, self.run.token
        return self.queue.retry.wait_for(lambda: release_job(engine, token, name, fence))

    def _is_held(self, name: str, claim: JobClaim) -> bool:
        """Whether another live process holds a job, as far as its mark or its renewals tell."""
        if claim.owner in (None, self.owner) or is_gone(claim.owner):
            return False
        state = claim.fence, claim.renewed
        if self._seen.get(name, (None, 0.0))[0] != state:
            self._seen[name] = state, self.now()
        return self.now() - self._seen[name][1] < GRACE + SECOND_LOOK

    def _is_exported(self, job: Export) -> bool:
        return is_exported(self.leaderboard, self._standings[job.rank], job.rank)

    def _name(self, job: Retrain | Export) -> str:
        if isinstance(job, Export):
            return export_file(job.rank)
        return self.run.paths.retraining(self.run.study, job.number, job.repeat).stem

    def _say_what_is_waited_for(self, waiting: Sequence[Retrain | Export]) -> None:
        """Say once how many retrainings, and how many exports, this machine waits for."""
        for kind, word in ((Retrain, "retraining"), (Export, "export")):
            count = sum(isinstance(job, kind) for job in waiting)
            if count and word not in self._said:
                self._said.add(word)
                what = format_count(count, word)
                self.supervisor.display.say(f"waiting for {what} of other machines")
