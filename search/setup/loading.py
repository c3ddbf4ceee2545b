"""Load a study: find its file, import it and check what it says.

    study = load_study("cae")                 # search/studies/cae.py
    study = load_study("my/own_study.py")     # anybody's file

`load_study` runs ``suggest`` on random trials, so that a misspelt name is found now and not by
fifty failing trials.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import optuna

from search.errors import BadVariable, StudyFileError, UnknownStudy, unknown_name
from search.setup.checks import probe
from search.setup.mistakes import mistakes_of
from search.strategies.pruners import make_pruner
from search.strategies.samplers import make_sampler
from search.study import STUDIES, Study, StudySpec
from storage.errors import StorageError, short
from storage.paths import check_name


def study_names() -> list[str]:
    """Return the names of the studies that come with genstudy."""
    return sorted(path.stem for path in STUDIES.glob("*.py") if path.stem != "__init__")


def load_study(name: str) -> Study:
    """Return the study of that name, or the one in the file of that path.

    Raises `UnknownStudy`, or `StudyFileError` with the line of the mistake.
    """
    path = find_study(name)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with mistakes_of(path):
        module = _import(path)
        spec = getattr(module, "STUDY", None)
        if not isinstance(spec, StudySpec):
            raise StudyFileError(
                f"{path} defines no STUDY of type StudySpec; end it with STUDY = StudySpec(...)"
            )
        space, configurations = probe(spec)
        try:
            make_sampler(spec.sampler, seed=0, space=space)
            make_pruner(spec.pruner)
        except BadVariable as error:
            raise StudyFileError(f"{path}: {error}") from error
    return Study(name=path.stem, path=path, spec=spec, space=space, configurations=configurations)


def find_study(name: str) -> Path:
    """Return the file of a study; raise `UnknownStudy` or, for a file with a bad name,
    `StudyFileError`."""
    if not name.endswith(".py") and "/" not in name:
        if name not in study_names():
            raise UnknownStudy(unknown_name("study", name, study_names()))
        return STUDIES / f"{name}.py"
    fix = "NAME takes a study's name or the path of a file that ends in .py"
    try:
        path = Path(name).expanduser().resolve()
        found = path.is_file()
    except (OSError, RuntimeError) as error:  # a loop of links, a name too long, nobody's home
        raise UnknownStudy(f"no study file {short(name)} ({_reason(error)}); {fix}") from error
    if not found or path.suffix != ".py":
        raise UnknownStudy(f"no study file {short(str(path))}; {fix}")
    try:
        check_name(path.stem)
    except StorageError as error:
        raise StudyFileError(f"{path}: {error}; rename the file") from error
    return path


def _reason(error: Exception) -> str:
    return short(getattr(error, "strerror", None) or str(error))


def _import(path: Path) -> ModuleType:
    """Run a study file as a module; beside it may lie a file with the user's own model."""
    if path.parent == STUDIES:
        return importlib.import_module(f"search.studies.{path.stem}")
    specification = importlib.util.spec_from_file_location(f"genstudy_study_{path.stem}", path)
    if specification is None or specification.loader is None:
        raise StudyFileError(f"{path} cannot be read as Python")
    module = importlib.util.module_from_spec(specification)
    sys.modules[module.__name__] = module  # dataclasses look for their module there
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    keep, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # leave the folder as it is
    try:
        specification.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = keep
    return module
