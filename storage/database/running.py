"""The trials that run, on whatever machine, as their workers' reports and leases show them.

    for trial in read_running(connection, study_id):
        trial.number, trial.host, trial.epoch, trial.silent

Nobody is asked: all stands in the trial database. A worker that is gone is known by its silence,
since it renews its lease every few seconds while it lives (`storage.database.leases`).
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, inspect, select

from storage.database.leases import database_time
from storage.database.rows import fetch_rows
from storage.database.schema import leases, metrics

# Of all RUNNING trials of a study, one row each.
TRIALS = (
    "SELECT trial_id, number, datetime_start FROM trials "
    "WHERE study_id = :study_id AND state = 'RUNNING' ORDER BY number"
)
ABOUT = (
    "SELECT about.trial_id, key, value_json FROM trial_user_attributes AS about "
    "JOIN trials ON trials.trial_id = about.trial_id "
    "WHERE study_id = :study_id AND state = 'RUNNING' AND key IN ('host', 'device', 'pid')"
)
LATEST = (
    "SELECT trial_id, max(step) AS step FROM trial_intermediate_values WHERE trial_id IN "
    "(SELECT trial_id FROM trials WHERE study_id = :study_id AND state = 'RUNNING') "
    "GROUP BY trial_id"
)
REPORTED = (
    "SELECT latest.trial_id, latest.step, intermediate_value "
    f"FROM ({LATEST}) AS latest JOIN trial_intermediate_values AS reported "
    "ON reported.trial_id = latest.trial_id AND reported.step = latest.step"
)
LEASES = (
    "SELECT lease.trial_id, owner, renewed FROM genstudy_leases AS lease "
    "JOIN trials ON trials.trial_id = lease.trial_id "
    "WHERE study_id = :study_id AND state = 'RUNNING'"
)
WITH_ATTRIBUTE = (
    "SELECT trials.number FROM trials JOIN trial_system_attributes AS about "
    "ON about.trial_id = trials.trial_id "
    "WHERE study_id = :study_id AND state = 'RUNNING' AND key = :key"
)
SECONDS = (
    f"SELECT latest.trial_id, value FROM ({LATEST}) AS latest JOIN genstudy_metrics AS measured "
    "ON measured.trial_id = latest.trial_id AND measured.epoch = latest.step + 1 "
    "WHERE name = 'epoch_seconds'"
)


@dataclass(frozen=True, kw_only=True)
class RunningTrial:
    """A trial that runs.

    owner: as its worker calls itself in leases; host, device, pid: for people, None: not known yet
    seconds: since this attempt at it began; silent: since its lease was renewed, None: nobody
        holds it
    epoch: epochs done, of earlier attempts too; value: the last one
    pace: seconds from one epoch to the next: of the last one, and of those of the other trials that
        its worker holds, which take turns
    """

    number: int
    owner: str | None
    host: str | None
    device: str | None
    pid: int | None
    seconds: float
    silent: float | None
    epoch: int
    value: float | None
    pace: float | None


def find_running_with(connection: Connection, study_id: int, key: str) -> frozenset[int]:
    """Return the numbers of the trials that run and have the system attribute ``key``."""
    rows = fetch_rows(connection, WITH_ATTRIBUTE, study_id=study_id, key=key)
    return frozenset(int(row[0]) for row in rows)


def read_running(connection: Connection, study_id: int) -> list[RunningTrial]:
    """Return the study's trials that run, by number; also where Optuna's own scripts run them."""
    found = fetch_rows(connection, TRIALS, study_id=study_id)
    if not found:
        return []
    about = _read_about(connection, study_id)
    reported = {
        trial_id: (step + 1, value)
        for trial_id, step, value in fetch_rows(connection, REPORTED, study_id=study_id)
    }
    held, paces = _read_own_tables(connection, study_id)
    running = []
    for trial_id, number, started in found:
        known = about.get(trial_id, {})
        epoch, value = reported.get(trial_id, (0, None))
        owner, silent = held.get(trial_id, (None, None))
        running.append(
            RunningTrial(
                number=number,
                owner=owner,
                host=_text(known.get("host")),
                device=_text(known.get("device")),
                pid=known["pid"] if isinstance(known.get("pid"), int) else None,
                seconds=_seconds_since(started),
                silent=silent,
                epoch=epoch,
                value=value,
                pace=paces.get(trial_id),
            )
        )
    return _with_turns(running)


def count_turns(running: Sequence[RunningTrial]) -> float:
    """Return how many trials a worker holds, in the mean over all that hold any."""
    held = Counter(trial.owner for trial in running if trial.owner is not None)
    return held.total() / len(held) if held else 1.0


def _with_turns(running: list[RunningTrial]) -> list[RunningTrial]:
    """Return the trials. The pace of each includes the epochs of its worker's other trials."""
    turns: dict[str, float] = {}
    for trial in running:
        if trial.owner is not None:
            turns[trial.owner] = turns.get(trial.owner, 0.0) + (trial.pace or 0.0)
    return [
        replace(trial, pace=turns[trial.owner]) if trial.pace and trial.owner else trial
        for trial in running
    ]


def _read_about(connection: Connection, study_id: int) -> dict[int, dict[str, Any]]:
    """Return what the trials say of where they run. Anybody may have written it."""
    about: dict[int, dict[str, Any]] = {}
    for trial_id, key, written in fetch_rows(connection, ABOUT, study_id=study_id):
        try:
            about.setdefault(trial_id, {})[key] = json.loads(written)
        except ValueError:
            continue
    return about


def _read_own_tables(
    connection: Connection, study_id: int
) -> tuple[dict[int, tuple[str | None, float | None]], dict[int, float]]:
    """Return the owner of each trial, the seconds since its lease was renewed, and the seconds of
    its last epoch; nothing for a database that Optuna's own scripts have made."""
    there = inspect(connection)
    if not (there.has_table(leases.name) and there.has_table(metrics.name)):
        return {}, {}
    now = float(connection.scalar(select(database_time(connection.engine))) or 0.0)
    held = {
        trial_id: (owner, None if owner is None else max(0.0, now - renewed))
        for trial_id, owner, renewed in fetch_rows(connection, LEASES, study_id=study_id)
    }
    paces = {
        trial_id: value
        for trial_id, value in fetch_rows(connection, SECONDS, study_id=study_id)
        if value is not None and math.isfinite(value)
    }
    return held, paces


def _text(found: object) -> str | None:
    return found if isinstance(found, str) else None


def _seconds_since(started: datetime | str | None) -> float:
    """Return the seconds since a time as Optuna stores it: naive, in UTC."""
    if started is None:
        return 0.0
    moment = datetime.fromisoformat(started) if isinstance(started, str) else started
    return max(0.0, time.time() - moment.replace(tzinfo=UTC).timestamp())
