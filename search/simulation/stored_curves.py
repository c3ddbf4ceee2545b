"""The full curves of a study: what every trial reported, epoch by epoch, and how long each took.

    stored = read_curves("cae", "sqlite:///runs/studies.db")
    stored.full, stored.short       # curves of every epoch; how many others there are

A curve is full if its trial is complete and has reported every epoch. A pruned or failed trial has
a short curve. Nobody knows how it would have gone on, so it is left out of a simulation. It still
counts in the cost of the study itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import optuna
from sqlalchemy import Connection

from search.errors import SearchError
from search.front import Vector, as_costs
from search.goals import Goal, goals_of
from search.spelling import spell
from search.trials.study_record import read_record
from search.words import format_count
from storage import curves, trials
from storage.database.connection import open_storage
from storage.database.json_texts import parse_json
from storage.database.rows import fetch_rows
from storage.database.trial_states import outcome_of
from storage.database.vectors import cost_attribute, read_vectors
from storage.errors import short

if TYPE_CHECKING:
    import pandas as pd

NUMBERS = "SELECT trial_id, number FROM trials WHERE study_id = :study_id"


class NoCurves(SearchError):
    """There is no full curve to simulate with; the message says how to get some."""


@dataclass(frozen=True, kw_only=True)
class AboutStudy:
    """The study that the curves come from.

    epochs: of a full curve; minimize: whether a smaller value is better
    sampler, pruner: as a user writes them; workers: of its last run
    wall: seconds in which at least one trial ran, on any machine
    timed: whether the seconds of single epochs were kept; if not, each has its trial's mean
    goals: several of them, the quality first; empty: there is one
    """

    study: str
    metric: str
    minimize: bool
    epochs: int
    sampler: str
    pruner: str
    workers: int
    wall: float
    timed: bool = True
    goals: tuple[Goal, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One trial: its values by epoch, and the seconds of each.

    vectors: of several goals, by epoch; empty: there is one
    """

    number: int
    outcome: str
    values: tuple[float, ...]
    seconds: tuple[float, ...]
    vectors: tuple[Vector, ...] = ()

    def best(self, epochs: int, *, minimize: bool) -> float:
        """Return its best value within the first ``epochs``."""
        return (min if minimize else max)(self.values[:epochs])

    def vector(self, epochs: int, *, minimize: bool) -> Vector:
        """Return its vector within the first ``epochs``: that of the best epoch by the quality."""
        return self.vectors[self.values.index(self.best(epochs, minimize=minimize))]


@dataclass(frozen=True, kw_only=True)
class StoredCurves:
    """All curves of a study."""

    about: AboutStudy
    curves: tuple[Curve, ...]

    @property
    def full(self) -> list[Curve]:
        """Those of complete trials that have reported every epoch."""
        return [curve for curve in self.curves if self._is_full(curve)]

    @property
    def short(self) -> Counter[str]:
        """How many others there are, by outcome."""
        return Counter(each.outcome for each in self.curves if not self._is_full(each))

    def _is_full(self, curve: Curve) -> bool:
        return curve.outcome == "complete" and len(curve.values) >= self.about.epochs

    def check(self) -> None:
        """Raise `NoCurves` where no curve is full."""
        if not self.full:
            about = self.about
            there = ", ".join(f"{count} {word}" for word, count in self.short.most_common())
            raise NoCurves(
                f"no trial of {short(about.study)} has a full curve of "
                f"{format_count(about.epochs, 'epoch')} ({there or 'none has reported any'}); "
                f"train some to the end: {spell('study', NAME=about.study, PRUNER='none')}"
            )


def read_curves(name: str, url: str) -> StoredCurves:
    """Return the curves of a stored study. Raises `StudyNotFound`."""
    frame, rows = trials(name, storage=url), curves(name, storage=url)
    storage = open_storage(url, create=False)
    try:
        study = optuna.load_study(study_name=name, storage=storage)
        record, definition = read_record(study), study.user_attrs.get("definition")
        minimize = study.directions[0] == optuna.study.StudyDirection.MINIMIZE
        found, goals = _collect(frame, rows), _several_goals(study, frame)
        if goals:
            with storage.engine.connect() as connection:
                found = _with_vectors(connection, study._study_id, found, goals)
    finally:
        storage.engine.dispose()
    about = AboutStudy(
        study=name,
        metric=goals[0].name if goals else _plain(definition).get("metric", "value"),
        minimize=minimize,
        epochs=_epochs_of(definition, found),
        sampler="unknown" if record is None else record.sampler,
        pruner="none" if record is None else record.pruner,
        workers=1 if record is None else _count_workers(record.devices),
        wall=_busy_seconds(frame),
        timed="epoch_seconds" in rows,
        goals=goals,
    )
    return StoredCurves(about=about, curves=tuple(found))


