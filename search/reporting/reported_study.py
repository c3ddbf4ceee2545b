"""A study as a report reads it: its trials, what it was made with, its exports.

    reported = read_study("cae", "sqlite:///runs/studies.db", RunPaths(Path("runs")))
    reported.trials                   # those that have ended, best first
    reported.exports                  # what the export folders say, best first

It loads no torch: what a study was made with is read as the plain values that the database keeps.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import inspect

from search.errors import SearchError
from search.goals import Goal, goals_of
from search.reporting.figures import DrawnTrial
from search.reporting.importance import quality_of
from search.reporting.pictures import is_picture
from search.spelling import spell
from search.trials.study_front import front_of
from search.trials.study_record import StudyRecord, read_record
from search.trials.trial_attributes import sound_attributes
from storage.database.finishes import find_finish
from storage.database.json_texts import parse_json
from storage.database.optuna_storage import TrialStorage
from storage.database.preferences import is_preferential, read_choices
from storage.database.rungs import read_arrivals
from storage.database.schema import rungs
from storage.files.artifacts import ArtifactFolder, listed_artifacts
from storage.files.exports import read_provenance
from storage.files.object_store import ObjectStore
from storage.paths import NAME, RunPaths

JUDGE = "judge"  # the attribute that says with which extractor of features samples were judged
DEFINITION = "definition"  # the attribute that holds what a study was made with, as JSON


class NotReported(SearchError):
    """The study has nothing that a report could show."""


@dataclass(frozen=True)
class ReportedStudy:
    """A stored study, and the folders in which its pictures and exports are.

    shared: where those of other machines are; None: there are none
    """

    study: optuna.Study
    storage: TrialStorage
    paths: RunPaths
    shared: ObjectStore | None = None

    @property
    def name(self) -> str:
        return str(self.study.study_name)

    @cached_property
    def goals(self) -> tuple[Goal, ...]:
        """What its trials are compared by, the quality first."""
        return goals_of(self.study)

    @property
    def metric(self) -> str:
        """The name of the quality."""
        return self.goals[0].name

    @property
    def minimize(self) -> bool:
        return self.goals[0].minimize

    @cached_property
    def front(self) -> list[FrozenTrial]:
        """The trials on the front, in the order in which they add most to the hypervolume.

        It is empty for a study with one goal.
        """
        return front_of(self.all_trials, self.goals) if len(self.goals) > 1 else []

    @cached_property
    def all_trials(self) -> list[FrozenTrial]:
        trials = self.study.get_trials()
        for trial in trials:
            trial._user_attrs = sound_attributes(trial.user_attrs)
        return trials

    @cached_property
    def states(self) -> Counter[str]:
        """How many trials are in each of Optuna's states."""
        return Counter(trial.state.name for trial in self.all_trials)

    @cached_property
    def paused(self) -> int:
        """How many trials pause at a rung. Their state in Optuna is WAITING."""
        if not self.states["WAITING"]:
            return 0
        with self.storage.engine.connect() as connection:
            if not inspect(connection).has_table(rungs.name):
                return 0
            found = read_arrivals(connection, self.study._study_id)
        return sum(arrival.is_paused for arrival in found)

    @cached_property
    def trials(self) -> list[FrozenTrial]:
        """The trials that have ended, best first: complete, then pruned, then all others.

        Where a person ranks the trials, their choices say which complete ones are the best. Of
        several goals the front comes first.
        """
        ranks = self._ranks_by_choice()
        if len(self.goals) > 1:
            places = {trial.number: place for place, trial in enumerate(self.front)}
            ranks = {t.number: places.get(t.number, len(places)) for t in self.all_trials}

        def rank(trial: FrozenTrial) -> tuple[int, float, float, int]:
            order = {TrialState.COMPLETE: 0, TrialState.PRUNED: 1}.get(trial.state, 2)
            value = value_of(trial)
            cost = math.inf if value is None else value if self.minimize else -value
            return order, ranks.get(trial.number, 0), cost, trial.number

        return sorted((t for t in self.all_trials if t.state.is_finished()), key=rank)

    @property
    def is_chosen_by_eye(self) -> bool:
        """Whether a person's choices rank the trials."""
        return is_preferential(self.storage.get_study_system_attrs(self.study._study_id))

    @property
    def extractor(self) -> str:
        """A word for the features in which samples were judged; empty: nothing is known of any."""
        judge = self.study.user_attrs.get(JUDGE)
        found = judge.get("hash") if isinstance(judge, dict) else None
        return found[:16] if isinstance(found, str) else ""

    def _ranks_by_choice(self) -> Mapping[int, int]:
        study_id = self.study._study_id
        if not self.is_chosen_by_eye:
            return {}
        with self.storage.engine.connect() as connection:
            choices = read_choices(connection, study_id)
        complete = {
            t.number: quality_of(t) or 0.0
            for t in self.all_trials
            if t.state == TrialState.COMPLETE
        }
        return {number: rank for rank, number in enumerate(choices.ranked(complete))}

    @cached_property
    def drawn(self) -> list[DrawnTrial]:
        """The trials that have ended as figures show them, best first."""
        return [_draw(trial, self.first_step) for trial in self.trials]

    @property
    def first_step(self) -> int:
        """Optuna's step of the first epoch: genstudy counts steps from 0, epochs from 1."""
        return 0 if self.definition else 1

    @cached_property
    def definition(self) -> Mapping[str, Any]:
        """What the study was made with; empty where genstudy did not make it."""
        try:
            found = parse_json(self.study.user_attrs.get(DEFINITION, "{}"))
            channels, height, width = map(int, found["shape"])
        except (ValueError, TypeError, KeyError):
            return {}
        return {"data": "", **found, "shape": [channels, height, width]}

    @cached_property
    def record(self) -> StudyRecord | None:
        """What the last run wrote down; None for a study of an older version."""
        return read_record(self.study)

    @cached_property
    def models_tested(self) -> int:
        """How many models of this study were measured on the test images."""
        finish = find_finish(self.storage.engine, self.definition.get("token"))
        return 0 if finish is None else finish.models_tested

    @cached_property
    def exports(self) -> list[tuple[Path, dict[str, Any]]]:
        """The exports of this study, and not of a deleted namesake, best first."""
        found = []
        folder = self.paths.exports(self.name)
        ranks = sorted(int(p.name) for p in folder.glob("[0-9]*") if p.name.isdigit())
        for rank in ranks:
            about = read_provenance(folder / str(rank))
            if about is not None and about.get("token") == self.definition.get("token"):
                found.append((folder / str(rank), about))
        return found

    def pictures(self, trial: FrozenTrial) -> dict[str, Path]:
        """Return the pictures that a trial ended with, by name, the first one first."""
        found, folder = {}, ArtifactFolder(self.paths.artifacts, self.shared)
        for about in listed_artifacts(self.storage.get_trial_system_attrs(trial._trial_id)):
            name = about.filename
            usable = NAME.fullmatch(name) and about.mimetype.startswith("image/")
            if not usable or "-epoch-" in name:
                continue
            source = folder.bring(about.artifact_id)
            if is_picture(source):
                found[name] = source
        return found


