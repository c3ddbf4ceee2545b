"""Which export `make sample` is asked for: one that NAME names, or the one in FROM.

export = find_export(variables, say)      # its folder, what it says of itself
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.data.loading import find_source
from models.results import file_stem
from search.console import shorten_path
from search.errors import BadVariable, UnknownStudy
from search.setup.fetched_exports import export_place, fetch_export
from search.setup.loading import load_study
from search.setup.names import study_name
from search.spelling import spell
from search.study import Study
from search.trials.stored_names import find_stored_name, is_path
from search.variables import Variables
from storage.errors import StorageError, suggest_name
from storage.files.exports import read_provenance


@dataclass(frozen=True)
class FoundExport:
    """An export, and how it was found.

    study: whose file NAME names; None: NAME is the name of a stored study, or there is none
    place: where its samples belong
    """

    folder: Path
    study: Study | None
    place: Path
    provenance: dict[str, Any]

    @property
    def title(self) -> str:
        """What it is, in words."""
        about = self.provenance
        return f"{about.get('study', self.folder)} trial {about.get('trial', '?')}"


def find_export(variables: Variables, say: Callable[[str], None]) -> FoundExport:
    """Return the export that is asked for; raises `BadVariable`.

    say: hears where an export of another machine is brought to
    """
    paths, rank = variables.paths, variables.rank
    if variables.start is not None:
        study = None if variables.name is None else load_study(variables.name)
        found = read_provenance(variables.start) or {}
        place = paths.samples(file_stem(str(found.get("study") or variables.start.name)), rank)
        return FoundExport(variables.start, study, place, found)
    name, study = variables.need_name("sample"), None
    try:
        study = load_study(name)
        data = variables.data or study.spec.data
        label = find_source(data, variables.data_root, variables.background).label
        name = _choose_stored(variables, study_name(study, data, label))
        fetch_export(variables, name, rank, say)
    except UnknownStudy:  # a study in the database may have no file of its own: cae-digits
        fetch_export(variables, name, rank, say)
        if not paths.exports(name).is_dir():
            if is_path(name) or not (hint := suggest_name(name, _exported(variables))):
                raise
            root = shorten_path(paths.root)
            raise UnknownStudy(f"no export of {name!r} under RUNS={root}; {hint.strip()}") from None
    folder = paths.export(name, rank)
    if not folder.is_dir():
        raise BadVariable(_explain_missing(variables, name, rank))
    return FoundExport(folder, study, paths.samples(name, rank), read_provenance(folder) or {})


def _choose_stored(variables: Variables, name: str) -> str:
    """Return ``name``, or the stored study that it means if there are no exports of that name here.

    A stored study is looked for unless DATA is given. Without a trial database ``name`` stays.
    """
    if variables.data is not None or variables.paths.exports(name).is_dir():
        return name
    try:
        return find_stored_name(variables.storage_url, name)
    except StorageError:
        return name


def _exported(variables: Variables) -> list[str]:
    """Return the names of the studies that have exports here."""
    exports = variables.paths.root / "exports"
    return sorted(path.name for path in exports.glob("*") if path.is_dir())


def _explain_missing(variables: Variables, name: str, rank: int) -> str:
    """Say which exports there are."""
    exports = variables.paths.root / "exports"
    here = sorted(int(path.name) for path in exports.glob(f"{name}/*") if path.name.isdecimal())
    if here:
        return f"RANK={rank}: {name} has exports of rank {', '.join(map(str, here))}"
    others = _exported(variables)
    hint = suggest_name(name, others)
    there = f"; {hint}there are exports of {', '.join(others[:8])}" if others else ""
    if (place := export_place(variables, name)) is not None:
        there += f"; the study keeps its exports in FILES={place}: give FILES, too"
        return f"no export of {name} under RUNS={shorten_path(variables.paths.root)}{there}"
    return (
        f"no export of {name} under RUNS={shorten_path(variables.paths.root)}{there}; "
        f"{spell('study', NAME=variables.name)} makes them"
    )
