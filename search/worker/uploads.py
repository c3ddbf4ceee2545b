"""One thread puts copies and pictures into FILES while the training goes on.

    uploads = Uploads(access)
    uploads.put("trial-7", path, epoch=9, guard=guard, left="...")    # returns at once
    uploads.share(artifact, folder, guard, of="trial-7")              # the same for a picture
    uploads.wait("trial-7")       # until all are there, or FILES is away
    uploads.drop("trial-7")       # does not put what has not begun yet
    uploads.clear()               # another training begins

A copy counts once the database says that it is whole, after its last byte was written. So the
training may go on meanwhile, and no process resumes from half a copy. Of each name only the latest
copy waits: a newer one replaces it. If a guard raises, because another process has taken the
training, the next call raises the error.

A picture stays in its folder. A picture for which FILES was away is put together with the next one,
also with that of another trial.
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

    path: a second name of the content, which only this upload uses
    left: which file stays where while FILES is away, for people
    """

    name: str
    path: Path
    epoch: int
    guard: Guard
    left: str

    def send(self, access: FilesAccess) -> None:
        """Put the copy, unless FILES is away. Raises what the guard raises."""
        access.try_to(self._put, left=self.left)

    def drop(self) -> None:
        """Remove the second name of the content."""
        with suppress(OSError):
            self.path.unlink()

    def _put(self, files: SharedFiles) -> None:
        files.put(self.name, self.path, epoch=self.epoch, guard=self.guard)


@dataclass(frozen=True, kw_only=True)
class SharedPicture:
    """One picture that is to be put. name: its id; of: its trial; folder: in which it lies"""

    name: str
    of: str
    folder: Path
    guard: Guard

    def send(self, access: FilesAccess) -> None:
        """Put the picture; keep it for later while FILES is away. Raises what the guard raises."""
        access.share_artifact(self.name, self.folder, self.guard)

    def drop(self) -> None:
        """Do nothing: the picture stays where it is."""


class Uploads:
    """The uploads of one process."""

    def __init__(self, access: FilesAccess) -> None:
        self.access = access
        # Not that of the training: a `DatabaseRetry` belongs to one thread.
        self._own = access.for_thread(DatabaseRetry(access.given_up))
        self._waiting: dict[str, Upload | SharedPicture] = {}  # by name, in their order
        self._under_way: Upload | SharedPicture | None = None
        self._failed: dict[str, tuple[str, Exception]] = {}  # by name: whose it is, and what it met
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def put(self, name: str, path: Path, *, epoch: int, guard: Guard, left: str) -> None:
        """Put the present content of ``path`` under ``name``. If the disk is full, nothing is put.

        Raises the error of an earlier upload of this name.
        """
        self._raise_failure(name)
        try:
            copy = _second_name(path)
        except OSError as error:  # for example, somebody has removed it
            log.warning("%s is not put into FILES: %s", path, error)
            return
        self._add(Upload(name=name, path=copy, epoch=epoch, guard=guard, left=left))

    def share(self, artifact: str, folder: Path, guard: Guard, *, of: str = "") -> None:
        """Put the picture ``artifact`` in ``folder``. Raises as `put` does.

        of: the name under which the checkpoints of its trial are put
        """
        self._raise_failure(artifact)
        self._add(SharedPicture(name=artifact, of=of, folder=folder, guard=guard))

    def wait(self, of: str | None = None) -> None:
        """Wait until everything is put that FILES takes. Raises the errors of uploads.

        of: raise only the errors of this name; those of another trial are raised for that trial
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting and self._under_way is None)
            failed = [
                self._failed.pop(name)[1]
                for name, (owner, _) in list(self._failed.items())
                if of in (None, owner) or owner.startswith(f"{of}-")
            ]
        if failed:
            raise failed[0]

    def drop(self, name: str) -> None:
        """Put nothing more under ``name``; returns when no upload of it is running."""
        with self._changed:
            dropped = self._waiting.pop(name, None)
            self._changed.wait_for(lambda: self._under_way is None or self._under_way.name != name)
            self._failed.pop(name, None)
        if dropped is not None:
            dropped.drop()

    def clear(self) -> None:
        """Put nothing more, and forget the errors of uploads: they belong to another training."""
        with self._changed:
            names = [*self._waiting, *self._failed]
        for name in names:
            self.drop(name)
        with suppress(Exception):
            self.wait()

    def _raise_failure(self, name: str) -> None:
        """Raise the error of an earlier upload of a name, if there is one."""
        with self._changed:
            if name in self._failed:
                raise self._failed.pop(name)[1]

    def _add(self, upload: Upload | SharedPicture) -> None:
        """Give the thread something to put. It replaces what waits under the same name."""
        with self._changed:
            overtaken = self._waiting.pop(upload.name, None)
            self._waiting[upload.name] = upload
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="uploads", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        if overtaken is not None:
            overtaken.drop()

    def _work(self) -> None:
        """Put what waits, in its order, until nothing has come for a while."""
        while (upload := self._next()) is not None:
            failed: Exception | None = None
            try:
                upload.send(self._own)
            except OSError as error:
                log.warning("%s is not put into FILES: %s", upload.name, error)
            except Exception as error:  # it is the training's: `put` and `wait` raise it there
                failed = error
            finally:
                self._end(upload, failed)

    def _end(self, upload: Upload | SharedPicture, failed: Exception | None) -> None:
        upload.drop()
        with self._changed:
            self._under_way = None
            if failed is not None:
                of = upload.of if isinstance(upload, SharedPicture) else upload.name
                self._failed[upload.name] = of, failed
            self._changed.notify_all()

    def _next(self) -> Upload | SharedPicture | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting, timeout=REST)
            if not self._waiting:
                self._thread = None
                return None
            name = next(iter(self._waiting))
            self._under_way = self._waiting.pop(name)
            return self._under_way


def _second_name(path: Path) -> Path:
    """Give the content of a file a second name: the first name will soon get another content.

    Raises `OSError`.
    """
    beside = path.with_name(temporary_name(path.name))
    try:
        os.link(path, beside)
    except OSError:  # this file system has no links
        shutil.copyfile(path, beside)
    return beside
