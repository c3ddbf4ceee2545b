"""Optuna's database storage, faster for large studies and for many epochs.

`TrialStorage` is an `RDBStorage` that reads trials in bulk, writes an epoch in one transaction, and
refuses the writes of any attempt but the latest one.

    storage = TrialStorage("sqlite:///runs/studies.db", {})
    study = optuna.load_study(study_name="cae", storage=TrialCache(storage))

All other methods are Optuna's. If the schema of the database is unknown, every method is Optuna's.
"""

from __future__ import annotations

import json
import math
import re
import threading
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, create_engine, event, make_url, text
from sqlalchemy.orm import Session
from sqlalchemy.pool import SingletonThreadPool

from storage.database.completed_reports import CompletedReports
from storage.database.fences import check_fence
from storage.database.frozen_trials import read_trials
from storage.database.leases import Attempt, forgive_attempts
from storage.database.metrics import write_metrics
from storage.database.rows import fetch_rows, known_schema
from storage.database.schema import is_sqlite
from storage.database.table_versions import read_versions_once
from storage.database.transactions import open_sessions, read, write
from storage.database.trial_states import OPEN

LOCK = text("UPDATE trials SET state = state WHERE trial_id = -1")  # begins to write
COUNT = text("SELECT count(*) FROM trials WHERE study_id = :study_id")
STATE = text("SELECT state FROM trials WHERE trial_id = :trial_id")
ATTRIBUTE = text(
    "INSERT INTO trial_user_attributes (trial_id, key, value_json) "
    "VALUES (:trial_id, :key, :value) "
    "ON CONFLICT (trial_id, key) DO UPDATE SET value_json = excluded.value_json"
)
TRIAL_NOTE = re.compile(r"dashboard:\d+:note_")  # the key of a part of a trial's note
FORGET = text("DELETE FROM study_system_attributes WHERE study_id = :study_id AND key = :key")
REPORT = text(
    "INSERT INTO trial_intermediate_values "
    "(trial_id, step, intermediate_value, intermediate_value_type) "
    "VALUES (:trial_id, :step, :value, :kind) ON CONFLICT (trial_id, step) DO NOTHING"
)


# A server or a pooler has few connections, so that a process takes one. Optuna creates its tables
# on two at once. A pool that always gives a thread the same connection makes them one.
ONE = {"pool_size": 1, "max_overflow": 0}
read_versions_once()


class TooManyTrials(Exception):
    """A study has as many trials as it was asked for."""


