"""The states of a study's trials, read at a price that does not grow with the study.

    states = TrialStates(engine, study_id)
    count_ended(states.count())                        # how many trials have ended
    [t for t in states.read_open() if t.state == TrialStatus.WAITING]

Trials are numbered in the order in which they are made, and a trial that has ended hardly ever
changes. So the trials up to the first one that has not ended are counted once. Every further look
reads the few trials after them, and those that went on after their end
(`storage.database.returns`).

This fails if an older state of the database is put in its place. So every look compares the ended
trials that it reads with those of the look before. While no trial is open, all trials are counted
again now and then. If something has changed, `DatabaseWentBack` is raised once, and then all is
read anew.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter, defaultdict
from enum import StrEnum
from typing import NamedTuple, NoReturn

from sqlalchemy import Connection, Engine

from storage.database.retry import DatabaseWentBack
from storage.database.returns import read_returns
from storage.database.rows import fetch_rows
from storage.database.transactions import read

AGAIN = 10.0  # seconds between two counts of all trials, while none is open


class TrialStatus(StrEnum):
    """The state of a trial, in Optuna's words: as the database holds it."""

    COMPLETE = "COMPLETE"
    PRUNED = "PRUNED"
    FAIL = "FAIL"
    RUNNING = "RUNNING"
    WAITING = "WAITING"


# How trials end or stand, in the words that `make trials` and a running study show. A trial is
# retried when it failed and another has tried its parameters in its place.
OUTCOMES = (
    "complete", "pruned", "diverged", "infeasible", "failed", "retried", "interrupted", "running",
    "waiting",
)  # fmt: skip
WORDS = {
    TrialStatus.COMPLETE: "complete",
    TrialStatus.PRUNED: "pruned",
    TrialStatus.FAIL: "failed",
    TrialStatus.RUNNING: "running",
    TrialStatus.WAITING: "waiting",
}
ENDED = (TrialStatus.COMPLETE, TrialStatus.PRUNED, TrialStatus.FAIL)
OPEN = (TrialStatus.RUNNING, TrialStatus.WAITING)


class BestTrial(NamedTuple):
    """The complete trial with the best value."""

    trial_id: int
    number: int
    value: float


def find_best(connection: Connection, study_id: int, *, minimize: bool) -> BestTrial | None:
    """Return the best of a study's complete trials; None where none is complete."""
    order = "ASC" if minimize else "DESC"
    for trial_id, number, value in fetch_rows(
        connection,
        "SELECT trials.trial_id, number, value FROM trials "
        "JOIN trial_values ON trial_values.trial_id = trials.trial_id AND objective = 0 "
        "WHERE study_id = :study_id AND state = 'COMPLETE' AND value IS NOT NULL "
        f"ORDER BY value {order}, number LIMIT 1",
        study_id=study_id,
    ):
        return BestTrial(int(trial_id), int(number), float(value))
    return None


def count_ended(states: Counter[str]) -> int:
    """Return how many of the trials that were counted by state have ended."""
    return sum(states[state] for state in ENDED)


def outcome_of(state: str, written: object = None) -> str:
    """Return how a trial ended, in one of `OUTCOMES`.

    written: its attribute ``outcome``, which says more than its state where genstudy wrote it
    """
    if state in ENDED and written in OUTCOMES:
        return str(written)
    return WORDS[TrialStatus(state)]


def count_outcomes(connection: Connection) -> dict[str, Counter[str]]:
    """Count the trials of every study by `OUTCOMES`; the price grows with the studies."""
    found = fetch_rows(
        connection,
        "SELECT studies.study_name, CAST(trials.state AS VARCHAR), about.value_json, count(*) "
        "FROM trials JOIN studies ON studies.study_id = trials.study_id "
        "LEFT JOIN trial_user_attributes about "
        "ON about.trial_id = trials.trial_id AND about.key = 'outcome' "
        "GROUP BY studies.study_name, trials.state, about.value_json",
    )
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for study, state, written, count in found:
        counts[study][outcome_of(state, written and json.loads(written))] += count
    for study, count in fetch_rows(
        connection,
        "SELECT studies.study_name, count(*) FROM trial_user_attributes about "
        "JOIN trials ON trials.trial_id = about.trial_id "
        "JOIN studies ON studies.study_id = trials.study_id "
        "JOIN study_user_attributes ours "
        "ON ours.study_id = trials.study_id AND ours.key = 'retries' "
        "WHERE about.key = 'retries' GROUP BY studies.study_name",
    ):
        counts[study]["failed"] -= count
        counts[study]["retried"] += count
    return dict(counts)