def _several_goals(study: optuna.Study, frame: pd.DataFrame) -> tuple[Goal, ...]:
    """Return the goals of a study that has several, each with whether it is a cost."""
    goals = goals_of(study)
    if len(goals) == 1:
        return ()
    return tuple(replace(goal, is_cost=cost_attribute(goal.name) in frame) for goal in goals)


def _with_vectors(
    connection: Connection, study_id: int, found: Sequence[Curve], goals: Sequence[Goal]
) -> list[Curve]:
    """Return the curves with their vectors; those that lack one are left out."""
    numbers = dict(fetch_rows(connection, NUMBERS, study_id=study_id))
    known: dict[tuple[int, int], Vector] = {}  # by trial and step
    for step in range(max((len(curve.values) for curve in found), default=0)):
        at_step = read_vectors(connection, study_id, step, goals)
        costs = as_costs([values for values, _ in at_step.values()], goals).tolist()
        for own, (trial_id, (_, violation)) in zip(costs, at_step.items(), strict=True):
            known[numbers[trial_id], step] = Vector(costs=tuple(own), violation=violation)
    complete = []
    for curve in found:
        places = [(curve.number, step) for step in range(len(curve.values))]
        if all(place in known for place in places):
            complete.append(replace(curve, vectors=tuple(known[place] for place in places)))
    return complete


def _collect(frame: pd.DataFrame, rows: pd.DataFrame) -> list[Curve]:
    """Return the curves of trials that have reported anything without a gap."""
    found = []
    by_number = dict(iter(rows.groupby("number")))
    for trial in frame.to_dict("records"):
        its = by_number.get(trial["number"])
        if its is None:
            continue
        its = its[its["value"].notna()].sort_values("epoch")
        if its.empty or its["epoch"].tolist() != list(range(1, len(its) + 1)):
            continue
        values = tuple(map(float, its["value"]))
        if "epoch_seconds" in its and its["epoch_seconds"].notna().all():
            seconds = tuple(map(float, its["epoch_seconds"]))
        else:
            seconds = (_seconds_of(trial) / max(1, len(values)),) * len(values)
        outcome = outcome_of(trial["state"], trial.get("outcome"))
        found.append(
            Curve(number=int(trial["number"]), outcome=outcome, values=values, seconds=seconds)
        )
    return found


def _seconds_of(trial: Mapping[Any, Any]) -> float:
    """Return how long a trial took; 0 where it still runs."""
    seconds = trial.get("seconds")
    if isinstance(seconds, int | float) and seconds == seconds:
        return float(seconds)
    duration = trial["duration"]
    return 0.0 if duration != duration else float(duration.total_seconds())


def _busy_seconds(frame: pd.DataFrame) -> float:
    """Return the seconds in which at least one trial ran.

    The night between two calls does not count, unless a trial was interrupted.
    """
    begun = frame[frame["started"].notna() & frame["ended"].notna()].sort_values("started")
    busy, until = 0.0, None
    for started, ended in begun[["started", "ended"]].itertuples(index=False):
        since = started if until is None else max(started, until)
        busy += max(0.0, (ended - since).total_seconds())
        until = ended if until is None else max(until, ended)
    return busy


def _epochs_of(definition: Any, found: list[Curve]) -> int:
    """Return how many epochs a full curve has.

    In another tool's study the longest complete trial decides.
    """
    epochs = _plain(definition).get("epochs")
    if isinstance(epochs, int) and not isinstance(epochs, bool) and epochs > 0:
        return epochs
    return max((len(curve.values) for curve in found if curve.outcome == "complete"), default=1)


def _plain(definition: Any) -> dict[str, Any]:
    try:
        found = parse_json(definition)
    except (ValueError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _count_workers(devices: str) -> int:
    """Return how many workers ``2 x cpu, 1 x cuda:0`` says."""
    counts = [part.strip().partition(" ")[0] for part in devices.split(",")]
    return max(1, sum(int(count) for count in counts if count.isdigit()))
