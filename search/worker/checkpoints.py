"""The last two checkpoints of a training, so that a damaged one costs only the epochs between them.

    checkpoints = Checkpoints(path=..., of={"study": token, "trial": 7}, tell=context.tell)
    checkpoints.save(model, epoch=9, note={})
    for kept in checkpoints.read():            # the newest first
        checkpoints.load(kept, model)
    checkpoints.remove()                       # the training is over; or keep_last()

With FILES each is copied to where every machine sees it (`search.worker.shared_copies`), and
``checkpoints.fetch_newer()`` brings here what another machine has written.

A checkpoint says what it belongs to. If it is damaged, or of another training, it is set aside with
a message, and the one before is used. If none is left the training starts over. Damage comes from a
faulty disk. A checkpoint of another training comes from a restored database, which gives the number
of a trial again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models.base import Model
from models.errors import CheckpointError, TensorFileError
from models.sealed_files import glance_at_seal, set_aside
from models.seals import Identity
from models.training.checkpoint import (
    checkpoint_size,
    load_checkpoint,
    read_note,
    save_checkpoint,
)
from search.console import shorten_path
from search.worker.shared_copies import SharedCopies
from storage.files.atomic import atomic_file

log = logging.getLogger("genstudy")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One that can be used: its file, its epoch, and the note beside its weights."""

    path: Path
    epoch: int
    note: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """The checkpoints of one training.

    path: of the newest; of: what they belong to
    attempt: the number of this attempt at the training, if attempts are counted. An earlier attempt
        that wakes up late cannot overwrite the checkpoints of a later one
    tell: shows a line about what cannot be used
    copies: in FILES; None: there are none
    """

    path: Path
    of: Identity = field(default_factory=dict)
    attempt: int | None = None
    tell: Callable[[str], None] = log.warning
    copies: SharedCopies | None = None

    @property
    def earlier(self) -> Path:
        """The checkpoint before the newest."""
        return self.path.with_stem(f"{self.path.stem}-earlier")

    def save(self, model: Model, *, epoch: int, note: dict[str, Any], copy: bool = True) -> None:
        """Write a checkpoint after ``epoch``; the newest one so far becomes the earlier one.

        copy: False: the caller copies it to FILES later

        Raises `OSError` if it does not fit on the disk, and `CheckpointError` if a later attempt
        has written one; both checkpoints stay then. With FILES it raises `TrialLost` if another
        process has taken the trial.
        """
        self._check_attempt()
        needs = checkpoint_size(model)
        with atomic_file(self.path, needs=needs, earlier=self.earlier, lasting=False) as beside:
            save_checkpoint(beside, model, epoch=epoch, note=note, of=self.of, attempt=self.attempt)
        if copy and self.copies is not None:
            self.copies.keep(self.path, epoch=epoch)

    def fetch_newer(self) -> None:
        """Bring the checkpoint of another machine here, if it is further than this one."""
        if self.copies is not None:
            here = max((kept.epoch for kept in self.read()), default=0)
            self.copies.fetch_newer(self.path, self.earlier, than=here)

    def read(self) -> list[Checkpoint]:
        """Return those that are whole and of this training, the newest first."""
        found = []
        for path in (self.path, self.earlier):
            if not path.exists():
                continue
            try:
                self._check_age(path)
                epoch, note = read_note(path, of=self.of)
            except CheckpointError as error:
                self.refuse(path, error)
            else:
                found.append(Checkpoint(path=path, epoch=epoch, note=note))
        return found

    def load(self, kept: Checkpoint, model: Model) -> bool:
        """Bring ``model`` to a checkpoint. False: it does not fit, and is set aside."""
        try:
            load_checkpoint(kept.path, model, of=self.of)
        except CheckpointError as error:
            self.refuse(kept.path, error)
            return False
        return True

    def refuse(self, path: Path, error: Exception) -> None:
        """Set a file aside, and say why."""
        reason = error.__cause__ if isinstance(error.__cause__, TensorFileError) else error
        where = "; it is left out"
        with suppress(OSError):
            where = f"; it is kept as {shorten_path(set_aside(path))}"
        self.tell(f"{path.name} is not used: {reason}{where}")

    def remove(self) -> None:
        """Remove both checkpoints: the training is over. On a read-only disk they stay."""
        for path in (self.path, self.earlier):
            with suppress(OSError):
                path.unlink()
        if self.copies is not None:
            self.copies.forget()

    def keep_last(self) -> None:
        """Remove the earlier checkpoint: the training has ended, and may go on some day."""
        with suppress(OSError):
            self.earlier.unlink()
        if self.copies is not None:
            self.copies.keep_latest()

    def _check_attempt(self) -> None:
        """Raise `CheckpointError` where a later attempt has written a checkpoint."""
        later = self._later_attempt(self.path)
        if later is not None:
            raise CheckpointError(
                f"{self.path.name} is of attempt {later}, and this is attempt {self.attempt}: "
                "the training is another worker's by now"
            )

    def _check_age(self, path: Path) -> None:
        """Raise `CheckpointError` for a checkpoint of an attempt that the database does not know:
        it was restored since."""
        later = self._later_attempt(path)
        if later is not None:
            raise CheckpointError(
                f"it is of attempt {later}, and the database knows {self.attempt} at most"
            )

    def _later_attempt(self, path: Path) -> int | None:
        """Return the number of the attempt that wrote ``path``, if it is later than this one."""
        seal = None if self.attempt is None else glance_at_seal(path)
        if seal is None or seal.attempt is None or self.attempt is None:
            return None
        return seal.attempt if seal.attempt > self.attempt else None
