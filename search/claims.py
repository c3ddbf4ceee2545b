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

import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
import psutil
from optuna.trial import Trial, TrialState
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from search.samplers import OneSequence
from storage import leases
from storage.database import open_storage, study_lock
from storage.standing import Standing, ended
from storage.trial_storage import TrialCache, TrialStorage


class Claims:
    """The trials of one study, as one worker (or the supervisor) sees them."""

    def __init__(self, study: optuna.Study, storage: TrialStorage, owner: str) -> None:
        self.study = study
        self.storage = storage
        self.engine: Engine = storage.engine
        self.study_id = storage.get_study_id_from_name(study.study_name)
        self.owner = owner
        self._standing = Standing(self.engine, self.study_id)
        self._ids: dict[int, int] = {}  # by number

    def claim(self, total: int) -> Trial | None:
        """The next trial of ``total``, now RUNNING and ours; None: none is left to take."""
        with study_lock(self.engine, self.study_id):
            states = self.count()
            if states["RUNNING"] and self.take_back(is_gone):
                states = self.count()
            if not states["WAITING"] and states.total() >= total:
                return None
            trial = self.study.ask()
            new = trial.number >= states.total()  # else it waited for somebody to go on with it
            leases.take_lease(self.engine, self.id_of(trial.number), self.owner, first=new)
            if isinstance(self.study.sampler, OneSequence):
                _ = trial.relative_params  # drawn now, under the lock: no place is taken twice
        return trial

    def describe(self, trial: Trial, attributes: Mapping[str, Any]) -> None:
        """Set user attributes, in one transaction."""
        self.storage.write_attributes(trial._trial_id, attributes)
        trial._cached_frozen_trial.user_attrs.update(attributes)

    def report(self, trial: Trial, epoch: int, value: float, measured: Mapping[str, float]) -> None:
        """An epoch's value, as `Trial.report`, and all that was measured, in one transaction.

        Epochs count from 1, Optuna's steps from 0.
        """
        step = epoch - 1
        self.storage.write_epoch(trial._trial_id, epoch, step, value, measured)
        trial._cached_frozen_trial.intermediate_values.setdefault(step, value)

    def release(self, number: int) -> None:
        """Give a RUNNING trial back so that somebody goes on with it, if it is still ours."""
        trial_id = self.id_of(number)
        with study_lock(self.engine, self.study_id):
            if leases.return_lease(self.engine, trial_id, self.owner):
                self.storage.set_trial_state_values(trial_id, TrialState.WAITING)

    def owns(self, number: int) -> bool:
        """Whether the trial is still ours; if so, for another grace period."""
        return leases.renew_lease(self.engine, self.id_of(number), self.owner)

    def end(self, number: int) -> None:
        leases.end_lease(self.engine, self.id_of(number))

    def take_back(self, is_dead: Callable[[str], bool]) -> list[int]:
        """Put trials of dead workers back to WAITING; fail those that killed several workers.

        Called under the lock by `claim`, and by a supervisor that saw its worker die.
        """
        held = leases.running(self.engine, self.study_id, after=self._standing.settled)
        found = [t for t in held if t.owner is None or t.silent or is_dead(t.owner)]
        for trial in found:
            if trial.attempts >= leases.MAX_ATTEMPTS:
                reason = f"its worker died {trial.attempts} times"
                self.storage.set_trial_user_attr(trial.trial_id, "outcome", "failed")
                self.storage.set_trial_user_attr(trial.trial_id, "reason", reason)
                self.storage.set_trial_state_values(trial.trial_id, TrialState.FAIL)
                leases.end_lease(self.engine, trial.trial_id)
            else:
                leases.vacate(self.engine, trial.trial_id)  # should its worker wake up after all
                self.storage.set_trial_state_values(trial.trial_id, TrialState.WAITING)
        return [trial.number for trial in found]

    def take_back_from(self, owner: str, *, blame: bool = True) -> list[int]:
        """As `take_back`, for one worker that is known to be gone.

        blame: whether its trial may have killed it; not if we did
        """
        with study_lock(self.engine, self.study_id):
            if not blame:
                leases.forgive(self.engine, owner)
            return self.take_back(lambda holder: holder == owner)

    def take_back_abandoned(self) -> list[int]:
        """As `take_back`, for whoever is known or presumed to be gone."""
        with study_lock(self.engine, self.study_id):
            return self.take_back(is_gone)

    def count(self) -> Counter[str]:
        """Trials by state."""
        return self._standing.count()

    def ended(self) -> int:
        return ended(self.count())

    def id_of(self, number: int) -> int:
        if number not in self._ids:
            found = self.storage.get_trial_id_from_study_id_trial_number(self.study_id, number)
            self._ids[number] = found
        return self._ids[number]

    @contextmanager
    def kept_alive(self, number: int) -> Iterator[threading.Event]:
        """Renew the lease on a trial in the background, also through a long epoch.

        The event that it gives is set when the trial has become somebody else's. A database
        that is away for a while costs renewals, not the thread.
        """
        trial_id = self.id_of(number)
        done, lost = threading.Event(), threading.Event()

        def renew() -> None:
            while not done.wait(leases.RENEWAL):
                with suppress(SQLAlchemyError):
                    if not leases.renew_lease(self.engine, trial_id, self.owner):
                        lost.set()
                        return

        thread = threading.Thread(target=renew, name=f"lease-{number}", daemon=True)
        thread.start()
        try:
            yield lost
        finally:
            done.set()
            thread.join()


def open_claims(study: str, url: str, owner: str) -> Claims:
    """Load an existing study for claiming; its sampler and pruner are the caller's to set."""
    storage = open_storage(url)
    loaded = optuna.load_study(study_name=study, storage=TrialCache(storage))
    return Claims(loaded, storage, owner)


def owner_name(pid: int) -> str:
    """Machine, process and its start: a process number alone comes back after a restart."""
    return f"{machine_name()}:{pid}:{_started(pid)}"


def machine_name() -> str:
    """Host, boot and process namespace: two containers may share a host's name."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text()[:8])
        parts.append(str(Path("/proc/self/ns/pid").stat().st_ino))
    return "-".join(parts)


def is_gone(owner: str) -> bool:
    """Whether the holder of a lease ran on this machine and does not any more."""
    machine, pid, started = owner.rsplit(":", 2)
    if machine != machine_name():
        return False  # another machine's workers are judged by their grace period alone
    try:
        return str(_started(int(pid))) != started
    except psutil.NoSuchProcess:
        return True


def _started(pid: int) -> int:
    """When a process began, by the kernel's own count where there is one: clocks are set."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        process = psutil.Process(pid)  # no /proc on this system, or no such process
        return int(process.create_time())
    if status[0] == "Z":
        raise psutil.NoSuchProcess(pid)
    return int(status[19])
