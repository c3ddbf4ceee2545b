"""Every file name under RUNS, in one class.

    runs/
      studies.db             the trial database (unless STORAGE names another)
      artifacts/             pictures of trials, by artifact id, for the dashboard
      cache/                 image sets, decoded and split
      checkpoints/STUDY/     what a trial or a retraining needs to go on
      exports/STUDY/RANK/    the best configurations, retrained
      reports/STUDY/         a study as a page with its pictures
      logs/STUDY/            what each worker wrote

Study names come from users and databases: they become folder names only after
`check_name`, so that none can leave RUNS.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from storage.errors import RunsUnwritable, StorageError, short

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def check_name(name: str) -> str:
    """``name`` if it is fit to be a folder's name, else `StorageError`."""
    if not NAME.fullmatch(name):
        raise StorageError(
            f"study name {short(repr(name))} is not usable: letters, digits, '.', '_' and '-', "
            "at most 100, the first a letter or digit"
        )
    return name


@dataclass(frozen=True)
class RunPaths:
    """All places below ``root``; nothing is created before it is written to."""

    root: Path

    @property
    def database(self) -> Path:
        return self.root / "studies.db"

    @property
    def database_url(self) -> str:
        return f"sqlite:///{self.database}"

    @property
    def artifacts(self) -> Path:
        return self.root / "artifacts"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    def checkpoints(self, study: str) -> Path:
        return self.root / "checkpoints" / check_name(study)

    def trial_checkpoint(self, study: str, number: int) -> Path:
        return self.checkpoints(study) / f"trial-{number}.safetensors"

    def trial_row(self, study: str, number: int, epoch: int) -> Path:
        """What the trial's model made of the same noise after ``epoch``."""
        return self.checkpoints(study) / f"trial-{number}-row-{epoch:04}.png"

    def trial_rows(self, study: str, number: int) -> dict[int, Path]:
        """All of these that are there, by epoch."""
        return _by_epoch(self.checkpoints(study), f"trial-{number}-row-")

    def retraining(self, study: str, number: int) -> RetrainingPaths:
        return RetrainingPaths(self.checkpoints(study), number)

    def exports(self, study: str) -> Path:
        return self.root / "exports" / check_name(study)

    def report(self, study: str) -> Path:
        return self.root / "reports" / check_name(study)

    def export(self, study: str, rank: int) -> Path:
        return self.exports(study) / str(rank)

    def finishing_lock(self, study: str) -> Path:
        """Held by the one run that retrains and exports."""
        self.checkpoints(study).mkdir(parents=True, exist_ok=True)
        return self.checkpoints(study) / "finishing.lock"

    def worker_log(self, study: str, worker: int) -> Path:
        return self.root / "logs" / check_name(study) / f"worker-{worker}.log"

    def check_writable(self) -> None:
        """Raise `RunsUnwritable` now rather than after the first trial."""
        try:
            try_writing(self.root)
        except OSError as error:
            raise RunsUnwritable(
                f"cannot write under RUNS={short(str(self.root))} ({error.strerror}); "
                "set RUNS to a folder of yours on a disk with space"
            ) from error


def try_writing(folder: Path) -> None:
    """Raise `OSError` if nothing can be written to ``folder``; leaves nothing behind.

    Where it is not there yet, the folder that it would be made in counts.
    """
    place = folder
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    if place != folder:  # its name may be too long
        with suppress(FileNotFoundError):
            folder.stat()
    probe = place / f".writable-{uuid4().hex}"
    try:
        probe.write_bytes(b"genstudy")
    finally:
        with suppress(OSError):
            probe.unlink()


@dataclass(frozen=True)
class RetrainingPaths:
    """What the retraining of trial ``number`` keeps in ``folder``."""

    folder: Path
    number: int

    @property
    def last(self) -> Path:
        """After the last epoch: where an interrupted retraining goes on."""
        return self.folder / f"retrain-{self.number}-last.safetensors"

    @property
    def best(self) -> Path:
        """After the best epoch: what is exported."""
        return self.folder / f"retrain-{self.number}-best.safetensors"

    @property
    def record(self) -> Path:
        """Learning curve and how it ended; present once the retraining is done."""
        return self.folder / f"retrain-{self.number}.json"

    def row(self, epoch: int) -> Path:
        """What the model made of the same noise after ``epoch``."""
        return self.folder / f"retrain-{self.number}-row-{epoch:04}.png"

    def rows(self) -> dict[int, Path]:
        """All of these that are there, by epoch."""
        return _by_epoch(self.folder, f"retrain-{self.number}-row-")

    def picture(self, epoch: int) -> Path:
        """What the model did after ``epoch``, where a study asks for it."""
        return self.folder / f"retrain-{self.number}-epoch-{epoch:03}.png"

    def pictures(self) -> list[Path]:
        """All of these that are there."""
        return sorted(self.folder.glob(f"retrain-{self.number}-epoch-*.png"))


def _by_epoch(folder: Path, name: str) -> dict[int, Path]:
    found = {path.stem.removeprefix(name): path for path in folder.glob(f"{name}*.png")}
    return {int(epoch): path for epoch, path in sorted(found.items()) if epoch.isdigit()}