class OpenTrial(NamedTuple):
    """A trial that is read at each look: it has not ended, comes after one that has not, or
    returned."""

    trial_id: int
    number: int
    state: str


RETURNED = (
    "SELECT trials.trial_id, number, CAST(state AS VARCHAR) FROM genstudy_returns "
    "JOIN trials ON trials.trial_id = genstudy_returns.trial_id WHERE study_id = :study_id"
)


class TrialStates:
    """The states of one study's trials, as one process follows them."""

    def __init__(self, engine: Engine, study_id: int) -> None:
        self.engine = engine
        self.study_id = study_id
        self.settled = -1  # this trial and all before it have ended, but for ``returned``
        self.returned: frozenset[int] = frozenset()  # trials that went on after their end
        self._counted: Counter[str] = Counter()  # these trials, by state
        self._ended: dict[int, tuple[str, object]] = {}  # state and end of those from there on
        self._checked = float("-inf")  # when all were counted, on the monotonic clock
        self._lock = threading.Lock()

    def read_open(self) -> list[OpenTrial]:
        """Return the trials after `settled`, and those that have returned, by id.

        No other trial can have changed. Raises `DatabaseWentBack`, as the other methods do.
        """
        with self._lock:
            return self._read()

    def count(self) -> Counter[str]:
        """Count all trials by state."""
        with self._lock:
            recent = self._read()
            is_open = any(trial.state in OPEN for trial in recent)
            if not is_open and time.monotonic() - self._checked >= AGAIN:
                self._check()
            return self._counted + Counter(
                t.state for t in recent if not self.is_settled(t.trial_id)
            )

    def is_settled(self, trial_id: int) -> bool:
        """Whether a trial has ended and is not read again."""
        return trial_id <= self.settled and trial_id not in self.returned

    @property
    def floor(self) -> int:
        """No trial up to this one is open."""
        return min([self.settled, *(trial_id - 1 for trial_id in self.returned)])

    def check(self) -> None:
        """Count all trials again, whatever is known of them."""
        with self._lock:
            self._read()
            self._check()

    def _read(self) -> list[OpenTrial]:
        with read(self.engine) as connection:
            found = fetch_rows(
                connection,
                "SELECT trial_id, number, CAST(state AS VARCHAR), datetime_complete FROM trials "
                "WHERE study_id = :study_id AND trial_id >= :settled ORDER BY trial_id",
                study_id=self.study_id,
                settled=self.settled,
            )
            returned = frozenset(read_returns(connection, self.study_id))
            again = fetch_rows(connection, RETURNED, study_id=self.study_id) if returned else []
        if not self.returned <= returned:
            self._go_back()
        ended = {
            row[0]: (row[2], row[3]) for row in found if row[2] in ENDED and row[0] not in returned
        }
        stays = self._ended.keys() - returned
        if any(ended.get(trial_id) != self._ended[trial_id] for trial_id in stays):
            self._go_back()
        if self.returned != returned:  # some were counted as ended until now
            self._forget()
            self.returned = returned
            return self._read()
        rows = {row[0]: row[:3] for row in found if row[0] > self.settled}
        rows |= {row[0]: row for row in again}
        recent = [OpenTrial(*rows[trial_id]) for trial_id in sorted(rows)]
        for trial in recent:
            if trial.trial_id in returned:
                continue
            if trial.state not in ENDED:
                break
            self._counted[trial.state] += 1
            self.settled = trial.trial_id
        self._ended = {i: end for i, end in ended.items() if i >= self.settled}
        return recent

    def _check(self) -> None:
        """Compare what is counted with the table."""
        with read(self.engine) as connection:
            found = fetch_rows(
                connection,
                "SELECT CAST(state AS VARCHAR), count(*) FROM trials "
                "WHERE study_id = :study_id AND trial_id <= :settled "
                "AND trial_id NOT IN (SELECT trial_id FROM genstudy_returns) GROUP BY state",
                study_id=self.study_id,
                settled=self.settled,
            )
        if dict(found) != dict(self._counted):
            self._go_back()
        self._checked = time.monotonic()

    def forget(self) -> None:
        """Forget all that was read."""
        with self._lock:
            self._forget()

    def _forget(self) -> None:
        self.settled, self.returned = -1, frozenset()
        self._counted.clear()
        self._ended.clear()

    def _go_back(self) -> NoReturn:
        """Forget all that was read, and say so."""
        self._forget()
        raise DatabaseWentBack(
            "trials that had ended are not in the trial database any more: it was put back to an "
            "older state, or the study was deleted; what is missing is made anew"
        )
