"""What is known of a trial, a retraining or an export, as experiment trackers take it.

    source = RunSource(queue, run, spec)
    source.trial(3)                    # from the trial database
    source.retraining(3, repeat=1)     # from its record under RUNS
    source.export(1)                   # from its folder

All of these stand somewhere else for good. So a tracker that was away, or a command that was
killed, loses nothing: whoever goes on reads them there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optuna.trial import FrozenTrial

from search.events import PREVIEW, Retraining
from search.run import StudyRun
from search.study import StudySpec
from search.tracking.tracker import TrackedEnding, TrackedEpoch, TrackedPicture, TrackedRun
from search.trials.epoch_report import name_measures
from search.trials.queue import TrialQueue
from search.trials.retraining_record import RetrainingRecord, read_record
from search.trials.study_front import values_of
from search.trials.trial_attributes import sound_attributes
from storage.database.metrics import read_metrics
from storage.database.transactions import read
from storage.files.artifacts import listed_artifacts
from storage.files.exports import CARD, read_provenance

ABOUT = ("seed", "device", "host", "revision")  # attributes of a trial that a tracker is told
GROUPS = {"epoch_seconds": "seconds/epoch", "judge_seconds": "seconds/judge"}


@dataclass(frozen=True, kw_only=True)
class KnownRun:
    """A run as far as it is known. ending: None while it goes on, or where nobody knows"""

    run: TrackedRun
    epochs: Sequence[TrackedEpoch] = ()
    pictures: Sequence[TrackedPicture] = field(default=())
    ending: TrackedEnding | None = None


def trial_name(number: int) -> str:
    return f"trial-{number}"


def retraining_name(number: int, repeat: int) -> str:
    return f"retraining-{number}-seed-{repeat}"


def export_name(rank: int) -> str:
    return f"export-{rank}"


class RunSource:
    """Reads what is known of the runs of one study."""

    def __init__(self, trials: TrialQueue, run: StudyRun, spec: StudySpec) -> None:
        self.trials = trials
        self.run = run
        self.spec = spec

    def named(self, name: str) -> KnownRun | None:
        """Return the run of a name; None where it is not known."""
        kind, *numbers = name.replace("-seed", "").split("-")
        try:
            match kind, [int(number) for number in numbers]:
                case "trial", [number]:
                    return self.trial(number)
                case "retraining", [number, repeat]:
                    return self.retraining(number, repeat)
                case "export", [rank]:
                    return self.export(rank)
        except (KeyError, ValueError):  # no such trial, or no such name
            pass
        return None

    def trial(self, number: int) -> KnownRun:
        """Return a trial as the database has it. Raises `KeyError` where it has none."""
        queue = self.trials
        trial_id = queue.id_of(number)
        stored = queue.storage.get_trial(trial_id)
        with read(queue.engine) as connection:
            measured = read_metrics(connection, trial_id)
        epochs = make_epochs(
            {step + 1: measured.get(step + 1, {}) for step in sorted(stored.intermediate_values)}
        )
        attributes = sound_attributes(stored.user_attrs)
        about = {name: attributes[name] for name in ABOUT if name in attributes}
        return KnownRun(
            run=self._tracked(trial_name(number), stored.params, {"trial": number, **about}),
            epochs=epochs,
            pictures=self._pictures_of(stored, last=len(epochs)),
            ending=self._ending_of(stored) if stored.state.is_finished() else None,
        )

    def begun_retraining(self, begun: Retraining) -> KnownRun:
        """Return a retraining that begins, or goes on."""
        about = {"trial": begun.number, "repeat": begun.repeat, "seed": begun.seed}
        name = retraining_name(begun.number, begun.repeat)
        return KnownRun(
            run=self._tracked(name, begun.parameters, about),
            epochs=make_epochs(dict(enumerate(begun.past, start=1))),
            pictures=self._drawn(begun.number, begun.repeat, last=len(begun.past)),
        )

    def retraining(self, number: int, repeat: int) -> KnownRun | None:
        """Return a retraining that has ended; None where there is no record of it."""
        paths = self.run.paths.retraining(self.run.study, number, repeat)
        record = read_record(paths.record, token=self.run.token, trial=number, repeat=repeat)
        if not isinstance(record, RetrainingRecord):
            return None
        about = {"trial": number, "repeat": repeat, "seed": record.seed}
        judged = record.judge is not None
        measured = {
            epoch["number"]: name_measures(
                epoch["train"],
                epoch["valid"],
                epoch["seconds"],
                epoch.get("judging") if judged else None,
            )
            for epoch in record.curve
        }
        values = {f"best/{record.metric}": record.valid[record.metric]}
        return KnownRun(
            run=self._tracked(retraining_name(number, repeat), record.parameters, about),
            epochs=make_epochs(measured),
            pictures=self._drawn(number, repeat, last=record.epochs),
            ending=TrackedEnding(state="complete", epoch=record.epochs, values=values),
        )

    def export(self, rank: int) -> KnownRun | None:
        """Return an export; None where there is none of this study."""
        folder = self.run.paths.export(self.run.study, rank)
        found = read_provenance(folder)
        if found is None or found.get("token") != self.run.token:
            return None
        record = RetrainingRecord.from_plain(found)
        about = {
            "trial": record.trial,
            "repeat": record.repeat,
            "seed": record.seed,
            "model": record.model,
            "folder": str(folder),
        }
        values = {f"best/{record.metric}": record.valid[record.metric]}
        values |= {f"best/{goal['name']}": goal["value"] for goal in found.get("goals", ())}
        values |= {f"valid/{name}": value for name, value in record.valid.items()}
        values |= {f"test/{name}": value for name, value in (record.test or {}).items()}
        epoch = record.best_epoch
        card = (folder / CARD).read_text(encoding="utf-8", errors="replace")
        return KnownRun(
            run=self._tracked(export_name(rank), record.parameters, about, card),
            pictures=[
                TrackedPicture(name=path.stem, epoch=epoch, path=path)
                for path in sorted(folder.glob("*.png"))
                if not path.name.startswith("epoch_")  # its retraining shows them
            ],
            ending=TrackedEnding(state="complete", epoch=epoch, values=values),
        )

    def best_of(self, epochs: Iterable[TrackedEpoch]) -> dict[str, float]:
        """Return the best of the study's metric over epochs, as an ending has it."""
        name = series(f"valid_{self.spec.quality}")
        values = [epoch.values[name] for epoch in epochs if name in epoch.values]
        return self._best(values)

    def _tracked(
        self, name: str, parameters: Mapping[str, Any], about: Mapping[str, Any], card: str = ""
    ) -> TrackedRun:
        about = {**about, "metric": self.spec.quality}
        return TrackedRun(
            name=name,
            study=self.run.study,
            token=self.run.token,
            parameters=parameters,
            about=about,
            card=card,
        )

    def _ending_of(self, stored: FrozenTrial) -> TrackedEnding:
        """Return how a trial has ended."""
        values = [value for value in stored.intermediate_values.values() if math.isfinite(value)]
        about = sound_attributes(stored.user_attrs)
        return TrackedEnding(
            state=str(about.get("outcome", stored.state.name.lower())),
            epoch=max(stored.intermediate_values, default=-1) + 1,
            values=self._best(values) | self._goals_of(stored),
            reason=str(about.get("reason", "")),
        )

    def _best(self, values: Sequence[float]) -> dict[str, float]:
        if not values:
            return {}
        best = min(values) if self.spec.minimizes else max(values)
        return {f"best/{self.spec.quality}": best}

    def _goals_of(self, stored: FrozenTrial) -> dict[str, float]:
        """Return what a trial reaches in each of several goals; nothing of one goal."""
        if not self.spec.has_several_goals:
            return {}
        values = values_of(stored, self.spec.goals) or ()
        return {
            f"best/{goal.name}": value
            for goal, value in zip(self.spec.goals, values, strict=bool(values))
        }

    def _pictures_of(self, stored: FrozenTrial, *, last: int) -> list[TrackedPicture]:
        """Return the pictures of a trial that lie under this RUNS.

        last: its last epoch, to which pictures without one belong
        """
        found = []
        for about in listed_artifacts(stored.system_attrs):
            name, _, epoch = about.filename.removesuffix(".png").partition("-epoch-")
            path = self.run.paths.artifacts / about.artifact_id
            if about.filename.endswith(".png") and path.is_file():
                after = int(epoch) if epoch.isdigit() else last
                found.append(TrackedPicture(name=name, epoch=after, path=path))
        return found

    def _drawn(self, number: int, repeat: int, *, last: int) -> list[TrackedPicture]:
        """Return the pictures of a retraining's epochs."""
        paths = self.run.paths.retraining(self.run.study, number, repeat)
        drawn = ((epoch, paths.picture(epoch)) for epoch in range(1, last + 1))
        return [
            TrackedPicture(name=PREVIEW, epoch=epoch, path=path)
            for epoch, path in drawn
            if path.is_file()
        ]


def make_epochs(measured: Mapping[int, Mapping[str, float]]) -> list[TrackedEpoch]:
    """Return epochs, by number, as a tracker takes them."""
    return [
        TrackedEpoch(number=number, values={series(name): value for name, value in values.items()})
        for number, values in sorted(measured.items())
    ]


def series(name: str) -> str:
    """Return the series of a measure: ``valid/mse`` of ``valid_mse``, by which tools group."""
    part, _, metric = name.partition("_")
    return GROUPS.get(name) or (f"{part}/{metric}" if part in ("train", "valid") else name)
