"""What an experiment tracker is told of a study: runs, their epochs, pictures and ends.

    tracker.begin(run, epochs, pictures)      # a trial, a retraining or an export; or it goes on
    tracker.log_epoch(run, epoch)
    tracker.log_picture(run, picture)
    tracker.end(run, ending)                  # or it waits, and goes on later
    tracker.close()

TensorBoard, MLflow and Weights & Biases are each one file beside this one. Nobody tells a tracker
an epoch twice (`search.supervisor.tracking`). A tracker may raise whatever it likes: then it is
left alone, and the study goes on (`search.tracking.tracker_thread`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

WAITING = "waiting"  # the state of a run that goes on later
UNSOUND = ("failed", "diverged", "infeasible")  # states of runs that a person may want to look at


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """One run: a trial, a retraining or an export.

    name: ``trial-3``, ``retraining-3-seed-1`` or ``export-1``; kind: its first word
    token: of the stored study, which tells it from a deleted one of the same name
    parameters: what was tried; about: number, seed, device and whatever else is known
    card: a text in Markdown; empty: there is none
    """

    name: str
    study: str
    token: str
    parameters: Mapping[str, Any]
    about: Mapping[str, Any] = field(default_factory=dict)
    card: str = ""

    @property
    def kind(self) -> str:
        return self.name.partition("-")[0]

    @property
    def key(self) -> str:
        """A word that the same run has on every machine, and no other run has."""
        parts = [self.token, self.name, dict(self.parameters), self.about.get("seed")]
        text = json.dumps(parts, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class TrackedEpoch:
    """number: from 1; values: of each series, by a name such as ``valid/mse``"""

    number: int
    values: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class TrackedPicture:
    """path: of a PNG file; epoch: after which it was drawn; name: the same for each epoch"""

    name: str
    epoch: int
    path: Path


@dataclass(frozen=True, kw_only=True)
class TrackedEnding:
    """How a run ends.

    state: an outcome of `search.trials.outcomes`, or ``waiting``
    epoch: the last one; values: by series: ``best/mse``, and of an export ``test/mse``
    reason: of an end that is not ``complete``
    """

    state: str
    epoch: int = 0
    values: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""


class Tracker(Protocol):
    """One tool. All calls come from one thread."""

    def begin(
        self, run: TrackedRun, epochs: Sequence[TrackedEpoch], pictures: Sequence[TrackedPicture]
    ) -> None:
        """Begin a run, or go on with the one of this key.

        epochs, pictures: of before, in their order; afterwards the run has each of them once
        """

    def log_epoch(self, run: TrackedRun, epoch: TrackedEpoch) -> None:
        """Add an epoch to a run that was begun."""

    def log_picture(self, run: TrackedRun, picture: TrackedPicture) -> None:
        """Add a picture to a run that was begun."""

    def end(self, run: TrackedRun, ending: TrackedEnding) -> None:
        """End a run that was begun."""

    def close(self) -> None:
        """Give back what is held."""
