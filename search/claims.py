"""Which worker runs which trial: exactly N trials end, whoever comes and goes.

A trial is created or taken over under a lock that one process holds at a time,
over all machines. The number of trials is counted inside the lock, so that K
workers never make more than N. An interrupted trial goes back to WAITING with
its number, parameters and reports, and is the next to be taken.

    WAITING --claim--> RUNNING --tell--> COMPLETE | PRUNED | FAIL
       ^                  |
       +-----release------+   Ctrl-C, a killed worker, a machine that went down
"""

from __future__ import annotations

import os
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import optuna
import psutil
from optuna.storages import RDBStorage
from optuna.trial import Trial, TrialState
from sqlalchemy import Engine, text

from storage import leases
from storage.database import open_storage, study_lock
from storage.metrics import forget_metrics

ENDED = ("COMPLETE", "PRUNED", "FAIL")


class Claims:
    """The trials of one study, as one worker (or the supervisor) sees them."""

    def __init__(self, study: optuna.Study, storage: RDBStorage, owner: str) -> None:
        self.study = study
        self.storage = storage
        self.engine: Engine = storage.engine
        self.study_id = storage.get_study_id_from_name(study.study_name)
        self.owner = owner

    def claim(self, total: int) -> Trial | None:
        """The next trial of ``total``, now RUNNING and ours; None: none is left to take."""
        with study_lock(self.engine, self.study_id):
            self.take_back(dead_owners(self.engine, self.study_id))
            states = self.count()
            waiting = states["WAITING"]
            if not waiting and states.total() >= total:
                return None
            trial = self.study.ask()
            trial_id = self.id_of(trial.number)
            leases.take_lease(self.engine, trial_id, self.owner, first=not waiting)
            if not waiting:
                forget_metrics(self.engine, trial_id)
        return trial

    def release(self, number: int) -> None:
        """Give a RUNNING trial back so that somebody goes on with it."""
        trial_id = self.id_of(number)
        leases.return_lease(self.engine, trial_id, self.owner)
        self.storage.set_trial_state_values(trial_id, TrialState.WAITING)

    def end(self, number: int) -> None:
        leases.end_lease(self.engine, self.id_of(number))

    def take_back(self, dead: list[str]) -> list[int]:
        """Put trials of dead workers back to WAITING; fail those that killed several workers.

        Called under the lock by `claim`, and by a supervisor that saw its worker die.
        """
        found = leases.abandoned(self.engine, self.study_id, dead_owners=dead)
        for trial in found:
            if trial.attempts >= leases.MAX_ATTEMPTS:
                reason = f"its worker died {trial.attempts} times"
                self.storage.set_trial_user_attr(trial.trial_id, "outcome", "failed")
                self.storage.set_trial_user_attr(trial.trial_id, "reason", reason)
                self.storage.set_trial_state_values(trial.trial_id, TrialState.FAIL)
                leases.end_lease(self.engine, trial.trial_id)
            else:
                self.storage.set_trial_state_values(trial.trial_id, TrialState.WAITING)
        return [trial.number for trial in found]

    def take_back_from(self, owner: str) -> list[int]:
        """As `take_back`, for one worker that is known to be gone."""
        with study_lock(self.engine, self.study_id):
            return self.take_back([owner])

    def take_back_abandoned(self) -> list[int]:
        """As `take_back`, for whoever is known or presumed to be gone."""
        with study_lock(self.engine, self.study_id):
            return self.take_back(dead_owners(self.engine, self.study_id))

    def count(self) -> Counter[str]:
        """Trials by state."""
        statement = text(
            "SELECT state, count(*) FROM trials WHERE study_id = :study_id GROUP BY state"
        )
        with self.engine.connect() as connection:
            rows = connection.execute(statement, {"study_id": self.study_id}).all()
        return Counter({str(state): int(number) for state, number in rows})

    def ended(self) -> int:
        states = self.count()
        return sum(states[state] for state in ENDED)

    def id_of(self, number: int) -> int:
        return self.storage.get_trial_id_from_study_id_trial_number(self.study_id, number)

    @contextmanager
    def kept_alive(self, number: int) -> Iterator[None]:
        """Renew the lease on a trial in the background, also through a long epoch."""
        trial_id = self.id_of(number)
        done = threading.Event()

        def renew() -> None:
            while not done.wait(leases.RENEWAL):
                leases.renew_lease(self.engine, trial_id, self.owner)

        thread = threading.Thread(target=renew, name=f"lease-{number}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def open_claims(study: str, url: str, owner: str) -> Claims:
    """Load an existing study for claiming; its sampler and pruner are the caller's to set."""
    storage = open_storage(url)
    return Claims(optuna.load_study(study_name=study, storage=storage), storage, owner)


def owner_name(pid: int) -> str:
    """Host, process and its start: a process number alone comes back after a restart."""
    started = int(psutil.Process(pid).create_time())
    return f"{socket.gethostname()}:{pid}:{started}"


def dead_owners(engine: Engine, study_id: int) -> list[str]:
    """Holders of leases that ran on this machine and do not any more."""
    return [owner for owner in leases.owners(engine, study_id) if not _may_live(owner)]


def _may_live(owner: str) -> bool:
    host, pid, started = owner.rsplit(":", 2)
    if host != socket.gethostname() or int(pid) == os.getpid():
        return True  # another machine's workers are judged by their grace period alone
    try:
        process = psutil.Process(int(pid))
        same = abs(process.create_time() - int(started)) < 2
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
