"""The certificate of a configuration: what the seeds that trained it again say of it.

    certificates = certify(compared, seeds=3, minimize=True)     # one a configuration
    certificates[0].mean, certificates[0].deviation, certificates[0].probability

The best trial of a search is partly good and partly lucky: it is the best epoch of one seed, and
the best of many such. Fresh seeds tell the two apart. A certificate says how good the
configuration is over them, how probable it is that it is the best of those that were trained again,
and how much of the search's lead is left. It stands in the export's provenance;
`storage.files.certificate_words` puts it into words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, median_low, stdev
from typing import Any

from search.trials.seed_statistics import best_place, probabilities_best

DIGITS = 3  # of a probability: it is drawn, and equal on all machines when it is rounded


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One of the configurations that were trained again.

    searched: the value of its trial; values: of its seeds, in their order
    failed: why a seed gave no model; seconds: that all its seeds took
    """

    trial: int
    searched: float | None
    values: tuple[float, ...]
    failed: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def mean(self) -> float:
        return fmean(self.values)

    def median_run(self) -> float:
        """Return the value of the median seed; of an even number, the lower of the two middle
        ones."""
        return median_low(self.values)


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """What is known of one configuration over its seeds.

    seeds: how many were to be trained; values: of those that were, in their order
    mean, deviation: of the values (that of the sample; None for one seed)
    probability: that it is the best of the ``compared``; None: the noise is unknown, a person
        chose, or they stand on a front
    search_best: the trial of the compared that was the best in the search
    lead_in_search, lead_over_seeds: how much better that trial was than the best of the others,
        in the search and over the seeds; < 0: it is worse. Shares of its value if
        ``is_relative``. None: there are no others
    compared: all configurations that were trained again, the best first; on a front only this one
    """

    trial: int
    seeds: int
    values: tuple[float, ...]
    failed: tuple[str, ...]
    mean: float
    deviation: float | None
    probability: float | None
    search_best: int | None
    lead_in_search: float | None
    lead_over_seeds: float | None
    is_relative: bool
    compared: tuple[Compared, ...]

    def to_plain(self) -> dict[str, Any]:
        """Return the certificate as JSON gives it back."""
        plain = asdict(self)
        rows = [{**row, "values": [*row["values"]], "failed": [*row["failed"]]}
                for row in plain["compared"]]  # fmt: skip
        return {**plain, "values": [*self.values], "failed": [*self.failed], "compared": rows}

    def is_said_by(self, found: Any) -> bool:
        """Whether an export has this certificate, or one that says as much.

        found: the certificate in its provenance. One that compared more configurations says
            more. Older versions trained one seed and wrote none.
        """
        if found is None:
            return self.seeds == 1
        now = self.to_plain()
        try:
            same = all(found[name] == now[name] for name in ("trial", "values", "failed"))
            return same and all(row in found["compared"] for row in now["compared"])
        except (TypeError, KeyError):
            return False


def certify(
    compared: Sequence[Compared],
    *,
    seeds: int,
    minimize: bool,
    by_value: bool = True,
    is_front: bool = False,
) -> list[Certificate]:
    """Return the certificates of all configurations, in the order in which they are given.

    by_value: False: a person ranks them, and no value says which is the best
    is_front: they stand on a front, on which none leads
    """
    probabilities = None
    sound = [row for row in compared if not row.failed]
    if by_value and len(sound) > 1:
        probabilities = probabilities_best([row.values for row in sound], minimize=minimize)
    best = {} if probabilities is None else {
        row.trial: round(found, DIGITS) for row, found in zip(sound, probabilities, strict=True)
    }  # fmt: skip
    leads = _leads([] if is_front else compared, minimize=minimize)
    return [
        Certificate(
            trial=row.trial,
            seeds=seeds,
            values=row.values,
            failed=row.failed,
            mean=row.mean,
            deviation=stdev(row.values) if len(row.values) > 1 else None,
            probability=best.get(row.trial),
            compared=(row,) if is_front else tuple(compared),
            **leads,
        )
        for row in compared
    ]


def _leads(compared: Sequence[Compared], *, minimize: bool) -> dict[str, Any]:
    """Return by how much the search's best led, in the search and over the seeds."""
    searched = [row.searched for row in compared]
    before = [value for value in searched if value is not None]
    nothing = {
        "search_best": None, "lead_in_search": None, "lead_over_seeds": None,
        "is_relative": False,
    }  # fmt: skip
    if len(before) < max(2, len(compared)):
        return nothing
    after = [row.mean for row in compared]
    leader = best_place(before, minimize=minimize)
    is_relative = min(before) > 0 and min(after) > 0

    def lead(values: Sequence[float]) -> float:
        others = [value for place, value in enumerate(values) if place != leader]
        rival = min(others) if minimize else max(others)
        gained = rival - values[leader] if minimize else values[leader] - rival
        return gained / rival if is_relative else gained

    return {
        "search_best": compared[leader].trial,
        "lead_in_search": lead(before),
        "lead_over_seeds": lead(after),
        "is_relative": is_relative,
    }
