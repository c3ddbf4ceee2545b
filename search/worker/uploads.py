"""Copies that one thread puts into FILES while the training goes on.

    uploads = Uploads(access)
    uploads.put("trial-7", path, epoch=9, guard=guard, left="...")    # returns at once
    uploads.wait()                # until all are there, or FILES is away
    uploads.drop("trial-7")       # what has not begun is not put any more
    uploads.clear()               # another training begins

A copy counts when the database says that it is whole, which is after its last byte was written: so
the training may go on meanwhile, and nobody resumes from half of one. Of a name the latest waits,
and one that it overtakes is not put. What a guard raises is raised by the next call: the training
is somebody else's by now.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from search.trials.files_access import FilesAccess
from storage.database.file_records import Guard
from storage.database.retry import DatabaseRetry
from storage.files.shared_files import SharedFiles
from storage.files.temporary import temporary_name

log = logging.getLogger("genstudy")
REST = 5.0  # seconds without work after which the thread ends


@dataclass(frozen=True, kw_only=True)
class Upload:
    """One copy that is to be put.

    path: another name of its content, which is ours alone
    left: what stays where while FILES is away, for people
    """

    name: str
    path: Path
    epoch: int
    guard: Guard
    left: str

    def put(self, files: SharedFiles) -> None:
        files.put(self.name, self.path, epoch=self.epoch, guard=self.guard)


class Uploads:
    """The uploads of one process."""

    def __init__(self, access: FilesAccess) -> None:
        self.access = access
        # Not that of the training: who waits for the database belongs to one thread.
        self._own = access.beside(DatabaseRetry(access.given_up))
        self._waiting: dict[str, Upload] = {}  # by name, in their order
        self._under_way: Upload | None = None
        self._failed: dict[str, Exception] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def put(self, name: str, path: Path, *, epoch: int, guard: Guard, left: str) -> None:
        """Have what ``path`` holds now put under ``name``; a disk that does not let it costs it.

        Raises what an earlier upload of this name has met.
        """
        with self._changed:
            if name in self._failed:
                raise self._failed.pop(name)
        try:
            copy = _second_name(path)
        except OSError as error:  # somebody has removed it, say
            log.warning("%s is not put into FILES: %s", path, error)
            return
        upload = Upload(name=name, path=copy, epoch=epoch, guard=guard, left=left)
        with self._changed:
            overtaken = self._waiting.pop(name, None)
            self._waiting[name] = upload
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="uploads", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        if overtaken is not None:
            overtaken.path.unlink(missing_ok=True)

    def wait(self) -> None:
        """Wait until everything is put, as far as FILES takes it. Raises what uploads have met."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting and self._under_way is None)
            failed, self._failed = [*self._failed.values()], {}
        if failed:
            raise failed[0]

    def drop(self, name: str) -> None:
        """Put nothing more under ``name``; returns when nothing of it is under way."""
        with self._changed:
            dropped = self._waiting.pop(name, None)
            self._changed.wait_for(lambda: self._under_way is None or self._under_way.name != name)
            self._failed.pop(name, None)
        if dropped is not None:
            dropped.path.unlink(missing_ok=True)

    def clear(self) -> None:
        """Put nothing more, and forget what uploads have met: they were another training's."""
        with self._changed:
            names = [*self._waiting, *self._failed]
        for name in names:
            self.drop(name)
        with suppress(Exception):
            self.wait()

    def _work(self) -> None:
        """Put what waits, in its order, until nothing has come for a while."""
        while (upload := self._next()) is not None:
            failed: Exception | None = None
            try:
                self._own.try_to(upload.put, left=upload.left)
            except OSError as error:
                log.warning("%s is not put into FILES: %s", upload.name, error)
            except Exception as error:  # it is the training's: `put` and `wait` raise it there
                failed = error
            finally:
                self._end(upload, failed)

    def _end(self, upload: Upload, failed: Exception | None) -> None:
        with suppress(OSError):
            upload.path.unlink()
        with self._changed:
            self._under_way = None
            if failed is not None:
                self._failed[upload.name] = failed
            self._changed.notify_all()

    def _next(self) -> Upload | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting, timeout=REST)
            if not self._waiting:
                self._thread = None
                return None
            name = next(iter(self._waiting))
            self._under_way = self._waiting.pop(name)
            return self._under_way


def _second_name(path: Path) -> Path:
    """Give the content of a file another name beside it: the first will soon be another file's.

    Raises `OSError`.
    """
    beside = path.with_name(temporary_name(path.name))
    try:
        os.link(path, beside)
    except OSError:  # this file system has no links
        shutil.copyfile(path, beside)
    return beside
