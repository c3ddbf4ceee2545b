"""Export folders: provenance, model card, and which folders are whole.

    with atomic_folder(paths.export("cae", 1)) as folder:
        ...                    # `models/export.py` writes weights and programs
        publish(folder, about)

    RUNS/exports/STUDY/RANK/
      README.md              model card: what it is, how good, how to load it
      provenance.json        study, trial, parameters, data, seeds, curve, revision, files' hashes
      weights.safetensors, config.json, NAME.onnx, NAME.pt2
      learning_curve.png, reconstructions.png, ...  the model's pictures

A folder appears whole or not at all: it is filled under another name, written to the disk, and
renamed. An earlier export in its place is removed if it can be made again, and otherwise kept
beside it (`free_place`). Of these the latest few stay (`remove_earliest`), and all that a person
has changed (`holds_other_files`). The provenance tells when it is damaged
(`storage/files/sealed_json.py`), and when another file of its folder is (`is_whole`).
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from storage.errors import DiskFull, FolderRemoved
from storage.files.atomic import disk_full, is_full, sync
from storage.files.model_card import model_card
from storage.files.sealed_json import read_sealed, write_sealed
from storage.files.temporary import temporary_name

PROVENANCE = "provenance.json"
CARD = "README.md"
KEPT_EARLIER = 5  # exports of a rank that nobody can make again, and that nobody has changed
UNFINISHED = re.compile(r"\.[0-9]+\.[0-9a-f]{32}(\.old)?")  # as `atomic_folder` names folders


@contextmanager
def atomic_folder(folder: Path, *, needs: int = 0, earlier: Path | None = None) -> Iterator[Path]:
    """Yield an empty folder to fill, which takes the place of ``folder`` at the end.

    needs: bytes that the folder takes at least, for the message of `DiskFull`
    earlier: where the former ``folder`` is kept; None: it is removed
    Raises `FolderRemoved` if another run takes this one for dead and removes the new folder.
    """
    beside = folder.with_name(temporary_name(folder.name))
    try:
        beside.mkdir(parents=True)
        yield beside
        for place in (*beside.iterdir(), beside):
            sync(place)
        if os.path.lexists(folder):
            old = earlier or folder.with_name(f"{temporary_name(folder.name)}.old")
            folder.rename(old)
            beside.rename(folder)
            if earlier is None:
                _remove(old)
        else:
            beside.rename(folder)
        sync(folder.parent)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not beside.exists():
            raise FolderRemoved(f"{beside} was removed while it was filled") from error
        if not is_full(error):
            raise
        file = _file_that_did_not_fit(error, beside)
        shutil.rmtree(beside, ignore_errors=True)  # first, so that its space counts as free
        raise disk_full(folder, error, needs=needs, file=file) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _file_that_did_not_fit(error: OSError, folder: Path) -> str:
    """Return the name in the error, else the last file that was written to."""
    if isinstance(error, DiskFull):
        return error.place.name
    if error.filename:
        return Path(error.filename).name
    files = sorted(folder.glob("*"), key=lambda path: path.stat().st_mtime_ns)
    return files[-1].name if files else ""


def publish(folder: Path, about: Mapping[str, Any]) -> None:
    """Write provenance and model card of an export whose other files are in ``folder``."""
    files = {path.name: _digest(path) for path in sorted(folder.iterdir())}
    card = model_card({**about, "sha256": files}, rest=PROVENANCE).encode()
    files[CARD] = hashlib.sha256(card).hexdigest()
    write_sealed(folder / PROVENANCE, {**about, "sha256": files})
    (folder / CARD).write_bytes(card)


def read_provenance(folder: Path) -> dict[str, Any] | None:
    """Return the provenance of an export; None where it is missing or damaged."""
    return read_sealed(folder / PROVENANCE)


def is_whole(folder: Path, provenance: Mapping[str, Any]) -> bool:
    """Return whether every exported file is still there, and has its exported content.

    A person may have written into the model card, which only must not be empty.
    """
    files = provenance.get("sha256")
    if not isinstance(files, dict) or not all((folder / name).is_file() for name in files):
        return False
    try:
        return all(
            (folder / CARD).stat().st_size > 0 if name == CARD else _digest(folder / name) == digest
            for name, digest in files.items()
        )
    except OSError:  # a file that cannot be read is none to load
        return False


def holds_other_files(folder: Path, provenance: Mapping[str, Any]) -> bool:
    """Whether a file was added to an export, or changed."""
    files = provenance.get("sha256")
    if not isinstance(files, dict) or folder.is_symlink():
        return True
    inside = {path.name: path for path in folder.iterdir()}
    if not set(inside) <= {*files, PROVENANCE, CARD}:
        return True
    return any(
        not path.is_file() or _digest(path) != files[name]
        for name, path in inside.items()
        if name in files
    )


def free_place(folder: Path) -> Path:
    """Return where an earlier export is kept beside ``folder``: ``1-earlier``, ``1-earlier-2``."""
    number = max(_kept_beside(folder), default=0) + 1
    return folder.with_name(f"{folder.name}-earlier" + ("" if number == 1 else f"-{number}"))


def remove_earliest(folder: Path, *, stay: int = KEPT_EARLIER) -> list[Path]:
    """Remove the exports that `free_place` has kept beside ``folder``, except the latest few.

    Returns the removed ones. stay: how many stay; an export that a person has changed always does
    """
    kept = [place for _, place in sorted(_kept_beside(folder).items(), reverse=True)]
    removed = []
    for place in [each for each in kept if len(kept) > stay and not _is_changed(each)][stay:]:
        with suppress(OSError):  # of another user: it stays
            going = place.rename(place.with_name(f"{temporary_name(place.name)}.old"))
            removed.append(place)
            _remove(going)
    return removed


def _kept_beside(folder: Path) -> dict[int, Path]:
    """Return the earlier exports that are kept beside ``folder``, by number from 1."""
    name = re.compile(re.escape(folder.name) + r"-earlier(?:-([0-9]+))?")
    places = folder.parent.iterdir() if folder.parent.exists() else ()
    found = {place: name.fullmatch(place.name) for place in places}
    return {int(match[1] or 1): place for place, match in found.items() if match}


def _is_changed(folder: Path) -> bool:
    """Whether an export was changed, as far as its files tell."""
    try:
        found = read_provenance(folder)
        return found is None or holds_other_files(folder, found)
    except OSError:  # what cannot be read stays
        return True


def remove_unfinished(exports: Path) -> None:
    """Remove folders that killed exports have left half filled. Only the run that exports calls
    this."""
    for left in exports.glob(".*"):
        if UNFINISHED.fullmatch(left.name):
            shutil.rmtree(left, ignore_errors=True)


def ranks_beyond(exports: Path, last: int) -> list[int]:
    """Return the ranks after ``last`` that an earlier run exported."""
    names = [folder.name for folder in exports.glob("[0-9]*")]
    return sorted(int(name) for name in names if name.isdigit() and int(name) > last)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove(folder: Path) -> None:
    """Remove a folder with its content. Of a link or a file only itself is removed."""
    if folder.is_symlink() or not folder.is_dir():
        folder.unlink()
    else:
        shutil.rmtree(folder)