def value_of(trial: FrozenTrial) -> float | None:
    """Return a trial's value, of several the first; None: it has none.

    A pruned trial has the last value that it reported.
    """
    value = quality_of(trial)
    if value is None and trial.state == TrialState.PRUNED and trial.intermediate_values:
        value = trial.intermediate_values[max(trial.intermediate_values)]  # of several goals
    return value if value is not None and math.isfinite(value) else None


def outcome_of(trial: FrozenTrial) -> str:
    """Return how a trial has ended, in a word."""
    return str(trial.user_attrs.get("outcome", trial.state.name.lower()))


def count_outcomes(trials: Sequence[FrozenTrial]) -> str:
    """Return ``28 complete, 12 pruned``."""
    counts = Counter(map(outcome_of, trials))
    return ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common())


def _draw(trial: FrozenTrial, first_step: int) -> DrawnTrial:
    return DrawnTrial(
        number=trial.number,
        outcome=outcome_of(trial),
        value=value_of(trial),
        complete=trial.state == TrialState.COMPLETE,
        curve=[
            (step + 1 - first_step, value)
            for step, value in sorted(trial.intermediate_values.items())
            if math.isfinite(value)
        ],
        parameters=trial.params,
    )


def read_study(
    name: str, storage: TrialStorage, paths: RunPaths, shared: ObjectStore | None = None
) -> ReportedStudy:
    """Return the stored study. Raises `NotReported` before a trial has ended."""
    study = optuna.load_study(study_name=name, storage=storage)
    reported = ReportedStudy(study, storage, paths, shared)
    if not reported.trials:
        raise NotReported(
            f"no trial of study {name!r} has ended yet; run it first: {spell('study', NAME=name)}"
        )
    return reported
