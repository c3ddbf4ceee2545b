"""What a worker tells its supervisor: how trials, retrainings and exports go, and how it ends.

    EpochEnded(number=7, epoch=3, epochs=20, value=0.0123, seconds=2.4)

`search.messages` sends an event over a pipe. A process that ends says why by its exit code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

SPENT = 3  # a worker's exit code: the run has no error, and a new process is to take its place
CHANGED = 4  # the same: somebody wrote to the images that it had in memory
OUTDATED = 5  # the same: it knows trials that are no longer in the database
BROKEN = 6  # the same: its GPU has reported an error, which breaks the process's context
CROWDED = 7  # the same, but its GPU may have too little memory for all of its workers
PREVIEW = "preview"  # the one kind of picture that a retraining draws of its epochs


@dataclass(frozen=True, kw_only=True)
class Trying:
    """A dry run begins to try ``what``."""

    what: str


@dataclass(frozen=True, kw_only=True)
class Tried:
    """A dry run has ended.

    mistake: of the user's code, in one line; None: none was found
    unanswered: why not all was tried; None: all was
    """

    mistake: str | None
    unanswered: str | None


@dataclass(frozen=True, kw_only=True)
class Preparing:
    """The worker trains or waits for something that all trials need; ``line`` says what."""

    line: str


@dataclass(frozen=True, kw_only=True)
class Ready:
    """The worker has loaded study, images and database."""


@dataclass(frozen=True, kw_only=True)
class Started:
    """A trial begins or goes on."""

    number: int
    parameters: Mapping[str, Any]
    epochs: int


@dataclass(frozen=True, kw_only=True)
class Resumed:
    """A trial or a retraining goes on from a checkpoint, after ``epoch``.

    repeat: of a retraining, which of its seeds that is
    """

    number: int
    epoch: int
    repeat: int = 1


@dataclass(frozen=True, kw_only=True)
class EpochEnded:
    """One epoch of a trial, or of a retraining.

    value: of the study's metric; seconds: of the epoch; repeat: of a retraining
    measured: all that was measured, by name
    free_memory, peak_memory: bytes, free on the GPU and at most taken by this process; None on
    a CPU and for retrainings
    steady: whether the worker trains as it will from now on; False while it tries how many trials
        to train as one program
    """

    number: int
    epoch: int
    epochs: int
    value: float
    seconds: float
    retraining: bool = False
    repeat: int = 1
    measured: Mapping[str, float] = field(default_factory=dict)
    free_memory: int | None = None
    peak_memory: int | None = None
    steady: bool = True


@dataclass(frozen=True, kw_only=True)
class Pictured:
    """A trial, or a retraining, has a picture of what it does after ``epoch``.

    name: the same for each epoch; path: of the PNG file
    """

    number: int
    epoch: int
    name: str
    path: str
    retraining: bool = False
    repeat: int = 1


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A trial has its outcome (`search.trials.outcomes.Outcome`).

    value: the quality; values: of all goals; violates: whether it violates constraints
    reason: of an end that is not ``complete``; verdict: on the training of a GAN
    place: file and line of the user's code where it failed
    """

    number: int
    outcome: str
    value: float | None
    values: list[float] = field(default_factory=list)
    violates: bool = False
    reason: str = ""
    verdict: str | None = None
    place: str = ""


@dataclass(frozen=True, kw_only=True)
class Released:
    """A trial was given back, or a retraining was interrupted: it goes on later.

    retraining, repeat: which training that was
    """

    number: int
    retraining: bool = False
    repeat: int = 1


@dataclass(frozen=True, kw_only=True)
class Paused:
    """A trial pauses after ``epoch``, until its value is among the best of that rung."""

    number: int
    epoch: int
    value: float


@dataclass(frozen=True, kw_only=True)
class Retraining:
    """A retraining begins, of at most ``epochs``, or goes on.

    past: what was measured in each epoch of before, by name
    """

    number: int
    epochs: int
    repeat: int = 1
    seed: int = 0
    parameters: Mapping[str, Any] = field(default_factory=dict)
    past: list[Mapping[str, float]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Retrained:
    """A retraining left a model. best: the value of its best epoch."""

    number: int
    epochs: int
    ended_by: str
    best_epoch: int
    best: float
    repeat: int = 1


@dataclass(frozen=True, kw_only=True)
class NotRetrained:
    """A retraining failed in its first epoch."""

    number: int
    reason: str
    repeat: int = 1


@dataclass(frozen=True, kw_only=True)
class Exporting:
    """An export begins."""

    number: int


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """The test images are measured; ``what`` says how far that is."""

    number: int
    what: str


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A picture of an export is drawn."""

    number: int
    what: str


@dataclass(frozen=True, kw_only=True)
class Exported:
    """An export is whole.

    valid, test: values of the study's metric; only rank 1 has ``test``
    earlier: where the former content of the folder is kept; None: nothing had to be kept
    removed: folders of older exports that were kept until now
    """

    number: int
    rank: int
    folder: str
    metric: str
    valid: float
    test: float | None
    earlier: str | None = None
    removed: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Idle:
    """The job is done, or was halted."""


@dataclass(frozen=True, kw_only=True)
class Warned:
    """The worker goes on without ``what``."""

    what: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Failed:
    """The worker ends: the run cannot go on, and ``message`` says why."""

    message: str


@dataclass(frozen=True, kw_only=True)
class Gone:
    """The worker's process has ended. The supervisor makes this event itself.

    code: the exit code; below 0 the number of the signal
    """

    code: int


Event: TypeAlias = (
    Trying | Tried | Preparing | Ready | Started | Resumed | EpochEnded | Pictured | Ended
    | Released | Paused | Retraining | Retrained | NotRetrained | Exporting | Measuring | Drawing
    | Exported | Idle | Warned | Failed | Gone
)  # fmt: skip
