"""What a supervisor tells its workers to do.

    Retrain(number=7, repeat=2)

Each job is a frozen dataclass. `search.messages` sends it over a pipe.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from search.run import SourceFile, StudyRun


@dataclass(frozen=True, kw_only=True)
class SetUp:
    """The first job: the run, the worker's device (``cpu`` or ``cuda:0``), the path of its log.

    owner: the name of the worker in leases
    """

    run: StudyRun
    device: str
    log: str
    owner: str


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """Try the study ``name`` once, before it is stored. The process does nothing else.

    sources: the study's files; images: the cached file; base: folder of an export
    exports: whether an export is tried, too; memory: GiB that may be used
    """

    name: str
    sources: Mapping[str, SourceFile]
    images: str
    base: str | None
    device: str
    exports: bool
    memory: float | None
    log: str


@dataclass(frozen=True, kw_only=True)
class Search:
    """Take trials until none is left."""


@dataclass(frozen=True, kw_only=True)
class Retrain:
    """Train the configuration of trial ``number`` afresh.

    repeat: with which of its seeds, from 1
    claim: the number that a write into FILES needs; None: there is no FILES
    """

    number: int
    repeat: int = 1
    claim: int | None = None


@dataclass(frozen=True, kw_only=True)
class Export:
    """Export the retrained trial ``number`` as ``rank`` (1 is the best).

    claim: the number of the supervisor's claim on the finish, or with FILES on this rank. Nothing
        is measured on the test images, or put into FILES, without it
    repeat: the seed whose weights are exported; certificate: of the configuration, as JSON
    """

    number: int
    rank: int
    claim: int = 0
    repeat: int = 1
    certificate: str | None = None


@dataclass(frozen=True, kw_only=True)
class Halt:
    """Give the trial back and wait for the next job."""


@dataclass(frozen=True, kw_only=True)
class Stop:
    """Give the trial back and end. The end of a worker's input means the same."""


Job: TypeAlias = SetUp | DryRun | Search | Retrain | Export | Halt | Stop
