"""Export folders: names, provenance, model card. The programs come from `models/export.py`.

    RUNS/exports/STUDY/RANK/
      README.md              model card: what it is, how good, how to load it
      provenance.json        study, trial, parameters, data, seeds, curve, revision, files' hashes
      weights.safetensors, config.json, NAME.onnx, NAME.pt2
      learning_curve.png, reconstructions.png, ...  as many as the model has to show

A folder appears whole or not at all: it is filled beside and renamed.
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
    """An empty folder to fill; at the end it takes the place of ``folder``.

    needs: bytes that it takes at least, for the message of `DiskFull`
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
        file = _culprit(error, beside)
        shutil.rmtree(beside, ignore_errors=True)  # so that what it took counts as free
        raise disk_full(folder, error, needs=needs, file=file) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _culprit(error: OSError, folder: Path) -> str:
    """The file that did not fit: as the error says, else the last one that was written to."""
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
    """The record of an export; None where there is none that can be read."""
    try:
        content = json.loads((folder / PROVENANCE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def is_whole(folder: Path, provenance: Mapping[str, Any]) -> bool:
    """Whether every file that was exported is still there."""
    files = provenance.get("sha256")
    return isinstance(files, dict) and all((folder / name).is_file() for name in files)


def remove_unfinished(exports: Path) -> None:
    """Remove what killed exports left half filled; called by the one run that exports."""
    for left in exports.glob(".*"):
        shutil.rmtree(left, ignore_errors=True)


def remove_ranks_beyond(exports: Path, last: int) -> None:
    """Ranks of an earlier, longer leaderboard would be mistaken for today's."""
    for folder in exports.glob("[0-9]*"):
        if folder.name.isdigit() and int(folder.name) > last:
            _remove(folder)


def _remove(folder: Path) -> None:
    """A folder with all that is in it; of a link, or a file, that alone."""
    if folder.is_symlink() or not folder.is_dir():
        folder.unlink()
    else:
        shutil.rmtree(folder)
