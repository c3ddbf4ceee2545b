"""What computes a study's values, file by file: its own code, and what it uses of genstudy.

    digests = digest_code(files.kept, spec)        # path -> word of 12 letters
    version = combine_digests(digests)             # one word of 16 letters for all of them
    describe_environment()                         # "python 3.11, torch 2.11.0, ..., AVX512"

Trials compare only if the same code computed them. The word of a file changes with what the file
does: comments, docstrings and layout do not count. Most arguments of `StudySpec` do not count
either: a stored study compares those that matter one by one (`search.setup.stored_study`), and the
others leave the values of trials alone.

Of genstudy, those files count that the model's family, its training and its judge import. Files
that only draw, describe or export the result do not count.
"""

from __future__ import annotations

import ast
import hashlib
import platform
import sys
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from search.run import SourceFile

if TYPE_CHECKING:
    from search.study import StudySpec

ROOT = Path(__file__).parents[2]
ROOTS = ("models.training.loop", "models.seeds")  # of every study
FUSED = ("models.training.fused_epochs",)  # of a family that may be trained as one program
JUDGE = ("models.evaluation.sample_evaluator", "search.worker.evaluator")
MEASURED_COSTS = ("models.costs",)
OUTSIDE = (  # these compute no value of a trial
    "models.figures", "models.analysis", "models.export", "models.programs", "models.results",
    "models.program_files", "models.tensor_files", "models.sealed_files", "models.seals",
    "models.data.contact_sheet", "models.data.description", "models.evaluation.gan_figure",
)  # fmt: skip
COMPUTING = ("model", "suggest")  # arguments of StudySpec; others are compared by value, or free
REMEMBERED = 256  # files whose content a process has read before: all of models/, and a study's
PACKAGES = ("torch", "torchvision", "numpy", "llvmlite")


def digest_code(kept: Mapping[str, SourceFile], spec: StudySpec) -> dict[str, str]:
    """Return a word for each file that computes a study's values, by the file's path.

    kept: the study's own files, by module
    """
    digests = {}
    families = {base.__module__ for base in spec.model.__mro__}
    roots = [*ROOTS, *(JUDGE if spec.judges_samples else ()), *families]
    if any(goal.is_cost for goal in spec.goals):
        roots += MEASURED_COSTS
    if vars(spec.model).get("fuses", False):  # of itself: it is not inherited
        roots += FUSED
    for module, source in kept.items():
        content = source.as_bytes()
        digests[_shown(Path(source.path))] = digest_source(content)
        imported = imported_names(module, content, is_package=source.is_package)
        roots += (name for name in imported if name.startswith("models."))
    for path, content in _read_used_files(roots):
        digests.setdefault(_shown(path), digest_source(content))
    return dict(sorted(digests.items()))


def combine_digests(digests: Mapping[str, str]) -> str:
    """Return one word for all files. Their folders do not count."""
    lines = sorted(f"{Path(path).name}|{digest}" for path, digest in digests.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


@lru_cache(REMEMBERED)
def digest_source(content: bytes) -> str:
    """Return a word that changes with what a Python file does, and not with how it is written."""
    digest = hashlib.sha256()
    try:
        tree = ast.parse(content)
        skipped = _summary_names(tree)
        for word in _words_of(tree, skipped):
            digest.update(word.encode("utf-8", "surrogatepass"))
    except (SyntaxError, ValueError, RecursionError):
        digest = hashlib.sha256(content)
    return digest.hexdigest()[:12]


@cache
def describe_environment() -> str:
    """Return the packages and the kernels in use, for a person to read."""
    import torch

    words = [f"python {platform.python_version_tuple()[0]}.{platform.python_version_tuple()[1]}"]
    for package in PACKAGES:
        try:
            words.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    words.append(f"{sys.platform} {torch.backends.cpu.get_cpu_capability()}")
    return ", ".join(words)


@lru_cache(REMEMBERED)
def imported_names(module: str, content: bytes, *, is_package: bool) -> tuple[str, ...]:
    """Return what a file imports anywhere, also what may be a name in a module."""
    package = module if is_package else module.rpartition(".")[0]
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError, RecursionError):
        return ()
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            start = ".".join(above if node.level else [])
            base = ".".join(word for word in (start, node.module or "") if word)
            found += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return tuple(found)


def _read_used_files(roots: list[str]) -> Iterator[tuple[Path, bytes]]:
    """Yield the files of genstudy's modules that ``roots`` import, directly or through others."""
    left, seen = list(roots), set()
    while left:
        module = left.pop()
        is_wanted = module.startswith("models.") or module in (*ROOTS, *JUDGE)
        if module in seen or not is_wanted or module.startswith(OUTSIDE):
            continue
        seen.add(module)
        path = ROOT.joinpath(*module.split(".")).with_suffix(".py")
        if not path.is_file():
            continue  # a package, whose __init__.py is empty, or a name in a module
        content = path.read_bytes()
        yield path, content
        left += imported_names(module, content, is_package=False)


def _words_of(node: ast.AST, skipped: frozenset[str]) -> Iterator[str]:
    """Yield the parts of a syntax tree, alike in all versions of Python.

    skipped: functions that do not count
    """
    yield type(node).__name__
    for name, value in ast.iter_fields(node):
        if name == "body" and isinstance(value, list):
            value = [statement for statement in value if not _is_text(statement)]
        if name == "keywords" and _calls_spec(node):
            value = [keyword for keyword in value if keyword.arg in COMPUTING]
        parts = value if isinstance(value, list) else [value]
        for part in parts:
            if isinstance(part, ast.FunctionDef) and part.name in skipped:
                continue
            if isinstance(part, ast.AST):
                yield f"({name}"
                yield from _words_of(part, skipped)
                yield ")"
            elif part is not None:
                yield f"({name} {type(part).__name__} {part!r})"


def _is_text(statement: ast.stmt) -> bool:
    """Whether a statement is a text alone: a docstring, also one below a variable."""
    if not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)):
        return False
    return isinstance(statement.value.value, str)


def _calls_spec(node: ast.AST) -> bool:
    """Whether ``node`` is a call of `StudySpec`."""
    if not isinstance(node, ast.Call):
        return False
    called = node.func
    name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
    return name == "StudySpec"


def _summary_names(tree: ast.Module) -> frozenset[str]:
    """Return the functions that are a study's summary, which no trial calls."""
    return frozenset(
        keyword.value.id
        for node in tree.body
        for call in ast.walk(node)
        if isinstance(call, ast.Call) and _calls_spec(call)
        for keyword in call.keywords
        if keyword.arg == "summary" and isinstance(keyword.value, ast.Name)
    )


def _shown(path: Path) -> str:
    """Return genstudy's own files by their place in it."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
