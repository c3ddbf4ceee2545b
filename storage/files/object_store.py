"""Objects by name in a place that every machine reaches, by Optuna's artifact stores.

    store = open_objects(parse_files("s3://bucket/studies"), engine)
    store.check()                               # raises `FilesUnusable` for a mistake, in one line
    store.write("files/1f..", path)             # whole or not there
    store.read("files/1f..", path)              # False: there is no such object
    store.remove("files/1f..")

A bucket is Optuna's `Boto3ArtifactStore` or `GCSArtifactStore` behind its `Backoff`, which tries
again where the network fails for a moment. Whatever still fails is `FilesAway`, in one line.
"""

from __future__ import annotations

import logging
import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BufferedReader, BytesIO, FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast
from uuid import uuid4

from optuna.artifacts import Backoff, Boto3ArtifactStore, FileSystemArtifactStore, GCSArtifactStore
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.exceptions import ExperimentalWarning
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from storage.errors import FilesAway, FilesUnusable, FileTooLarge, causes_of, short
from storage.files.atomic import atomic_file
from storage.files.database_objects import DatabaseObjects
from storage.files.identity import WORD
from storage.files.places import CREDENTIALS, FilesPlace, Kind
from storage.files.temporary import remove_left_behind

if TYPE_CHECKING:
    from optuna.artifacts._protocol import ArtifactStore

IDENTITY = "genstudy-files"  # the object whose content tells this place from all others
TRIES, FIRST = 3, 0.2  # of a call, and seconds before the second
NOT_LET_IN = re.compile("Denied|Forbidden|40[13]|Credential|InvalidAccessKey|Signature|Token")
EXTRAS = {Kind.S3: "s3", Kind.GCS: "gcs"}

# Optuna logs each try that fails with a traceback. What is left of it in the end is one line.
logging.getLogger("optuna.artifacts._backoff").setLevel(logging.CRITICAL + 1)


class Source(BufferedReader):
    """A file whose ``close`` does nothing. boto3 closes a file after sending it, but another
    attempt reads it again from its beginning."""

    def __init__(self, path: Path) -> None:
        self._opened = FileIO(path)
        super().__init__(self._opened)

    def close(self) -> None:
        """Stay open."""

    def end(self) -> None:
        """Close the file."""
        self._opened.close()
        super().close()


