"""Every file name under RUNS, in one class.

    runs/
      studies.db             the trial database (unless STORAGE names another)
      artifacts/             pictures of trials, by artifact id, for the dashboard
      cache/                 image sets, decoded and split
      checkpoints/STUDY/     the state from which a trial or a retraining goes on
      exports/STUDY/RANK/    the best configurations, retrained
      reports/STUDY/         a study as a page with its pictures
      logs/STUDY/            what each worker writes
      samples/STUDY/RANK/    images that an export has made
      look/                  contact sheets of folders of images
      tensorboard/STUDY/     runs for TensorBoard; likewise mlflow/ and wandb/ (LOG)

    RunPaths(Path("runs")).export("cae", 1)      # runs/exports/cae/1

Study names come from users and databases. They become folder names only after `check_name`, so that
no name leads out of RUNS.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from storage.errors import RunsUnwritable, StorageError, short

RETRAINING = re.compile(r"retrain-([0-9]{1,9})(?:-repeat-([0-9]{1,9}))?")  # `RetrainingPaths.stem`
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")  # of a file that we write
STUDY = re.compile(r"[^\W_]([^/\\]{0,98}[^/\\\s])?")
LONGEST = 200  # bytes of a study's name: a folder's has at most 255


def check_name(name: str) -> str:
    """Return a study's ``name``. Raises `StorageError` if it cannot be the name of a folder."""
    usable = STUDY.fullmatch(name) and name.isprintable()
    if not usable or len(os.fsencode(name)) > LONGEST:
        raise StorageError(
            f"study name {short(repr(name))} is not usable: at most 100 characters without / and "
            "\\, the first a letter or digit, the last no space"
        )
    return name


def sqlite_url(path: Path | str) -> str:
    """Return the URL of a database file; of all characters only % and ? mean something in it."""
    return "sqlite:///" + str(path).replace("%", "%25").replace("?", "%3F")


@dataclass(frozen=True)
class RunPaths:
    """All paths below ``root``. Folders are created when something is written to them."""

    root: Path

    @property
    def database(self) -> Path:
        return self.root / "studies.db"

    @property
    def database_url(self) -> str:
        return sqlite_url(self.database)

    @property
    def artifacts(self) -> Path:
        return self.root / "artifacts"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    def dry_run(self, digest: str) -> Path:
        """The note that a dry run of these files on these images found no mistake."""
        return self.cache / f"dry-run-{digest}"

    def kept_in(self, digest: str) -> Path:
        """The note that a study of this folder is kept in the database of that address."""
        return self.cache / f"kept-in-{digest}"

    def checkpoints(self, study: str) -> Path:
        return self.root / "checkpoints" / check_name(study)

    def trial_checkpoint(self, study: str, number: int) -> Path:
        return self.checkpoints(study) / f"trial-{number}.safetensors"

    def trial_row(self, study: str, number: int, epoch: int) -> Path:
        """The picture of what the trial's model makes of the same noise after ``epoch``."""
        return self.checkpoints(study) / f"trial-{number}-row-{epoch:04}.png"

    def trial_rows(self, study: str, number: int) -> dict[int, Path]:
        """Return those of `trial_row` that exist, by epoch."""
        return _by_epoch(self.checkpoints(study), f"trial-{number}-row-")

    def retraining(self, study: str, number: int, repeat: int = 1) -> RetrainingPaths:
        return RetrainingPaths(self.checkpoints(study), number, repeat)

    def exports(self, study: str) -> Path:
        return self.root / "exports" / check_name(study)

    def report(self, study: str) -> Path:
        return self.root / "reports" / check_name(study)

    def contact_sheet(self, label: str) -> Path:
        """The picture that `make look` draws; ``label`` is that of the set, ``folder-pets``."""
        return self.root / "look" / f"{label}.png"

    def samples(self, study: str, rank: int) -> Path:
        """The folder of images that `make sample` makes with an export."""
        return self.root / "samples" / check_name(study) / str(rank)

    def export(self, study: str, rank: int) -> Path:
        return self.exports(study) / str(rank)

    def finishing_lock(self, study: str) -> Path:
        """The lock that the one run holds that retrains and exports. Creates its folder."""
        self.checkpoints(study).mkdir(parents=True, exist_ok=True)
        return self.checkpoints(study) / "finishing.lock"

    def finishing_identity(self, study: str) -> Path:
        """A word that tells this folder RUNS from those of other machines."""
        return self.checkpoints(study) / "finishing-identity"

    def worker_log(self, study: str, worker: int) -> Path:
        return self.root / "logs" / check_name(study) / f"worker-{worker}.log"

    def joined_log(self, study: str, who: str, worker: int) -> Path:
        """The log of a worker that has joined the study.

        who: the machine and process that did, since several may write into the same folder
        """
        name = re.sub(r"[^A-Za-z0-9._-]", "-", who)
        return self.root / "logs" / check_name(study) / f"joined-{name}-{worker}.log"

    def tracked(self, tool: str) -> Path:
        """The folder of a tool that LOG names."""
        return self.root / tool

    def tracker_marks(self, study: str, tool: str) -> Path:
        """The folder with a mark for each run that such a tool may not have as a whole."""
        return self.root / "logs" / check_name(study) / f"open-{tool}"

    def engine_folder(self, study: str) -> Path:
        """Scripts, logs and results of the jobs that an engine runs for the study."""
        return self.root / "logs" / check_name(study) / "jobs"

    @property
    def identity(self) -> Path:
        """A word that no other folder RUNS has: a machine that sees it sees this folder."""
        return self.cache / "identity"

    def written(self, study: str) -> list[Path]:
        """Return the folders in which a run of ``study`` writes files."""
        folders = [self.root, self.cache, self.artifacts, self.root / "reports"]
        return [*folders, self.checkpoints(study), self.exports(study)]

    def check_writable(self) -> None:
        """Raise `RunsUnwritable` now, and not after the first trial."""
        try:
            try_writing(self.root)
        except OSError as error:
            raise RunsUnwritable(
                f"cannot write under RUNS={short(str(self.root))} ({error.strerror}); "
                "set RUNS to a folder of yours on a disk with space"
            ) from error


