"""Export folders: provenance, model card, and which folders are whole.

    with atomic_folder(paths.export("cae", 1)) as folder:
        ...                    # `models/export.py` writes weights and programs
        publish(folder, about)

    RUNS/exports/STUDY/RANK/
      README.md              model card: what it is, how good, how to load it
      provenance.json        study, trial, parameters, data, seeds, curve, revision, files' hashes
      weights.safetensors, config.json, NAME.onnx, NAME.pt2
      learning_curve.png, reconstructions.png, ...  the model's pictures

A folder appears whole or not at all: it is filled under another name and renamed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from storage.errors import DiskFull
from storage.files.atomic import disk_full, is_full, write_json
from storage.files.model_card import model_card

PROVENANCE = "provenance.json"
CARD = "README.md"


@contextmanager
def atomic_folder(folder: Path, *, needs: int = 0) -> Iterator[Path]:
    """Yield an empty folder to fill, which takes the place of ``folder`` at the end.

    needs: bytes that the folder takes at least, for the message of `DiskFull`
    """
    beside = folder.with_name(f".{folder.name}.{uuid4().hex}")
    try:
        beside.mkdir(parents=True)
        yield beside
        if os.path.lexists(folder):
            old = folder.with_name(f".{folder.name}.{uuid4().hex}.old")
            folder.rename(old)
            beside.rename(folder)
            _remove(old)
        else:
            beside.rename(folder)
    except OSError as error:
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
    files = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
    }
    provenance = {**about, "sha256": files}
    write_json(folder / PROVENANCE, provenance)
    (folder / CARD).write_text(model_card(provenance, rest=PROVENANCE), encoding="utf-8")


def read_provenance(folder: Path) -> dict[str, Any] | None:
    """Return the provenance of an export; None where it is missing or cannot be read."""
    try:
        content = json.loads((folder / PROVENANCE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def is_whole(folder: Path, provenance: Mapping[str, Any]) -> bool:
    """Return whether every file that was exported is still there."""
    files = provenance.get("sha256")
    return isinstance(files, dict) and all((folder / name).is_file() for name in files)


def remove_unfinished(exports: Path) -> None:
    """Remove half filled folders of killed exports; only the one run that exports calls this."""
    for left in exports.glob(".*"):
        shutil.rmtree(left, ignore_errors=True)


def remove_ranks_beyond(exports: Path, last: int) -> None:
    """Remove the ranks of an earlier, longer leaderboard: they would be taken for today's."""
    for folder in exports.glob("[0-9]*"):
        if folder.name.isdigit() and int(folder.name) > last:
            _remove(folder)


def _remove(folder: Path) -> None:
    """Remove a folder with all that is in it, but of a link or a file only itself."""
    if folder.is_symlink() or not folder.is_dir():
        folder.unlink()
    else:
        shutil.rmtree(folder)