class TrialStorage(RDBStorage):
    """Optuna's storage. `storage.database.connection.open_storage` opens it.

    create: whether Optuna creates the tables that are missing
    """

    def __init__(self, url: str, engine_kwargs: dict[str, Any], *, create: bool = True) -> None:
        shared = (
            {} if is_sqlite(make_url(url)) or not create else {"poolclass": SingletonThreadPool}
        )
        try:
            arguments = engine_kwargs | shared
            super().__init__(url, engine_kwargs=arguments, skip_table_creation=not create)
        except BaseException:  # for example, another process makes the same tables
            if hasattr(self, "engine"):
                self.engine.dispose()
            raise
        if shared:
            self.engine.dispose()
            self.engine = create_engine(url, **engine_kwargs, **ONE)
        self.scoped_session = open_sessions(self.engine)
        with read(self.engine) as connection:
            self.known = known_schema(connection)
        self.leaves_out_trial_notes = False  # set by code that lists studies, to read less
        self._held: dict[int, Attempt] = {}  # the attempts of this process, by trial
        self._limits: dict[int, int] = {}  # how many trials a study may have, while we make one
        self._guarded = threading.local()  # the trial that Optuna writes to
        event.listen(self.scoped_session, "before_commit", self._check_session)
        event.listen(self.scoped_session, "after_begin", self._lock_file)
        self._completed: dict[int, CompletedReports] = {}

    def completed(self, study_id: int) -> CompletedReports | None:
        """Return the reports of a study's complete trials; None where only Optuna can tell."""
        if not self.known:
            return None
        return self._completed.setdefault(study_id, CompletedReports(self.engine, study_id))

    def begin_attempt(self, trial_id: int, attempt: Attempt) -> None:
        """From now on, write to a trial as this attempt."""
        self._held[trial_id] = attempt

    def end_attempt(self, trial_id: int) -> None:
        """Forget this process's attempt at a trial."""
        self._held.pop(trial_id, None)

    def attempt_at(self, trial_id: int) -> int | None:
        """Return the number of this process's attempt at a trial; None: it has none."""
        return self._held[trial_id].fence if trial_id in self._held else None

    def counted_at(self, trial_id: int) -> int:
        """Return how many attempts count against a trial that this process holds, its own
        included; 0: it holds none."""
        return self._held[trial_id].counted if trial_id in self._held else 0

    def check_attempt(self, connection: Connection, trial_id: int) -> None:
        """Raise `TrialLost` where this process's attempt at a trial is not the latest."""
        fence = self.attempt_at(trial_id)
        if fence is not None:
            check_fence(connection, trial_id, fence)

    def _check_open(self, connection: Connection, trial_id: int) -> None:
        """Raise `UpdateFinishedTrialError` if the trial has ended or is another process's.

        The check comes last in its transaction. A transaction that begins with a read may not get
        SQLite's lock for its first write.
        """
        fence = self.attempt_at(trial_id)
        if fence is None:
            state = connection.scalar(STATE, {"trial_id": trial_id})
        else:
            state = check_fence(connection, trial_id, fence)
        if state not in OPEN:
            raise UpdateFinishedTrialError(
                f"trial {trial_id} is {state}: nothing can be added to it"
            )

    @contextmanager
    def limit_trials(self, study_id: int, trials: int) -> Iterator[None]:
        """Let a study have at most ``trials`` trials inside the block.

        A transaction that would make one more raises `TooManyTrials`, even if a lock was lost.
        """
        self._limits[study_id] = trials
        try:
            yield
        finally:
            del self._limits[study_id]

    def _create_new_trial(
        self, study_id: int, template_trial: FrozenTrial | None = None
    ) -> FrozenTrial:
        self._guarded.study_id = study_id
        try:
            return super()._create_new_trial(study_id, template_trial)
        finally:
            self._guarded.study_id = None

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        with self._guarding(trial_id):
            return super().set_trial_state_values(trial_id, state, values)

    def check_trial_is_updatable(self, trial_id: int, trial_state: TrialState) -> None:
        """Raise `UpdateFinishedTrialError` for a trial that has ended.

        For its message, Optuna reads the trial over a second connection. Here a server gives a
        process one connection: the read would fail after 30 seconds, as if the database were away.
        """
        if trial_state.is_finished():
            raise UpdateFinishedTrialError(
                f"the trial with id {trial_id} has ended as {trial_state.name} and stays as it is"
            )

    def _set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
        previous_distribution: BaseDistribution | None,
    ) -> None:
        with self._guarding(trial_id):
            super()._set_trial_param(
                trial_id, param_name, param_value_internal, distribution, previous_distribution
            )

    def set_trial_intermediate_value(
        self, trial_id: int, step: int, intermediate_value: float
    ) -> None:
        with self._guarding(trial_id):
            super().set_trial_intermediate_value(trial_id, step, intermediate_value)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        with self._guarding(trial_id):
            super().set_trial_user_attr(trial_id, key, value)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        with self._guarding(trial_id):
            super().set_trial_system_attr(trial_id, key, value)

    @contextmanager
    def _guarding(self, trial_id: int) -> Iterator[None]:
        """Check the attempt in each transaction that Optuna opens inside the block."""
        self._guarded.trial_id = trial_id
        try:
            yield
        finally:
            self._guarded.trial_id = None

    def _lock_file(self, session: Session, _: object, connection: Connection) -> None:
        """Lock an SQLite file before Optuna reads the state of a trial that it changes afterwards.

        Otherwise another process may end the trial in between. A server locks the row.
        """
        if connection.dialect.name == "sqlite" and getattr(self._guarded, "trial_id", None):
            connection.execute(LOCK)

    def _check_session(self, session: Session) -> None:
        """Check the attempt, or the number of trials, before Optuna commits."""
        trial_id = getattr(self._guarded, "trial_id", None)
        study_id = getattr(self._guarded, "study_id", None)
        if trial_id in self._held:
            session.flush()
            self.check_attempt(session.connection(), trial_id)
        if study_id in self._limits:
            session.flush()
            found = session.connection().scalar(COUNT, {"study_id": study_id})
            if found > self._limits[study_id]:
                raise TooManyTrials(f"study {study_id} has all its {found - 1} trials")

    def get_all_studies(self) -> list[FrozenStudy]:
        found = super().get_all_studies()
        if self.leaves_out_trial_notes:
            for study in found:
                attributes = study.system_attrs
                study.system_attrs = {
                    k: v for k, v in attributes.items() if not TRIAL_NOTE.match(k)
                }
        return found

    def get_trial(self, trial_id: int) -> FrozenTrial:
        if self.known:
            with read(self.engine) as connection:
                for trial in read_trials(connection, [trial_id]):
                    return trial
        return super().get_trial(trial_id)

    def write_attributes(self, trial_id: int, attributes: Mapping[str, Any]) -> None:
        """Do what `set_trial_user_attr` does for each attribute, in one transaction."""
        if not self.known:
            for key, value in attributes.items():
                self.set_trial_user_attr(trial_id, key, value)
            return
        found = [
            {"trial_id": trial_id, "key": key, "value": json.dumps(value)}
            for key, value in attributes.items()
        ]
        with write(self.engine) as connection:
            connection.execute(ATTRIBUTE, found)
            self._check_open(connection, trial_id)

    def forget_study_artifact(self, study_id: int, key: str) -> None:
        """Delete the system attribute that lists an artifact of a study.

        Optuna can only overwrite an attribute, and fails when it then lists the artifacts. Where
        the schema is not known a null is left, which optuna-dashboard bears.
        """
        if not self.known:
            self.set_study_system_attr(study_id, key, json.dumps(None))
            return
        with write(self.engine) as connection:
            connection.execute(FORGET, {"study_id": study_id, "key": key})

    def write_epoch(
        self, trial_id: int, epoch: int, step: int, value: float, measured: Mapping[str, float]
    ) -> None:
        """Write an epoch's value and all that was measured in it, in one transaction.

        A value that was reported before stays, whoever reported it; the measures are replaced.
        """
        if not self.known and step not in self.get_trial(trial_id).intermediate_values:
            self.set_trial_intermediate_value(trial_id, step, value)
        held, forgiven = self._held.get(trial_id), None
        with write(self.engine) as connection:
            if self.known:
                stored = value if math.isfinite(value) else None
                report = {"trial_id": trial_id, "step": step, "value": stored}
                done = connection.execute(REPORT, report | {"kind": _value_kind(value)})
                is_new = bool(done.rowcount)
                write_metrics(connection, trial_id, epoch, measured, again=not is_new)
                if is_new and held is not None and held.counted > 1:
                    forgive_attempts(connection, trial_id)
                    forgiven = held._replace(counted=1)
                self._check_open(connection, trial_id)
            else:
                write_metrics(connection, trial_id, epoch, measured, again=True)
                self.check_attempt(connection, trial_id)
        if forgiven is not None:
            self._held[trial_id] = forgiven

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        """Return the trials after an id, and the listed ones: those that Optuna's cache lacks."""
        if self.known:
            with read(self.engine) as connection:
                found = fetch_rows(
                    connection,
                    "SELECT trial_id FROM trials WHERE study_id = :study_id AND trial_id > :after",
                    study_id=study_id,
                    after=trial_id_greater_than,
                )
                listed = {i for i in included_trial_ids if i <= trial_id_greater_than}
                listed |= {row[0] for row in found}
                trials = read_trials(connection, listed) if listed else []
            if not trials:
                self.get_study_directions(study_id)  # raises `KeyError` where there is no study
            return [t for t in trials if states is None or t.state in states]
        return super()._get_trials(study_id, states, included_trial_ids, trial_id_greater_than)


def _value_kind(value: float) -> str:
    """Return Optuna's word for a value; a column of numbers holds only finite ones."""
    if math.isnan(value):
        return "NAN"
    if math.isinf(value):
        return "INF_POS" if value > 0 else "INF_NEG"
    return "FINITE"
