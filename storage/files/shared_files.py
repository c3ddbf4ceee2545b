"""The files of a study that every machine sees: verified when they are read, kept two deep.

    files = SharedFiles(engine=engine, token=token, store=open_objects(place, engine))
    files.put("trial-7", path, epoch=9, guard=guard)     # whole or not there, and only if we may
    for kept in files.kept("trial-7"):                   # the newest first
        if files.fetch(kept, path): break                # False: damaged, or gone
    files.forget("trial-7")                              # the trial has ended

A file is written under RUNS first, as without FILES, and then put here: RUNS is the working copy of
its machine. Each write of a name makes a new object with a random name, and the database says which
object counts (`storage.database.file_records`). So a writer that has lost its trial can overwrite
nothing, and a killed writer leaves no half file.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from sqlalchemy import Connection, Engine

from storage.database.file_records import (
    FileRecord,
    Guard,
    begin_file,
    drop_files,
    file_names,
    finish_file,
    kept_files,
    newest_files,
)
from storage.errors import FilesAway
from storage.files.atomic import atomic_file, temporary_folder
from storage.files.object_store import ObjectStore
from storage.paths import NAME

PLACE = "files/"  # how the names of these objects begin


def may_always(connection: Connection) -> None:
    """Allow every write, for files that no process claims."""


@dataclass(frozen=True, kw_only=True)
class SharedFiles:
    """The shared files of the stored study ``token``."""

    engine: Engine
    token: str
    store: ObjectStore

    @property
    def address(self) -> str:
        """Where they are, for people to read."""
        return self.store.place.address

    def put(self, name: str, path: Path, *, epoch: int = 0, guard: Guard = may_always) -> None:
        """Keep the content of ``path`` under ``name``, beside what was kept before.

        epoch: after which it was written; guard: raises if we may not write
        Raises `FilesAway`, and what ``guard`` raises; what was kept before stays then.
        """
        key = uuid4().hex
        begin_file(self.engine, self.token, name, key=key, epoch=epoch, guard=guard)
        try:
            self.store.write(PLACE + key, path)
            old = finish_file(
                self.engine,
                self.token,
                name,
                key=key,
                size=path.stat().st_size,
                sha256=_digest(path),
                guard=guard,
            )
        except BaseException:
            with suppress(Exception):  # the sweep removes it, too
                self._remove([key])
            raise
        with suppress(FilesAway):
            self._remove(old)

    def put_all(
        self, name: str, paths: Sequence[Path], *, epoch: int = 0, guard: Guard = may_always
    ) -> None:
        """Keep several files under one name, as one object."""
        with temporary_folder(paths[0].parent.parent) as beside:
            archive = beside / "all.zip"
            pack_files(paths, archive)
            self.put(name, archive, epoch=epoch, guard=guard)

    def holds(self, record: FileRecord, paths: Sequence[Path]) -> bool:
        """Whether an object of `put_all` was made of exactly these files; it is not read."""
        with temporary_folder(paths[0].parent.parent) as beside:
            archive = beside / "all.zip"
            pack_files(paths, archive)
            return _digest(archive) == record.sha256

    def kept(self, name: str) -> list[FileRecord]:
        """Return the whole objects of a name, the newest first."""
        return [record for record in kept_files(self.engine, self.token, name) if record.whole]

    def names(self) -> list[str]:
        """Return all names that have an object, whole or not."""
        return file_names(self.engine, self.token)

    def newest(self) -> dict[str, FileRecord]:
        """Return the newest whole object of each name."""
        return newest_files(self.engine, self.token)

    def fetch(self, record: FileRecord, path: Path, *, earlier: Path | None = None) -> bool:
        """Write the content of an object to ``path``. False: it is gone, or damaged.

        earlier: where the former file is kept
        Raises `FilesAway`, and `OSError` if it does not fit on the disk.
        """
        with temporary_folder(path.parent) as beside:
            copy = beside / "copy"
            if not self._read(record, copy):
                return False
            with atomic_file(path, earlier=earlier, lasting=False) as place:
                copy.replace(place)
        return True

    def fetch_all(self, record: FileRecord, folder: Path) -> bool:
        """Write the files of an object of `put_all` into ``folder``; files that are there already
        stay.

        False: the object is gone, or damaged.
        """
        with temporary_folder(folder.parent) as beside:
            archive = beside / "all.zip"
            if not self._read(record, archive):
                return False
            try:
                with ZipFile(archive) as packed:
                    _unpack(packed, folder)
            except (BadZipFile, ValueError):
                return False
        return True

    def forget(self, name: str) -> None:
        """Remove all that is kept under a name. Raises `FilesAway`."""
        self._remove([record.key for record in kept_files(self.engine, self.token, name)])

    def drop(self, record: FileRecord) -> None:
        """Remove one object that cannot be used. Raises `FilesAway`."""
        self._remove([record.key])

    def _read(self, record: FileRecord, path: Path) -> bool:
        if not self.store.read(PLACE + record.key, path):
            return False
        return _digest(path) == record.sha256

    def _remove(self, keys: Sequence[str]) -> None:
        """Remove objects, then their rows: a kill in between leaves no object without a row."""
        for key in keys:
            self.store.remove(PLACE + key)
        drop_files(self.engine, keys)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def pack_files(paths: Sequence[Path], archive: Path) -> None:
    """Write files into an archive whose bytes follow from their names and contents alone."""
    with ZipFile(archive, "w", ZIP_STORED) as packed:
        for path in sorted(paths):
            with path.open("rb") as file, packed.open(ZipInfo(path.name), "w") as entry:
                shutil.copyfileobj(file, entry)


def _unpack(packed: ZipFile, folder: Path) -> None:
    """Write the files of an archive whose names are plain, and which are not compressed."""
    for entry in packed.infolist():
        if not NAME.fullmatch(entry.filename) or entry.compress_type != ZIP_STORED:
            raise ValueError(f"{entry.filename!r} is no name of a file of ours")
    folder.mkdir(parents=True, exist_ok=True)
    for entry in packed.infolist():
        path = folder / entry.filename
        if not path.exists():
            with atomic_file(path, lasting=False) as beside:
                beside.write_bytes(packed.read(entry))
