"""Rungs: epochs at which trials pause, until they are among the best trials of that rung.

    goes_on = reach_rung(connection, study_id, trial_id, rung=1, value=0.02, ...)
    first, *others = list_promoted(arrivals, factor=3, minimize=True)    # those that may go on
    promote(connection, first)                                           # it goes on

A trial that pauses is WAITING, like an interrupted one. The table ``genstudy_rungs(trial_id,
rung, value, waits)`` tells them apart: it has a row for each rung that a trial has reached, with
its best value until then. A rung is named by its epoch. ``waits`` is 1 while the trial pauses
there. It stays 1 if the trial ends as pruned because it was never promoted. If it becomes one of
the best later, it still goes on (`storage.database.returns`).

Of all trials that have reached a rung, the best one in ``factor`` goes on (Li et al. 2020, ASHA).
With brackets, trials compare within their bracket. A trial that ends later still counts at the
rungs that it has reached. No trial waits for a rung to fill: each new arrival may free the next.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import NamedTuple

from sqlalchemy import Connection, text

NOTE = text(
    "INSERT INTO genstudy_rungs (trial_id, rung, value, waits) "
    "VALUES (:trial_id, :rung, :value, 1) ON CONFLICT (trial_id, rung) DO NOTHING"
)
ARRIVALS = text(
    "SELECT genstudy_rungs.trial_id, rung, genstudy_rungs.value, waits, "
    "CAST(trials.state AS VARCHAR) AS state, trials.number "
    "FROM genstudy_rungs JOIN trials ON trials.trial_id = genstudy_rungs.trial_id "
    "WHERE trials.study_id = :study_id"
)
PROMOTE = text("UPDATE genstudy_rungs SET waits = 0 WHERE trial_id = :trial_id AND waits = 1")
PAUSES = text("SELECT rung FROM genstudy_rungs WHERE trial_id = :trial_id AND waits = 1")

BracketOf = Callable[[int], int]
"""Trial's number -> its bracket. Trials at a rung compare with those of their bracket."""


def one_bracket(number: int) -> int:
    """Return the bracket of all trials where there is one."""
    return 0


class Arrival(NamedTuple):
    """A trial that has reached a rung."""

    trial_id: int
    rung: int
    value: float
    waits: bool
    state: str
    number: int

    @property
    def is_paused(self) -> bool:
        """Whether it waits there, and nobody runs it."""
        return self.waits and self.state == "WAITING"

    @property
    def may_return(self) -> bool:
        """Whether it has ended there without being promoted."""
        return self.waits and self.state == "PRUNED"


def reach_rung(
    connection: Connection,
    study_id: int,
    trial_id: int,
    *,
    rung: int,
    value: float,
    factor: int,
    minimize: bool,
    bracket_of: BracketOf = one_bracket,
) -> bool:
    """Note that a trial has reached a rung, with its best value; return whether it goes on at once.

    For a rung that was reached before, the earlier answer holds.
    """
    connection.execute(NOTE, {"trial_id": trial_id, "rung": rung, "value": value})
    arrivals = [each for each in read_arrivals(connection, study_id) if each.rung == rung]
    own = next((each for each in arrivals if each.trial_id == trial_id), None)
    if own is None:  # an older state of the database lacks the trial: the caller finds that out
        return False
    if own.waits and goes_on_at_once(
        arrivals, own, factor=factor, minimize=minimize, bracket_of=bracket_of
    ):
        promote(connection, trial_id)
        return True
    return not own.waits


def goes_on_at_once(
    arrivals: Iterable[Arrival],
    own: Arrival,
    *,
    factor: int,
    minimize: bool,
    bracket_of: BracketOf = one_bracket,
) -> bool:
    """Return whether a trial that has just reached a rung is among the best of its bracket there.

    arrivals: of all trials at that rung, its own among them
    """
    there = [each for each in arrivals if bracket_of(each.number) == bracket_of(own.number)]
    return own.trial_id in _best(there, factor, minimize)


def list_promoted(
    arrivals: Iterable[Arrival],
    *,
    factor: int,
    minimize: bool,
    bracket_of: BracketOf = one_bracket,
) -> list[int]:
    """Return all trials that are among the best of their rung and bracket, and have not gone on
    yet.

    They come in the order in which they go on: those of the highest rung first, and of one bracket
    there the best first.
    """
    rungs: defaultdict[tuple[int, int], list[Arrival]] = defaultdict(list)
    for each in arrivals:
        rungs[each.rung, bracket_of(each.number)].append(each)
    found = []
    for _, there in sorted(rungs.items(), reverse=True):
        waiting = {each.trial_id for each in there if each.is_paused or each.may_return}
        found += [each for each in _best(there, factor, minimize) if each in waiting]
    return found


def may_be_promoted(
    arrivals: Iterable[Arrival],
    trial_id: int,
    *,
    factor: int,
    minimize: bool,
    growth: int,
    bracket_of: BracketOf = one_bracket,
) -> bool:
    """Whether a trial at a rung may still be promoted when the study grows.

    It may if it would be among the best of ``growth`` times as many arrivals, even if all new ones
    were worse.
    """
    arrivals = list(arrivals)
    for own in arrivals:
        if own.trial_id == trial_id and (own.is_paused or own.may_return):
            alike = own.rung, bracket_of(own.number)
            there = [each for each in arrivals if (each.rung, bracket_of(each.number)) == alike]
            return trial_id in _best(there, factor, minimize, growth)
    return False


def find_leader(arrivals: Iterable[Arrival], *, minimize: bool) -> int | None:
    """Return the best trial of the highest rung at which a trial pauses, or has ended without being
    promoted; None: there is none."""
    sign = 1 if minimize else -1
    paused = [each for each in arrivals if each.is_paused or each.may_return]
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
    return [Arrival(row[0], row[1], row[2], bool(row[3]), row[4], row[5]) for row in found]


def _best(there: list[Arrival], factor: int, minimize: bool, growth: int = 1) -> list[int]:
    """Return the best one in ``factor`` of the arrivals at a rung, the best first.

    Among equals the earlier one comes first. growth: by which factor the arrivals may grow
    """
    sign = 1 if minimize else -1
    ranked = sorted(there, key=lambda each: (sign * each.value, each.trial_id))
    return [each.trial_id for each in ranked[: growth * len(there) // factor]]
