"""Rungs: epochs at which trials pause, until their value is among the best that got as far.

    goes_on = reach_rung(connection, study_id, trial_id, rung=1, value=0.02, ...)
    found = find_promoted(arrivals, factor=3, minimize=True)    # the best of those that may go on
    promote(connection, trial_id)                               # it goes on

A trial that pauses is WAITING, like one that was interrupted. What tells them apart stands in
``genstudy_rungs(trial_id, rung, value, waits)``: a row for each rung that a trial has reached, with
its best value until then. ``waits`` is 1 while it pauses there.

Of all trials that have reached a rung, the best one in ``factor`` goes on (Li et al. 2020, ASHA). A
trial that ends later still counts at the rungs that it has reached. No trial waits for a rung to
fill: each new arrival may free the next.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from sqlalchemy import Connection, text

NOTE = text(
    "INSERT INTO genstudy_rungs (trial_id, rung, value, waits) "
    "VALUES (:trial_id, :rung, :value, 1) ON CONFLICT (trial_id, rung) DO NOTHING"
)
ARRIVALS = text(
    "SELECT genstudy_rungs.trial_id, rung, genstudy_rungs.value, waits, "
    "CAST(trials.state AS VARCHAR) AS state "
    "FROM genstudy_rungs JOIN trials ON trials.trial_id = genstudy_rungs.trial_id "
    "WHERE trials.study_id = :study_id"
)
PROMOTE = text("UPDATE genstudy_rungs SET waits = 0 WHERE trial_id = :trial_id AND waits = 1")
PAUSES = text("SELECT rung FROM genstudy_rungs WHERE trial_id = :trial_id AND waits = 1")


class Arrival(NamedTuple):
    """A trial that has reached a rung."""

    trial_id: int
    rung: int
    value: float
    waits: bool
    state: str

    @property
    def is_paused(self) -> bool:
        """Whether it waits there, and nobody runs it."""
        return self.waits and self.state == "WAITING"


def reach_rung(
    connection: Connection,
    study_id: int,
    trial_id: int,
    *,
    rung: int,
    value: float,
    factor: int,
    minimize: bool,
) -> bool:
    """Note that a trial has reached a rung, with its best value; return whether it goes on at once.

    A rung that was reached before has its answer already.
    """
    connection.execute(NOTE, {"trial_id": trial_id, "rung": rung, "value": value})
    there = [each for each in read_arrivals(connection, study_id) if each.rung == rung]
    own = next((each for each in there if each.trial_id == trial_id), None)
    if own is None:  # an older state of the database has no such trial: who asks finds that out
        return False
    if own.waits and goes_on_at_once(there, trial_id, factor=factor, minimize=minimize):
        promote(connection, trial_id)
        return True
    return not own.waits


def goes_on_at_once(there: list[Arrival], trial_id: int, *, factor: int, minimize: bool) -> bool:
    """Return whether a trial that has just reached a rung is among the best of it.

    there: all that have reached it, the trial included
    """
    return trial_id in _best(there, factor, minimize)


def find_promoted(arrivals: Iterable[Arrival], *, factor: int, minimize: bool) -> int | None:
    """Return the paused trial that goes on first: the best of the highest rung that has one among
    its best; None: there is none."""
    rungs: defaultdict[int, list[Arrival]] = defaultdict(list)
    for each in arrivals:
        rungs[each.rung].append(each)
    for _, there in sorted(rungs.items(), reverse=True):
        paused = {each.trial_id for each in there if each.is_paused}
        for trial_id in _best(there, factor, minimize):
            if trial_id in paused:
                return trial_id
    return None


def find_leader(arrivals: Iterable[Arrival], *, minimize: bool) -> int | None:
    """Return the best paused trial of the highest rung at which any pauses; None: none pauses."""
    sign = 1 if minimize else -1
    paused = [each for each in arrivals if each.is_paused]
    best = min(paused, key=lambda a: (-a.rung, sign * a.value, a.trial_id), default=None)
    return None if best is None else best.trial_id


def promote(connection: Connection, trial_id: int) -> None:
    """Let a trial go on from where it pauses."""
    connection.execute(PROMOTE, {"trial_id": trial_id})


def pauses_at(connection: Connection, trial_id: int) -> int | None:
    """Return the rung at which a trial pauses; None: at none."""
    found = connection.scalar(PAUSES, {"trial_id": trial_id})
    return None if found is None else int(found)


def read_arrivals(connection: Connection, study_id: int) -> list[Arrival]:
    """Return all arrivals at the rungs of a study."""
    found = connection.execute(ARRIVALS, {"study_id": study_id})
    return [Arrival(row[0], row[1], row[2], bool(row[3]), row[4]) for row in found]


def _best(there: list[Arrival], factor: int, minimize: bool) -> list[int]:
    """Return the best one in ``factor`` of those at a rung, the best first; earlier ones first
    among equals."""
    sign = 1 if minimize else -1
    ranked = sorted(there, key=lambda each: (sign * each.value, each.trial_id))
    return [each.trial_id for each in ranked[: len(there) // factor]]
