"""How the retrained configurations stand: the race of their seeds, ranks and certificates.

    race = race_of(leaderboard, [7, 3])             # what is still to be trained
    for standing in standings_of(leaderboard, [7, 3]):
        standing.number, standing.repeat            # best first; whose weights are exported
    is_finished(leaderboard, ended=40, top=3)       # whether nothing is left to do

The mean over the seeds ranks the configurations. If a person ranks them, or if several goals make a
front, the order of the search stays. A configuration with a seed that gave no model ranks behind
all others. The weights of the median seed are exported: those of the best seed would promise more
than the configuration keeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from search.trials.certificate import Certificate, Compared, certify
from search.trials.leaderboard import Leaderboard
from search.trials.retraining_record import FailedRetraining, RetrainingRecord
from search.trials.seed_race import Race, run_race


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One configuration in its rank.

    number: of the trial; repeat: the seed whose weights are exported
    """

    number: int
    repeat: int
    certificate: Certificate


def race_of(leaderboard: Leaderboard, numbers: Sequence[int]) -> Race:
    """Return how far the race of these trials is.

    No trial is dropped if a person ranks them, or if they stand on a front.
    """
    found = {number: _values_of(leaderboard, number) for number in numbers}
    return run_race(
        found,
        seeds=leaderboard.run.seeds,
        minimize=leaderboard.minimizes,
        drops=leaderboard.ranks_by_value,
    )


def _values_of(leaderboard: Leaderboard, number: int) -> dict[int, float | None]:
    """Return the values of a trial's seeds, as far as they have records; None: without a model."""
    values: dict[int, float | None] = {}
    for repeat in range(1, leaderboard.run.seeds + 1):
        record = leaderboard.record(number, repeat)
        if isinstance(record, RetrainingRecord):
            values[repeat] = record.valid[leaderboard.spec.quality]
        elif record is not None:
            values[repeat] = None
    return values


def standings_of(leaderboard: Leaderboard, numbers: Sequence[int]) -> list[Standing]:
    """Return the standings of these trials, best first. Their race has to be over."""
    counted = race_of(leaderboard, numbers).counted
    rows = {number: _compare(leaderboard, number, counted[number]) for number in numbers}
    by_value = leaderboard.ranks_by_value
    if by_value:
        ranked = sorted(numbers, key=lambda number: _order(rows[number], leaderboard.minimizes))
    else:
        ranked = [number for number in leaderboard.ranked_trials() if number in rows]
    certificates = certify(
        [rows[number] for number in ranked],
        seeds=leaderboard.run.seeds,
        minimize=leaderboard.minimizes,
        by_value=by_value,
        is_front=leaderboard.spec.has_several_goals,
    )
    return [
        Standing(
            number=number,
            repeat=_median_repeat(leaderboard, number, counted[number], rows[number]),
            certificate=certificate,
        )
        for number, certificate in zip(ranked, certificates, strict=True)
    ]


def _compare(leaderboard: Leaderboard, number: int, count: int) -> Compared:
    """Return what the first ``count`` seeds of a trial gave."""
    records = [leaderboard.record(number, repeat) for repeat in range(1, count + 1)]
    trained = [record for record in records if isinstance(record, RetrainingRecord)]
    return Compared(
        trial=number,
        searched=leaderboard.value_of(number),
        values=tuple(record.valid[leaderboard.spec.quality] for record in trained),
        seconds=round(sum(record.seconds for record in trained), 1),
        failed=tuple(record.failed for record in records if isinstance(record, FailedRetraining)),
    )


def _order(row: Compared, minimize: bool) -> tuple[bool, float, int]:
    """Return what a configuration is sorted by: lower is better."""
    return bool(row.failed), row.mean if minimize else -row.mean, row.trial


def _median_repeat(leaderboard: Leaderboard, number: int, count: int, row: Compared) -> int:
    """Return the first seed that has the median value."""
    median, values = row.median_run(), _values_of(leaderboard, number)
    return next(repeat for repeat in range(1, count + 1) if values.get(repeat) == median)


def is_finished(leaderboard: Leaderboard, ended: int, top: int) -> bool:
    """Whether nothing is left to do: all trials have ended, the best ``top`` are exported.

    ended: how many trials have ended
    """
    if ended < leaderboard.run.trials:
        return False
    chosen: list[int] = []
    for number in leaderboard.ranked_trials():
        if len(chosen) == top:
            break
        record = leaderboard.record(number)
        if record is None:
            return False
        if isinstance(record, RetrainingRecord):
            chosen.append(number)
    if race_of(leaderboard, chosen).missing:
        return False
    ranked = enumerate(standings_of(leaderboard, chosen), start=1)
    return all(is_exported(leaderboard, standing, rank) for rank, standing in ranked)


def is_exported(leaderboard: Leaderboard, standing: Standing, rank: int) -> bool:
    """Whether the export of ``rank`` is whole and up to date."""
    return leaderboard.is_exported(
        standing.number, rank, repeat=standing.repeat, certificate=standing.certificate
    )


def is_export_of(
    leaderboard: Leaderboard, found: dict[str, Any], standing: Standing, rank: int
) -> bool:
    """Whether the provenance ``found`` is that of such an export, wherever it stands."""
    return leaderboard.is_export_of(
        found, standing.number, rank, repeat=standing.repeat, certificate=standing.certificate
    )
