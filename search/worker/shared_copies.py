"""The copies of a training's checkpoints in FILES, from which any machine goes on.

copies = SharedCopies(uploads=uploads, name="trial-7", guard=guard, tell=context.tell)
copies.keep(path, epoch=9)                        # after it was written under RUNS
copies.settle()                                   # before others may go on with the training
copies.fetch_newer(path, earlier, than=3)         # before it is read there
copies.forget()                                   # the training is over
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from search.console import shorten_path
from search.trials.files_access import FilesAccess
from search.worker.uploads import Uploads
from storage.database.file_records import FileRecord, Guard
from storage.errors import FilesAway
from storage.files.shared_files import SharedFiles, pack_files
from storage.files.temporary import temporary_name


@dataclass(frozen=True, kw_only=True)
class SharedCopies:
    """The copies that are kept under one name.

    uploads: puts them while the training goes on
    guard: raises, within a transaction, if another process has taken the training
    tell: shows a line about a copy that cannot be used
    """

    uploads: Uploads
    name: str
    guard: Guard
    tell: Callable[[str], None]

    @property
    def access(self) -> FilesAccess:
        return self.uploads.access

    def keep(self, path: Path, *, epoch: int) -> None:
        """Keep a copy of ``path``, unless FILES is away. Raises what the guard has raised since the
        last call."""
        left = f"checkpoints stay in {shorten_path(path.parent)}"
        self.uploads.put(self.name, path, epoch=epoch, guard=self.guard, left=left)

    def keep_all(self, paths: Sequence[Path], *, epoch: int) -> None:
        """Keep several files as one copy; otherwise like `keep`."""
        archive = paths[0].with_name(temporary_name(self.name))  # removed here, or after a kill
        try:
            pack_files(paths, archive)
            self.keep(archive, epoch=epoch)
        finally:
            archive.unlink(missing_ok=True)

    def settle(self) -> None:
        """Wait until all copies are in FILES, unless it is away. Raises as `keep` does."""
        self.uploads.wait()

    def settle_own(self) -> None:
        """Wait as `settle` does, but raise no error of another trial of this process."""
        self.uploads.wait(self.name)

    def bring_all(self, folder: Path) -> None:
        """Bring the files of the latest whole copy that `keep_all` made, if they are not here."""
        for record in self._newer(0):
            with suppress(FilesAway):
                if self.access.wait_for(partial(_unpack, record=record, folder=folder)):
                    return

    def fetch_newer(self, path: Path, earlier: Path, *, than: int) -> int:
        """Bring the latest copy after epoch ``than`` to ``path``; return its epoch, or ``than``.

        A damaged copy is skipped with a message, and the one before it is used.
        """
        for record in self._newer(than):
            try:
                if self.access.wait_for(partial(_fetch, record=record, path=path, earlier=earlier)):
                    return record.epoch
            except FilesAway as error:
                self.tell(f"{self.name}: {error}; it goes on from what is here, of epoch {than}")
                return than
            self.tell(
                f"the checkpoint of epoch {record.epoch} of {self.name} in "
                f"FILES={self.access.files.address} is not used: its content is not what was "
                "written; it is left out"
            )
            self.access.try_to(partial(_drop, record=record), left="a damaged one stays there")
        return than

    def forget(self) -> None:
        """Remove all copies. What cannot be removed now is removed at the end of the study."""
        self.uploads.drop(self.name)
        self.access.try_to(lambda files: files.forget(self.name), left="what ended stays there")

    def keep_latest(self) -> None:
        """Remove all copies but the latest."""
        for record in self._newer(0)[1:]:
            self.access.try_to(partial(_drop, record=record), left="an earlier one stays there")

    def _newer(self, than: int) -> list[FileRecord]:
        """Return the copies after an epoch, the newest first."""
        found: list[FileRecord] = []
        with suppress(FilesAway):  # it is the database that says it
            found = self.access.wait_for(lambda files: files.kept(self.name))
        return [record for record in found if record.epoch > than]


def _fetch(files: SharedFiles, *, record: FileRecord, path: Path, earlier: Path) -> bool:
    return files.fetch(record, path, earlier=earlier)


def _unpack(files: SharedFiles, *, record: FileRecord, folder: Path) -> bool:
    return files.fetch_all(record, folder)


def _drop(files: SharedFiles, *, record: FileRecord) -> None:
    files.drop(record)
