"""The files of a study, its own and those beside it that it imports, kept as they were.

    files = StudyFiles(path)                 # in a worker: StudyFiles(path, kept=run.sources)
    module = files.load()
    files.kept                               # module -> what it was made of

A study runs for hours, and its file is edited meanwhile for the next experiment. So the supervisor
keeps what it has read, and every worker makes its modules of that, however late it starts.

A file beside the study gets only a name that is free: `models`, `search`, `storage`, and whatever
Python or a package calls its own, stay theirs.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

from search.run import SourceFile
from search.setup.code_digest import imported_names
from search.study import STUDIES

ROOT = Path(__file__).parents[2]
ROOMS = ("models", "search", "storage")
OURS = "search.studies"  # the package of the studies that come with genstudy
_made: set[str] = set()  # names of modules that a `KeptLoader` has made in this process


class StudyFiles(MetaPathFinder):
    """Makes the modules of the study in the file ``path``, and keeps their files.

    kept: files by module that were read before: they are not read again
    """

    def __init__(self, path: Path, kept: Mapping[str, SourceFile] | None = None) -> None:
        self.path = path
        self.folder = path.parent
        is_ours = self.folder == STUDIES
        self.name = f"{OURS}.{path.stem}" if is_ours else f"genstudy_study_{path.stem}"
        self.kept = dict(kept or {})
        self._is_complete = bool(kept)
        self._tops = {name.partition(".")[0] for name in self.kept}  # of packages beside the study

    def load(self) -> ModuleType:
        """Run the study file; return its module. What its functions import later is kept, too."""
        if self.name not in self.kept:
            self.kept[self.name] = SourceFile.read(self.path)
        _forget_modules(self.folder)
        sys.meta_path.insert(0, self)  # before the files of other studies
        try:
            if not self.name.startswith(OURS):
                sys.modules.pop(self.name, None)
            module = importlib.import_module(self.name)
        except BaseException:
            sys.modules.pop(self.name, None)
            sys.meta_path.remove(self)
            raise
        sys.meta_path.remove(self)
        others = [finder for finder in sys.meta_path if isinstance(finder, StudyFiles)]
        for finder in others:
            if finder.path == self.path:
                sys.meta_path.remove(finder)
        sys.meta_path.insert(sum(finder.path != self.path for finder in others), self)
        if not self._is_complete:
            self._keep_later_imports()
        return module

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return how a module of this study is made; None: it is no module of this study."""
        if fullname in self.kept:
            return _kept_spec(fullname, self.kept[fullname])
        top = fullname.partition(".")[0]
        if path is None:
            spec = self._find_beside(fullname)
        elif top in self._tops or fullname.startswith(f"{OURS}."):
            spec = PathFinder.find_spec(fullname, path)
        else:
            return None
        if spec is None:
            return None
        self._tops.add(top)
        if not isinstance(spec.loader, SourceFileLoader):
            return spec  # of compiled code, or a folder without __init__.py
        self.kept[fullname] = SourceFile.read(Path(spec.loader.path))
        return _kept_spec(fullname, self.kept[fullname])

    def hides(self, name: str) -> bool:
        """Whether a file or folder ``name`` beside the study cannot be imported under its name.

        That is so if the name belongs to genstudy, Python or an installed package.
        """
        if _is_kept(sys.modules.get(name)):
            return False
        return _lies_in(self.folder, name) and self._find_beside(name) is None

    def _find_beside(self, name: str) -> ModuleSpec | None:
        if not _lies_in(self.folder, name):
            return None
        found = None if name in sys.modules else PathFinder.find_spec(name, [str(self.folder)])
        return None if found is None or self._is_taken(name, found) else found

    def _is_taken(self, name: str, found: ModuleSpec) -> bool:
        for finder in sys.meta_path:
            if isinstance(finder, StudyFiles):
                continue
            other = finder.find_spec(name, None)
            if other is not None and other.loader is not None and other.origin != found.origin:
                return True
        return False

    def _keep_later_imports(self) -> None:
        """Keep also what a function of the study imports when it is called."""
        seen: set[str] = set()
        while left := sorted(self.kept.keys() - seen):
            for name in left:
                seen.add(name)
                file = self.kept[name]
                for imported in imported_names(name, file.as_bytes(), is_package=file.is_package):
                    self._keep_module(imported)

    def _keep_module(self, name: str) -> None:
        path: Sequence[str] | None = None
        parts = name.split(".")
        for count in range(1, len(parts) + 1):
            part = ".".join(parts[:count])
            spec = getattr(sys.modules.get(part), "__spec__", None) or self.find_spec(part, path)
            if spec is None or spec.submodule_search_locations is None:
                return
            path = list(spec.submodule_search_locations)


class KeptLoader(InspectLoader):
    """Makes a module from a file as it was read, whatever the file holds now."""

    def __init__(self, source: SourceFile) -> None:
        self.source = source

    def get_source(self, fullname: str) -> str:
        """Return the text, which tracebacks show."""
        return importlib.util.decode_source(self.source.as_bytes())

    def get_code(self, fullname: str) -> CodeType:
        return compile(self.source.as_bytes(), self.source.path, "exec", dont_inherit=True)

    def is_package(self, fullname: str) -> bool:
        return self.source.is_package


def digest_rooms() -> str:
    """Return a word that changes with genstudy's own files, except its studies."""
    digest = hashlib.sha256()
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            if path.parent != STUDIES:
                digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _kept_spec(name: str, source: SourceFile) -> ModuleSpec:
    """Return how the module ``name`` is made of ``source``."""
    inside = [str(Path(source.path).parent)] if source.is_package else None
    spec = importlib.util.spec_from_file_location(
        name, source.path, loader=KeptLoader(source), submodule_search_locations=inside
    )
    assert spec is not None
    _made.add(name)
    return spec


def _forget_modules(folder: Path) -> None:
    """Forget modules of other studies that have the same names, and older ones of this study.

    Two studies in one process may each have a file net.py.
    """
    for name in sorted(_made):
        is_theirs = _is_kept(sys.modules.get(name)) and not name.startswith(OURS)
        if is_theirs and _lies_in(folder, name.partition(".")[0]):
            del sys.modules[name]


def _lies_in(folder: Path, name: str) -> bool:
    """Whether ``folder`` has a file or a folder that could be the module ``name``."""
    return (folder / f"{name}.py").is_file() or (folder / name).is_dir()


def _is_kept(module: ModuleType | None) -> bool:
    """Whether a `KeptLoader` has made the module."""
    return isinstance(getattr(getattr(module, "__spec__", None), "loader", None), KeptLoader)
