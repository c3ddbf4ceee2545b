"""One run of a study: all that a worker has to know, as plain values.

The supervisor reads every variable once. Workers get the result as JSON on their standard input,
so that no password stands in a process list.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from storage.paths import RunPaths


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """A Python file as it was when it was read.

    content: its bytes, each as one character, so that JSON takes any encoding
    """

    path: str
    content: str

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the file at ``path``."""
        return cls(path=str(path), content=path.read_bytes().decode("latin-1"))

    def as_bytes(self) -> bytes:
        """Return what the file held."""
        return self.content.encode("latin-1")

    @property
    def is_package(self) -> bool:
        return Path(self.path).name == "__init__.py"


@dataclass(frozen=True, kw_only=True)
class StudyRun:
    """One run: what is searched, and how, as plain values.

    name: what `load_study` takes; study: the study's name in the database
    storage: URL of the trial database; runs: the folder RUNS; images: the cached file of images
    seed: of the study; trials: in all; epochs: of each; retrain_epochs: at most, of the best
    revision: commit of the code that runs
    token: the stored study's own; a file with another token belongs to a deleted namesake
    seeds: how many each of the best is retrained with
    trial_minutes: how long a trial may take; memory: GiB that each worker may use
    sampler, pruner: instead of the study's own
    base: folder of the export that every model starts from
    shown: how many trials a person chooses among; None: their values decide
    encoder: folder of the export whose codes samples are judged by; None: a classifier judges
    inception: file of Inception's weights, for the card of a winner that makes images
    least_steps: of an epoch, for which batches are made smaller; 0: they stay as they are
    remarks: what a person has to know of the images in this study, and of the code of its trials
    sources: module -> file of the study, as the supervisor has read them
    version: a word that changes with the code that computes the study's values
    code: a digest of all of genstudy's own files; empty: it is not compared
    image_source: what `prepare_images` makes the cached file from, if it has to be made again
    finishes_here: whether the best is retrained here though another RUNS holds the exports
    files: where shared files live, as FILES names it; None: RUNS is all there is
    stop: when the study ends before all of its trials, as STOP names it; None: it does not
    tries: name -> parameters that a person wants to see tried first
    warm: trials of earlier studies that the study began with (`search.setup.warm`); empty: none
    image_state: numbers of the state in which the supervisor has found that file whole
    fuse: how many trials a worker may train as one program; None: as many as pay on a GPU
    keeps: whether all trials that may ever go on keep their last checkpoint (KEEP=checkpoints)
    """

    name: str
    study: str
    storage: str
    runs: str
    images: str
    seed: int
    trials: int
    epochs: int
    retrain_epochs: int
    revision: str
    token: str
    seeds: int = 1
    trial_minutes: float | None = None
    memory: float | None = None
    sampler: str | None = None
    pruner: str | None = None
    base: str | None = None
    shown: int | None = None
    encoder: str | None = None
    inception: str | None = None
    least_steps: int = 0
    remarks: list[str] = field(default_factory=list)
    sources: Mapping[str, SourceFile] = field(default_factory=dict)
    version: str = ""
    code: str = ""
    image_source: Mapping[str, Any] = field(default_factory=dict)
    image_state: list[int] = field(default_factory=list)
    finishes_here: bool = False
    files: str | None = None
    tries: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    warm: Mapping[str, Any] = field(default_factory=dict)
    stop: str | None = None
    keeps: bool = False
    fuse: int | None = 1

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Self:
        """Return the run that was written as JSON."""
        return cls(**{**plain, "sources": read_sources(plain.get("sources", {}))})

    @property
    def paths(self) -> RunPaths:
        return RunPaths(Path(self.runs))

    @property
    def base_folder(self) -> Path | None:
        return None if self.base is None else Path(self.base)

    @property
    def encoder_folder(self) -> Path | None:
        return None if self.encoder is None else Path(self.encoder)


def place_of(run: StudyRun) -> str:
    """Return where the folder RUNS is, for people to read."""
    return f"{socket.gethostname()}:{Path(run.runs).absolute()}"


def read_sources(plain: Mapping[str, Any]) -> dict[str, SourceFile]:
    """Return the files that were written as JSON."""
    return {module: SourceFile(**source) for module, source in plain.items()}