def try_writing(folder: Path) -> None:
    """Raise `OSError` if nothing can be written to ``folder``; leave nothing behind.

    If the folder does not exist yet, the folder in which it would be created is tried.
    """
    place = folder
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    if place != folder:  # its name may be too long
        with suppress(FileNotFoundError):
            folder.stat()
    probe = place / f".writable.{uuid4().hex}"
    try:
        probe.write_bytes(b"genstudy")
    finally:
        with suppress(OSError):
            probe.unlink()


@dataclass(frozen=True)
class RetrainingPaths:
    """The files that the retraining of trial ``number`` keeps in ``folder``.

    repeat: which of its seeds that is, from 1; older versions had one
    """

    folder: Path
    number: int
    repeat: int = 1

    @property
    def stem(self) -> str:
        """How the names of all these files begin."""
        first = f"retrain-{self.number}"
        return first if self.repeat == 1 else f"{first}-repeat-{self.repeat}"

    @property
    def last(self) -> Path:
        """The checkpoint after the last epoch, from which an interrupted retraining goes on."""
        return self.folder / f"{self.stem}-last.safetensors"

    @property
    def best(self) -> Path:
        """The checkpoint after the best epoch, which is exported."""
        return self.folder / f"{self.stem}-best.safetensors"

    @property
    def record(self) -> Path:
        """The learning curve and how the training ended; written when the retraining is done."""
        return self.folder / f"{self.stem}.json"

    def row(self, epoch: int) -> Path:
        """The picture of what the model makes of the same noise after ``epoch``."""
        return self.folder / f"{self.stem}-row-{epoch:04}.png"

    def rows(self) -> dict[int, Path]:
        """Return those of `row` that exist, by epoch."""
        return _by_epoch(self.folder, f"{self.stem}-row-")

    def picture(self, epoch: int) -> Path:
        """The picture of the model after ``epoch``, where a study asks for it."""
        return self.folder / f"{self.stem}-epoch-{epoch:03}.png"

    def pictures(self) -> list[Path]:
        """Return those of `picture` that exist, by epoch."""
        return sorted(self.folder.glob(f"{self.stem}-epoch-*.png"))


def _by_epoch(folder: Path, name: str) -> dict[int, Path]:
    """Return the pictures ``folder/nameEPOCH.png`` by epoch."""
    found = {path.stem.removeprefix(name): path for path in folder.glob(f"{name}*.png")}
    return {int(epoch): path for epoch, path in sorted(found.items()) if epoch.isdigit()}
