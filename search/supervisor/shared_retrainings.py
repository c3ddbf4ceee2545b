"""Retrainings that the workers of all machines share out, each done once.

    with share_retrainings(supervisor) as shared:      # None without FILES
        job = shared.take(waiting)                     # ours now; None: all are others' for now
        shared.check()                                 # at every tick
        shared.end(job)                                # its worker has come to the end

A machine claims a retraining for a worker of its own, and says every few seconds that it is at it.
One that goes down is followed by any other, which goes on from the checkpoints in FILES. What
another machine has trained is brought here, so that every machine ranks by the same records.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial

from search.messages import Export, Retrain
from search.supervisor.loop import Supervisor
from search.trials.abandoned import SECOND_LOOK
from search.trials.files_access import FilesAccess
from search.trials.owner import forget_mark, hold_mark, is_gone, owner_name
from search.trials.retraining_files import exchange_retrainings
from search.words import format_count
from storage.database.job_claims import (
    JobClaim,
    claim_job,
    read_claims,
    release_job,
    renew_jobs,
)
from storage.database.leases import GRACE, RENEWAL
from storage.database.retry import DatabaseLost, GaveUp

LOOK = 2.0  # seconds between two looks at what other machines do


@contextmanager
def share_retrainings(supervisor: Supervisor) -> Iterator[SharedRetrainings | None]:
    """Share the retrainings of a supervisor with other machines, if its run has FILES."""
    if supervisor.files is None:
        yield None
        return
    shared = SharedRetrainings(supervisor, supervisor.files)
    hold_mark(shared.owner)
    try:
        yield shared
    finally:
        shared.let_go()
        forget_mark(shared.owner)


class SharedRetrainings:
    """The retrainings of one supervisor.

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
        self.access = access
        self.owner = owner_name(os.getpid())
        self.now = now
        self.held: dict[str, int] = {}
        self._claims: dict[str, JobClaim] = {}
        self._seen: dict[str, tuple[tuple[int, int], float]] = {}  # state of a claim, since when
        self._looked = float("-inf")
        self._renewed = float("-inf")
        self._has_said = False

    def look(self, *, at_once: bool = False) -> None:
        """Bring what other machines have trained, and see what they are at."""
        if self.now() - self._looked < LOOK and not at_once:
            return
        exchange_retrainings(self.access, self.run, besides=self.held)
        engine, token = self.queue.engine, self.run.token
        self._claims = self.queue.retry.wait_for(lambda: read_claims(engine, token))
        self._looked = self.now()

    def take(self, waiting: list[Retrain | Export]) -> Retrain | Export | None:
        """Take a job out of ``waiting`` that is ours to do; None: there is none now."""
        self.look()
        for job in list(waiting):
            if isinstance(job, Export):
                waiting.remove(job)
                return job
            if self._is_done(job):
                waiting.remove(job)
            elif (fence := self._claim(job)) is not None:
                waiting.remove(job)
                return replace(job, claim=fence)
        if waiting and not self._has_said:
            self._has_said = True
            count = format_count(len(waiting), "retraining")
            self.supervisor.display.say(f"waiting for {count} of other machines")
        return None

    def end(self, job: Retrain) -> bool:
        """Let go of a job whose worker has come to its end. False: it left no record."""
        name = self._name(job)
        fence = self.held.pop(name, None)
        if fence is not None:
            engine, token = self.queue.engine, self.run.token
            self.queue.retry.wait_for(lambda: release_job(engine, token, name, fence))
        return self._is_done(job)

    def check(self) -> None:
        """Say that we are at our jobs, when it is time."""
        if not self.held or self.now() - self._renewed < RENEWAL:
            return
        self._renewed = self.now()
        engine, token = self.queue.engine, self.run.token
        self.queue.retry.try_once(lambda: renew_jobs(engine, token, self.owner))

    def let_go(self) -> None:
        """Let go of all jobs, if that can be; else others see that nobody renews them."""
        engine, token = self.queue.engine, self.run.token
        for name, fence in self.held.items():
            with suppress(DatabaseLost, GaveUp):
                self.queue.retry.try_once(partial(release_job, engine, token, name, fence))
        self.held.clear()

    def _claim(self, job: Retrain) -> int | None:
        """Claim a job that nobody lives to do. None: somebody does it, or has just done it."""
        name = self._name(job)
        if name in self.held:  # its worker has died
            return self.held[name]
        found = self._claims.get(name)
        if found is not None and self._is_at_it(name, found):
            return None
        engine, token, seen = self.queue.engine, self.run.token, found.fence if found else 0
        fence = self.queue.retry.wait_for(
            lambda: claim_job(engine, token, name, owner=self.owner, seen=seen)
        )
        if fence is None:
            self._looked = float("-inf")
            return None
        self.look(at_once=True)  # its record may have come between our look and our claim
        self.held[name] = fence
        if self._is_done(job):
            self.end(job)
            return None
        return fence

    def _is_at_it(self, name: str, claim: JobClaim) -> bool:
        """Whether somebody lives who is at a job: its process, or at least its renewals."""
        if claim.owner is None or is_gone(claim.owner):
            return False
        state = claim.fence, claim.renewed
        if self._seen.get(name, (None, 0.0))[0] != state:
            self._seen[name] = state, self.now()
        return self.now() - self._seen[name][1] < GRACE + SECOND_LOOK

    def _is_done(self, job: Retrain) -> bool:
        return self.supervisor.leaderboard.record(job.number, job.repeat) is not None

    def _name(self, job: Retrain) -> str:
        return self.run.paths.retraining(self.run.study, job.number, job.repeat).stem