class FolderObjects(FileSystemArtifactStore):
    """A folder; its files appear only when they are whole, and on the disk."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.folder = folder

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        path = Path(self._get_filepath(artifact_id))
        with atomic_file(path) as beside, beside.open("wb") as file:
            shutil.copyfileobj(content_body, file)


@dataclass(frozen=True, kw_only=True)
class ObjectStore:
    """The objects in one place.

    store: as Optuna has it; patient: the same, behind its `Backoff`
    prefix: how all names begin there
    """

    place: FilesPlace
    store: ArtifactStore
    patient: ArtifactStore
    prefix: str = ""

    def write(self, name: str, content: Path | bytes) -> None:
        """Write an object, from a file or from bytes.

        Raises `FilesAway`, and `FileTooLarge` where a database is the place.
        """
        if self.place.kind is Kind.FOLDER and name != IDENTITY:
            self._check_mounted()
        source = BytesIO(content) if isinstance(content, bytes) else Source(content)
        try:
            with self._explained():
                self.patient.write(self.prefix + name, cast("BinaryIO", source))
        finally:
            source.end() if isinstance(source, Source) else source.close()

    def read(self, name: str, path: Path) -> bool:
        """Write an object's content to ``path``. False: there is none. Raises `FilesAway`."""
        try:
            with self._explained():
                source = self.patient.open_reader(self.prefix + name)
                try:
                    with path.open("wb") as file:
                        shutil.copyfileobj(source, file)
                finally:
                    source.close()
        except ArtifactNotFound:
            self._check_mounted()
            return False
        return True

    def _check_mounted(self) -> None:
        """Raise `FilesAway` if the place has lost its word.

        Another folder stands in its place then, such as the empty one where a disk is not mounted.
        """
        if self.place.kind is not Kind.DATABASE and self._read_identity() is None:
            raise FilesAway(
                f"FILES={short(self.place.address)} cannot be reached (there is no {IDENTITY})"
            )

    def open_reader(self, name: str) -> BinaryIO:
        """Open an object. Raises `ArtifactNotFound`, and `FilesAway`."""
        with self._explained():
            return self.patient.open_reader(self.prefix + name)

    def remove(self, name: str) -> None:
        """Remove an object, if it is there. Raises `FilesAway`."""
        with self._explained(), suppress(ArtifactNotFound):
            try:
                self.store.remove(self.prefix + name)  # Optuna's `Backoff` would do so ten times
            except Exception as error:
                if _code(error) != "404":  # Google's word for an object that is not there
                    raise

    def check(self) -> None:
        """Raise `FilesUnusable` unless objects can be written, read and removed. It leaves none
        behind."""
        name, content = f"probe-{uuid4().hex}", uuid4().bytes
        try:
            if self.place.kind is Kind.FOLDER:
                self.place.folder.mkdir(parents=True, exist_ok=True)
                for inside in self.place.folder.iterdir():
                    remove_left_behind(inside)
            self.store.write(self.prefix + name, BytesIO(content))
            try:
                with self.store.open_reader(self.prefix + name) as source:
                    found = source.read()
            finally:
                self.store.remove(self.prefix + name)
        except Exception as error:
            raise self._unusable(error) from error
        if found != content:
            raise FilesUnusable(
                f"FILES={short(self.place.address)} gives back other bytes than were written; "
                "name another place"
            )

    def check_presence(self) -> None:
        """Raise `FilesUnusable` where no study keeps its files; nothing is written."""
        if self.place.kind is Kind.DATABASE:
            return
        try:
            with self.store.open_reader(self.prefix + IDENTITY):
                return
        except ArtifactNotFound as error:
            raise FilesUnusable(
                f"no study keeps its files in FILES={short(self.place.address)}; name the place "
                "that the study was run with"
            ) from error
        except Exception as error:
            raise self._unusable(error) from error

    def identify(self) -> str:
        """Return the word that tells this place from all others; it is made if there is none."""
        if self.place.kind is Kind.DATABASE:
            return Kind.DATABASE
        found = self._read_identity()
        if found is None:
            self.write(IDENTITY, f"{uuid4().hex}\n".encode())
            found = self._read_identity()
        if found is None:
            raise FilesUnusable(
                f"FILES={short(self.place.address)}: {IDENTITY} there is damaged; it holds the 32 "
                "digits by which studies know the place"
            )
        return found

    def _read_identity(self) -> str | None:
        try:
            with self._explained(), self.store.open_reader(self.prefix + IDENTITY) as source:
                found = source.read(100).decode("ascii", "replace").strip()
        except ArtifactNotFound:
            return None
        return found if WORD.fullmatch(found) else None

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what a store, a network or a disk raises into `FilesAway`."""
        try:
            yield
        except (ArtifactNotFound, FileTooLarge, SQLAlchemyError):
            raise
        except Exception as error:
            raise FilesAway(
                f"FILES={short(self.place.address)} cannot be reached ({_cause(error)})"
            ) from error

    def _unusable(self, error: Exception) -> FilesUnusable:
        where = f"FILES={short(self.place.address)}"
        kind, code = self.place.kind, _code(error)
        if kind is Kind.FOLDER:
            return FilesUnusable(
                f"cannot write to {where} ({_cause(error)}); name a folder of yours that every "
                "machine sees"
            )
        fix = "check that place, then run again"
        if code in ("NoSuchBucket", "404"):
            fix = "make the bucket, or name another"
        elif self.place.is_bucket and _lacks_rights(error, code):
            fix = f"give an account that may read, write and delete there by {CREDENTIALS[kind]}"
        return FilesUnusable(f"cannot use {where} ({_cause(error)}); {fix}")


def open_objects(place: FilesPlace, engine: Engine | None) -> ObjectStore:
    """Open a place; nothing is asked of it. Raises `FilesUnusable`.

    engine: of the trial database, for FILES=database
    """
    prefix = f"{place.prefix}/" if place.prefix else ""
    store: Any
    if place.kind is Kind.FOLDER:
        store = FolderObjects(place.folder)
    elif place.kind is Kind.DATABASE:
        assert engine is not None
        store = DatabaseObjects(engine)
    else:
        store = _open_bucket(place)
    patient = Backoff(store, max_retries=TRIES, min_delay=FIRST) if place.is_bucket else store
    return ObjectStore(place=place, store=store, patient=cast("Any", patient), prefix=prefix)


def _open_bucket(place: FilesPlace) -> Any:
    extra = EXTRAS[place.kind]
    try:
        if place.kind is Kind.S3:
            import boto3
            from botocore.config import Config

            patience = Config(
                connect_timeout=5, read_timeout=30, retries={"mode": "standard", "max_attempts": 2}
            )
            client = boto3.session.Session().client("s3", config=patience)
            return Boto3ArtifactStore(place.bucket, client, avoid_buf_copy=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return GCSArtifactStore(place.bucket)
    except ImportError as error:
        raise FilesUnusable(
            f"FILES={short(place.address)} needs what genstudy[{extra}] installs: "
            f"pip install 'genstudy[{extra}]'"
        ) from error
    except Exception as error:  # no credentials, no region, a damaged file of settings
        raise FilesUnusable(
            f"cannot use FILES={short(place.address)} ({_cause(error)}); say who may read and "
            f"write there by {CREDENTIALS[place.kind]}"
        ) from error


def _code(error: Exception) -> str:
    """Return the code of a cloud's answer; empty where there was none."""
    answer = getattr(error, "response", None)
    if isinstance(answer, dict):
        return str(answer.get("Error", {}).get("Code", ""))
    return str(getattr(error, "code", "") or "")


def _lacks_rights(error: Exception, code: str) -> bool:
    """Whether a cloud refuses access."""
    return bool(NOT_LET_IN.search(f"{code} {type(error).__name__}"))


def _cause(error: BaseException) -> str:
    """Return why, in a few words: the first cause that says something."""
    for cause in causes_of(error):
        said = getattr(cause, "strerror", None) or " ".join(str(cause).split())
        if said:
            return short(said)
    return type(error).__name__
