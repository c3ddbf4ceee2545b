"""Exports in FILES, which every machine brings into its RUNS.

    put_export(files, rank, folder, guard=guard)      # after it stands under RUNS
    bring_export(files, paths.export("cae", 1), 1)    # `Brought`: it stands here by now, or why not

An export is one object: all of its files or none.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from enum import Enum, auto
from pathlib import Path
from typing import Any

from storage.database.file_records import Guard
from storage.files.atomic import temporary_folder
from storage.files.exports import (
    PROVENANCE,
    atomic_folder,
    free_place,
    is_whole,
    read_provenance,
    remove_earliest,
)
from storage.files.shared_files import SharedFiles

EXPORT = re.compile("export-([0-9]{1,4})")
TRIES = 3  # where another process of this RUNS brings the same export


class Brought(Enum):
    """What came of bringing an export here."""

    FETCHED = auto()
    STANDS = auto()  # the same is here already
    DAMAGED = auto()  # its content in FILES is not what was put
    NOT_THERE = auto()  # FILES has none of this rank
    UNWANTED = auto()  # FILES has another than the one that is asked for


def export_file(rank: int) -> str:
    """Return the name of the export of a rank."""
    return f"export-{rank}"


def shared_ranks(files: SharedFiles) -> list[int]:
    """Return the ranks whose exports are in FILES."""
    found = [EXPORT.fullmatch(name) for name in files.newest()]
    return sorted(int(match[1]) for match in found if match)


def put_export(files: SharedFiles, rank: int, folder: Path, *, guard: Guard) -> None:
    """Put the export of a rank. Raises `FilesAway`, and what the guard raises."""
    files.put_all(export_file(rank), _files_of(folder, read_provenance(folder)), guard=guard)


def _files_of(folder: Path, provenance: Mapping[str, Any] | None) -> list[Path]:
    """Return what an export is made of; other files beside it are somebody's own."""
    names = (provenance or {}).get("sha256", {})
    return [folder / name for name in sorted({PROVENANCE, *names})]


def bring_export(
    files: SharedFiles,
    folder: Path,
    rank: int,
    *,
    wanted: Callable[[dict[str, Any]], bool] = lambda found: True,
) -> Brought:
    """Bring the export of a rank to its folder, unless it stands there; another one is kept beside
    it.

    wanted: whether an export with such a provenance is asked for
    Raises `FilesAway`.
    """
    newest = files.kept(export_file(rank))[:1]  # one before may be another model's
    if not newest:
        return Brought.NOT_THERE
    here = read_provenance(folder)
    stands = here is not None and is_whole(folder, here) and wanted(here)
    if stands and files.holds(newest[0], _files_of(folder, here)):
        return Brought.STANDS
    folder.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(folder.parent) as place:
        content = place / "export"
        if not files.fetch_all(newest[0], content):
            return Brought.DAMAGED
        found = read_provenance(content)
        if found is None or found.get("token") != files.token or not is_whole(content, found):
            return Brought.DAMAGED
        if not wanted(found):
            return Brought.UNWANTED
        for attempt in range(TRIES):
            if found == read_provenance(folder) and is_whole(folder, found):
                return Brought.STANDS if attempt == 0 else Brought.FETCHED
            try:
                _put_in_place(content, folder)
                break
            except OSError:
                if attempt == TRIES - 1:
                    raise
        return Brought.FETCHED


def _put_in_place(content: Path, folder: Path) -> None:
    """Copy an export to its folder; what stands there is kept beside it."""
    earlier = free_place(folder) if folder.exists() else None
    with atomic_folder(folder, earlier=earlier) as staging:
        shutil.copytree(content, staging, dirs_exist_ok=True)
    remove_earliest(folder)
