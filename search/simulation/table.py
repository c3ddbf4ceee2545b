"""What was simulated as a table for a terminal, and as rows for a program.

rows = [("as it ran", [ran]), ("asha, 4 workers", played)]
console.print(outcome_table("mse", rows, all_epochs=[600, 600]))
frame = outcome_frame(rows)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from search.simulation.orders import Outcome
from search.tables import Column, FittedTable, Kind
from search.words import format_duration
from storage.files.certificate_words import format_spread

if TYPE_CHECKING:
    import pandas as pd

Rows = Sequence[tuple[str, Sequence[Outcome]]]


def outcome_table(metric: str, rows: Rows, *, all_epochs: Sequence[int]) -> FittedTable:
    """Return a row a setting: means over its orders, with standard deviations.

    all_epochs: of each row, the trial-epochs of its trials without a pruner
    """
    titles = [title for title, _ in rows]
    found = [outcomes for _, outcomes in rows]
    columns = {
        "trial-epochs": [_count([each.epochs for each in its]) for its in found],
        "of all": [
            f"{100 * fmean(each.epochs for each in its) / whole:.0f} %"
            for its, whole in zip(found, all_epochs, strict=True)
        ],
        "machine time": [format_duration(fmean(each.machine for each in its)) for its in found],
        "wall time": [_duration([each.wall for each in its]) for its in found],
        **(_of_fronts(found) if _has_fronts(found) else _of_winners(metric, found)),
    }
    numbers = [Column(head, cells, Kind.NUMBER) for head, cells in columns.items()]
    return FittedTable([Column("", titles), *numbers])


def _has_fronts(found: Sequence[Sequence[Outcome]]) -> bool:
    """Whether the study has several goals."""
    return any(each.on_front is not None for its in found for each in its)


def _of_winners(metric: str, found: Sequence[Sequence[Outcome]]) -> dict[str, list[str]]:
    """Return the columns that say how good the best trial is."""
    return {
        f"best {metric}": [_value(_known([each.best for each in its])) for its in found],
        "behind the best": [_share(_known([each.behind for each in its])) for its in found],
        "rank": [_rank([each.rank for each in its]) for its in found],
    }


def _of_fronts(found: Sequence[Sequence[Outcome]]) -> dict[str, list[str]]:
    """Return the columns that say how good the front is, and how many trials are on it."""
    return {
        "hypervolume": [_share(_known([each.volume for each in its])) for its in found],
        "on the front": [_count([each.on_front or 0 for each in its]) for its in found],
    }


def outcome_frame(rows: Rows) -> pd.DataFrame:
    """Return a row a setting and order; times are in seconds."""
    import pandas as pd

    return pd.DataFrame(
        [
            {"setting": title, "order": order, **asdict(outcome)}
            for title, outcomes in rows
            for order, outcome in enumerate(outcomes)
        ]
    )


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _spread(values: Sequence[float]) -> float:
    return stdev(values) if len(values) > 1 else 0.0


def _count(values: Sequence[int]) -> str:
    spread = _spread(values)
    return f"{fmean(values):,.0f}" + (f" ± {spread:,.0f}" if spread else "")


def _duration(values: Sequence[float]) -> str:
    spread = _spread(values)
    return format_duration(fmean(values)) + (f" ± {format_duration(spread)}" if spread else "")


def _value(values: Sequence[float]) -> str:
    if not values:
        return "-"
    spread = _spread(values)
    return format_spread(fmean(values), spread) if spread else f"{values[0]:.5g}"


def _share(values: Sequence[float]) -> str:
    if not values:
        return "-"
    spread = _spread(values)
    return f"{100 * fmean(values):.1f} %" + (f" ± {100 * spread:.1f} %" if spread else "")


def _rank(ranks: Sequence[int | None]) -> str:
    """Return ``1``, or the mean with the range of those that differ."""
    known = [rank for rank in ranks if rank is not None]
    if not known:
        return "-"
    if min(known) == max(known):
        return str(known[0])
    return f"{fmean(known):.1f} ({min(known)} to {max(known)})"
