"""Load a study: find its file, import it and check what it says.

    study = load_study("cae")                 # search/studies/cae.py
    study = load_study("my/own_study.py")     # anybody's file

`load_study` runs ``suggest`` on random trials, so that a misspelt name is found now and not by
fifty failing trials.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import optuna

from search.errors import BadVariable, StudyFileError, UnknownStudy, unknown_name
from search.hints import SETS
from search.run import SourceFile
from search.setup.checks import probe
from search.setup.code_digest import combine_digests, digest_code
from search.setup.mistakes import describe_mistake, find_place, mistakes_of
from search.setup.study_files import StudyFiles
from search.spelling import spell
from search.strategies.pruners import make_pruner
from search.strategies.samplers import make_sampler
from search.study import STUDIES, Study, StudySpec
from storage.errors import LONGEST, StorageError, short
from storage.paths import check_name


def study_names() -> list[str]:
    """Return the names of the studies that come with genstudy."""
    return sorted(path.stem for path in STUDIES.glob("*.py") if path.stem != "__init__")


def load_study(name: str, *, sources: Mapping[str, SourceFile] | None = None) -> Study:
    """Return the study of that name, or the one in the file of that path.

    sources: its files as an earlier call has read them (`Study.sources`); nothing is read again,
    and the digest of the code is that call's, too

    Raises `UnknownStudy`, or `StudyFileError` with the line of the mistake.
    """
    path = Path(name) if sources and name.endswith(".py") else find_study(name)
    files = StudyFiles(path, sources)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with mistakes_of(path):
        module = _import(files)
        spec = getattr(module, "STUDY", None)
        if not isinstance(spec, StudySpec):
            raise StudyFileError(
                f"{path} defines no STUDY of type StudySpec; end it with STUDY = StudySpec(...)"
            )
        space, configurations = probe(spec)
        try:
            make_sampler(spec.sampler, seed=0, space=space, goals=spec.goals)
            make_pruner(spec.pruner, spec.goals)
        except BadVariable as error:
            raise StudyFileError(f"{path}: {error}") from error
    code = {} if sources else digest_code(files.kept, spec)
    return Study(
        name=path.stem,
        path=path,
        spec=spec,
        space=space,
        configurations=configurations,
        sources=files.kept,
        code=code,
        version=combine_digests(code) if code else "",
    )


def find_study(name: str) -> Path:
    """Return the file of a study; raise `UnknownStudy` or, for a file with a bad name,
    `StudyFileError`."""
    if not name.endswith(".py") and "/" not in name:
        if name not in study_names():
            beside = Path(f"{name}.py")
            if len(name) < LONGEST and beside.is_file():
                raise UnknownStudy(f"NAME={name} is no study of genstudy; did you mean {beside}?")
            of_file, _, label = name.partition("-")
            if of_file in study_names() and label in SETS:  # a stored study's name
                raise UnknownStudy(
                    f"NAME={name} is the stored name of study {of_file!r} on {label}; it begins, "
                    f"and goes on, with {spell('study', NAME=of_file, DATA=label)}"
                )
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


def _import(files: StudyFiles) -> ModuleType:
    """Run a study file; say so where a file beside it cannot be imported under its name."""
    keep, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # leave the folder as it is
    try:
        return files.load()
    except (ImportError, AttributeError) as error:
        owner = getattr(error, "obj", None)
        words = owner.__name__ if isinstance(owner, ModuleType) else error.name or ""
        name = words.partition(".")[0]
        if not name or not files.hides(name):
            raise
        holder = getattr(sys.modules.get(name), "__file__", None) or "Python itself"
        raise StudyFileError(
            f"{find_place(error, files.path)}: {describe_mistake(error)}: the name {name!r} "
            f"belongs to {holder}, so that {files.folder / name} beside the study cannot have it; "
            f"rename yours, for example my_{name}"
        ) from error
    finally:
        sys.dont_write_bytecode = keep
