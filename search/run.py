"""One run of a study: all that a worker has to know, as plain values.

The supervisor reads every variable once. Workers get the result as JSON on their standard input,
so that no password stands in a process list.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from storage.paths import RunPaths


@dataclass(frozen=True, kw_only=True)
class StudyRun:
    """One run: what is searched, and how, as plain values.

    name: what `load_study` takes; study: the study's name in the database
    storage: URL of the trial database; runs: the folder RUNS; images: the cached file of images
    seed: of the study; trials: in all; epochs: of each; retrain_epochs: at most, of the best
    revision: commit of the code that runs
    token: the stored study's own; a file with another token belongs to a deleted namesake
    trial_minutes: how long a trial may take; memory: GiB that each worker may use
    sampler, pruner: instead of the study's own
    base: folder of the export that every model starts from
    shown: how many trials a person chooses among; None: their values decide
    encoder: folder of the export whose codes samples are judged by; None: a classifier judges
    least_steps: of an epoch, for which batches are made smaller; 0: they stay as they are
    remarks: what a person has to know of the images in this study
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
    trial_minutes: float | None = None
    memory: float | None = None
    sampler: str | None = None
    pruner: str | None = None
    base: str | None = None
    shown: int | None = None
    encoder: str | None = None
    least_steps: int = 0
    remarks: list[str] = field(default_factory=list)

    @property
    def paths(self) -> RunPaths:
        return RunPaths(Path(self.runs))

    @property
    def base_folder(self) -> Path | None:
        return None if self.base is None else Path(self.base)

    @property
    def encoder_folder(self) -> Path | None:
        return None if self.encoder is None else Path(self.encoder)
