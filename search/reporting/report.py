"""A study as one page: what came out, how it was searched, and all of its trials.

    make report NAME=gan_balance
    write_report("gan_balance", "sqlite:///runs/studies.db", RunPaths(Path("runs")))

    RUNS/reports/STUDY/
      index.html                 the whole page in one file, which can be mailed
      README.md                  the same as Markdown, with the figures and pictures beside it

A report can be written at any time, and replaces an earlier one. Whatever else lies in its folder
stays.
"""

from __future__ import annotations

import re
import shutil
from contextlib import suppress
from pathlib import Path

from search.reporting.document import Block, files_of, to_markdown
from search.reporting.front import front_blocks
from search.reporting.origin import origin_blocks
from search.reporting.outcome import outcome_blocks
from search.reporting.page import to_html
from search.reporting.reported_study import ReportedStudy, read_study
from search.reporting.searched import searched_blocks
from search.reporting.second_judge import ranking_check
from search.reporting.tables import conclusion_blocks, gallery_of, trials_blocks
from search.setup.shared_place import PLACE, open_for_reading
from search.trials.shared_exports import bring_export, shared_ranks
from storage import trials
from storage.database.connection import open_storage
from storage.errors import RunsUnwritable
from storage.files.exports import atomic_folder
from storage.files.object_store import ObjectStore
from storage.files.shared_files import SharedFiles
from storage.paths import RunPaths


def write_report(
    name: str, url: str, paths: RunPaths, *, into: Path | None = None, files: str | None = None
) -> Path:
    """Write the report of a stored study and return its folder.

    into: that folder, where it is not ``RUNS/reports/STUDY``
    files: where pictures and exports of other machines are, as FILES names it; None: there are none
    Raises `StudyNotFound`, and `NotReported` before a trial has ended.
    """
    trials(name, storage=url)  # raises in one line if the name or the database is wrong
    storage = open_storage(url, create=False)
    try:
        shared = open_for_reading(files, storage.engine)
        reported = read_study(name, storage, paths, shared)
        if shared is not None:
            _bring_exports(reported, shared)
        blocks = _blocks(reported)
    finally:
        storage.engine.dispose()
    title, place = f"Study {name}", into or paths.report(name)
    with atomic_folder(place) as folder:
        for file, content in files_of(blocks).items():
            (folder / file).write_bytes(content)
        (folder / "README.md").write_text(to_markdown(title, blocks), encoding="utf-8")
        (folder / "index.html").write_text(to_html(title, blocks), encoding="utf-8")
        for other in other_files(place):
            if not (folder / other.name).exists():
                _copy(other, folder / other.name)
    return place


def _bring_exports(reported: ReportedStudy, shared: ObjectStore) -> None:
    """Bring the exports of other machines into this RUNS, where that can be written."""
    token = reported.definition.get("token")
    attributes = reported.storage.get_study_system_attrs(reported.study._study_id)
    if not isinstance(token, str) or PLACE not in attributes:
        return
    files = SharedFiles(engine=reported.storage.engine, token=token, store=shared)
    with suppress(RunsUnwritable):
        reported.paths.check_writable()
        for rank in shared_ranks(files):
            bring_export(files, reported.paths.export(reported.name, rank), rank)


def other_files(place: Path) -> list[Path]:
    """Return what lies in a report's folder and is no part of the report: a person's notes."""
    if place.is_symlink() or not place.is_dir():
        return []
    try:
        page = (place / "README.md").read_text(encoding="utf-8")
    except (OSError, ValueError):
        page = ""  # without its page, nobody knows: all is kept
    ours = {"README.md", "index.html", *re.findall(r"\]\(([^()\s]+)\)", page)}
    return [path for path in sorted(place.iterdir()) if path.name not in ours]


def _copy(source: Path, target: Path) -> None:
    if source.is_dir() and not source.is_symlink():
        shutil.copytree(source, target, symlinks=True)
    else:
        shutil.copy2(source, target, follow_symlinks=False)


def _blocks(reported: ReportedStudy) -> list[Block]:
    """Return the blocks of the page from top to bottom."""
    gallery = gallery_of(reported)
    lead, *outcome = outcome_blocks(reported)
    return [
        lead,
        *front_blocks(reported),
        *outcome,
        *conclusion_blocks(reported.study),
        *origin_blocks(reported),
        *searched_blocks(reported),
        *ranking_check(reported.trials, reported.metric),
        *trials_blocks(reported, gallery),
    ]
