"""What several studies have found, and at which cost, side by side.

    compared = [compare_study(["cae", "cae_2"], open_study), compare_study(["cae_tpe"], open_study)]
    check_comparable(compared)
    compared[0].values               # of its winners, over seeds or over runs
    compared[0].progress             # best value so far, over training seconds and over epochs
    reach_share(compared[0], compared[1])

A study may have been run several times, under several names: then its runs are what is repeated.
Of a study that was run once, the seeds of its winner are.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, median_high
from typing import Any

from optuna.trial import TrialState

from search.errors import SearchError
from search.reporting.reported_study import ReportedStudy, value_of
from search.trials.study_cost import seconds_of
from storage.errors import short


class NotComparable(SearchError):
    """The values of two studies do not mean the same."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """A search, trial by trial in the order in which the trials ended.

    seconds, epochs: of the training of all trials so far
    best: the best value of a complete trial so far; None: there is none yet
    """

    seconds: tuple[float, ...]
    epochs: tuple[int, ...]
    best: tuple[float | None, ...]

    def best_after(self, cost: float, costs: Sequence[float]) -> float | None:
        """Return the best value after ``cost`` was spent; costs: ``seconds`` or ``epochs``"""
        place = bisect.bisect_right(costs, cost)
        return self.best[place - 1] if place else None

    def seconds_until(self, value: float, *, minimize: bool) -> float | None:
        """Return after how many seconds a trial was as good as ``value``; None: no trial was."""
        for spent, best in zip(self.seconds, self.best, strict=True):
            if best is not None and (best <= value if minimize else best >= value):
                return spent
        return None


@dataclass(frozen=True)
class ComparedStudy:
    """One study, or several runs of it."""

    runs: tuple[ReportedStudy, ...]

    @property
    def name(self) -> str:
        return self.runs[0].name

    @property
    def metric(self) -> str:
        return self.runs[0].metric

    @property
    def minimize(self) -> bool:
        return self.runs[0].minimize

    @cached_property
    def progress(self) -> tuple[Progress, ...]:
        """How the search of each run went."""
        return tuple(map(_follow, self.runs))

    @cached_property
    def winners(self) -> tuple[dict[str, Any] | None, ...]:
        """What the first export of each run says; None: it has none."""
        return tuple(run.exports[0][1] if run.exports else None for run in self.runs)

    @cached_property
    def values(self) -> tuple[float, ...]:
        """The winner's values: of each run the mean over its seeds, of a single run each seed."""
        found = [values for about in self.winners if (values := _seed_values(about, self.metric))]
        if len(self.runs) == 1:
            return tuple(found[0]) if found else ()
        return tuple(map(fmean, found))

    @property
    def best(self) -> float | None:
        """The best value of the searches; of several, the mean of the best of each."""
        found = [run.best[-1] for run in self.progress if run.best and run.best[-1] is not None]
        return fmean(value for value in found if value is not None) if found else None

    @property
    def test(self) -> float | None:
        """The winner's value on the test images; of several runs the mean."""
        found = [
            float(about["test"][self.metric])
            for about in self.winners
            if about is not None and about["test"] is not None
        ]
        return fmean(found) if found else None


def _seed_values(about: dict[str, Any] | None, metric: str) -> list[float]:
    """Return the values of a winner's seeds on the validation images."""
    if about is None:
        return []
    certificate = about.get("certificate")
    if isinstance(certificate, dict) and certificate["values"]:
        return [float(value) for value in certificate["values"]]
    return [float(about["valid"][metric])]


def _follow(study: ReportedStudy) -> Progress:
    ended = [trial for trial in study.all_trials if trial.datetime_complete is not None]
    ended.sort(key=lambda trial: (trial.datetime_complete, trial.number))
    seconds, epochs, best = 0.0, 0, None
    rows: list[tuple[float, int, float | None]] = []
    for trial in ended:
        seconds += seconds_of(trial) or 0.0
        epochs += len(trial.intermediate_values)
        value = value_of(trial) if trial.state == TrialState.COMPLETE else None
        if value is not None:
            best = value if best is None else (min if study.minimize else max)(best, value)
        rows.append((seconds, epochs, best))
    return Progress(
        seconds=tuple(row[0] for row in rows),
        epochs=tuple(row[1] for row in rows),
        best=tuple(row[2] for row in rows),
    )


def compare_study(names: Sequence[str], read: Callable[[str], ReportedStudy]) -> ComparedStudy:
    """Return a study with its runs. names: of the stored studies; read: reads one of them"""
    return ComparedStudy(tuple(map(read, names)))


def check_comparable(compared: Sequence[ComparedStudy]) -> None:
    """Raise `NotComparable` unless values rank all runs, and they have the same metric, direction,
    images and extractor of features.

    It reads the trial database.
    """
    first, *others = runs = [run for each in compared for run in each.runs]
    for run in runs:
        if run.is_chosen_by_eye:
            raise NotComparable(
                f"a person's choices rank study {run.name!r}, and a comparison needs values; "
                "leave it out, and look at its report"
            )
    for other in others:
        for what, mine, theirs in (
            ("metric", first.metric, other.metric),
            ("direction", first.study.direction.name, other.study.direction.name),
            ("images", _pixels(first), _pixels(other)),
            ("extractors of features", *_known_extractors(first, other)),
        ):
            if what == "images" and mine != theirs:
                mine, theirs = (f"{_data(run)} ({_pixels(run)})" for run in (first, other))
            if mine != theirs:
                raise NotComparable(
                    f"studies {first.name!r} and {other.name!r} have different {what}: "
                    f"{short(str(mine))} and {short(str(theirs))}; compare studies that measure "
                    "the same"
                )


def _known_extractors(first: ReportedStudy, other: ReportedStudy) -> tuple[str, str]:
    """Return the extractors of both studies; one that names none is taken to have the other's."""
    found = first.extractor, other.extractor
    return found if all(found) else ("", "")


def _pixels(run: ReportedStudy) -> str:
    """Return a word for the images that a study was measured on; empty: it is not known.

    The same images have the same word wherever they lie.
    """
    return str(run.definition.get("pixels", ""))


def _data(run: ReportedStudy) -> str:
    """Return where these images came from, as DATA names it."""
    return str(run.definition.get("data", "")) or "unknown data"


def reach_share(first: ComparedStudy, second: ComparedStudy) -> float | None:
    """Return how soon ``first`` was as good as the best value of ``second``; None: it never was.

    It is a share of the seconds that ``second`` took for that value. Of several runs, the median
    ones count.
    """
    target = second.best
    if target is None:
        return None
    mine, theirs = (_median_seconds(each, target) for each in (first, second))
    return mine / theirs if math.isfinite(mine) and math.isfinite(theirs) and theirs else None


def _median_seconds(study: ComparedStudy, target: float) -> float:
    """Return after how many seconds half of the runs were as good as ``target``, or infinity."""
    found = [run.seconds_until(target, minimize=study.minimize) for run in study.progress]
    return median_high(math.inf if spent is None else spent for spent in found)
