"""Examples at the head of a module: what they call is there, and takes what they give it.

    python -m pytest tests/test_examples.py

The lines are read and not run, because most of them need a study or a database.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("search", "models", "storage")
OF_THE_READER = {"discriminator", "write"}  # an example may call what its reader has written,
OF_OTHERS = {"Path", "TPESampler", "create_engine", "vmap"}  # or what other packages are known for
LEFT_OUT = {
    "search.tracking.mlflow_runs",  # they need packages that a checkout need not have
    "search.tracking.wandb_runs",
}


def find_examples(docstring: str) -> list[ast.Module]:
    """Return the paragraphs of a docstring that are Python."""
    found = []
    for part in re.split(r"\n\s*\n", docstring):
        try:
            found.append(ast.parse(inspect.cleandoc(f"\n{part}")))
        except SyntaxError:  # words, a command, a drawing or a table
            continue
    return found


def find_mistake(call: ast.Call, called: object) -> str:
    """Return what is wrong with the arguments of a call; empty where nothing is."""
    values = [*call.args, *(keyword.value for keyword in call.keywords)]
    if any(isinstance(value, ast.Starred) for value in values) or not callable(called):
        return ""
    given = [
        each for each in call.args if not (isinstance(each, ast.Constant) and each.value is ...)
    ]
    named = {keyword.arg: None for keyword in call.keywords if keyword.arg}
    try:
        signature = inspect.signature(called)
    except ValueError:  # a builtin
        return ""
    try:
        bind = signature.bind if len(given) == len(call.args) else signature.bind_partial
        bind(*given, **named)
    except TypeError as error:
        return f"{ast.unparse(call)}: {error}; it is {ast.unparse(call.func)}{signature}"
    return ""


def find_called(name: str, module: ModuleType, example: ast.Module) -> object:
    """Return what an example means by a name: its own import, the module's, or that of a room."""
    for line in ast.walk(example):
        if isinstance(line, ast.ImportFrom) and name in [alias.name for alias in line.names]:
            return getattr(importlib.import_module(str(line.module)), name)
    if name in vars(module):
        return vars(module)[name]
    if hasattr(builtins, name):
        return getattr(builtins, name)
    places = defining_modules().get(name, [])
    return getattr(importlib.import_module(places[0]), name) if len(places) == 1 else None


def read_modules() -> Iterator[tuple[str, ast.Module]]:
    """Yield the name of each module of the rooms, and what it says."""
    for path in (path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if path.stem not in ("__init__", "__main__") and name not in LEFT_OUT:
            yield name, ast.parse(path.read_text(encoding="utf-8"))


@cache
def all_trees() -> dict[str, ast.Module]:
    """What `read_modules` finds; it takes seconds, and only the process that asks has to wait."""
    return dict(read_modules())


@cache
def defining_modules() -> dict[str, list[str]]:
    """Where a name of a function or a class is defined."""
    found: dict[str, list[str]] = {}
    for module, tree in all_trees().items():
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.setdefault(node.name, []).append(module)
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_an_example_calls_what_there_is_with_what_it_takes(room: str) -> None:
    wrong, seen = [], 0
    for name, tree in all_trees().items():
        examples = find_examples(ast.get_docstring(tree, clean=False) or "")
        if not name.startswith(f"{room}.") or not examples:
            continue
        module = importlib.import_module(name)
        for example in examples:
            names = [node for node in ast.walk(example) if isinstance(node, ast.Name)]
            own = {node.id for node in names if isinstance(node.ctx, ast.Store)}
            for call in (node for node in ast.walk(example) if isinstance(node, ast.Call)):
                if not isinstance(call.func, ast.Name) or call.func.id in own:
                    continue
                called = find_called(call.func.id, module, example)
                if called is None and call.func.id not in OF_THE_READER | OF_OTHERS:
                    wrong.append(f"{name}: nothing is called {call.func.id}")
                elif mistake := find_mistake(call, called):
                    wrong.append(f"{name}: {mistake}")
                seen += 1
    assert seen > 20, "the examples were found"
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("example", "mistake"),
    [
        ("find_called('a', 1)", "missing a required argument: 'example'"),
        ("find_called('a', 1, 2, place=3)", "unexpected keyword argument 'place'"),
        ("find_called('a', ..., place=3)", "unexpected keyword argument 'place'"),
        ("find_called('a', ...)", ""),
        ("find_called(*given)", ""),
        ("find_called('a', module, example)", ""),
    ],
)
def test_a_call_that_cannot_be_made_is_found(example: str, mistake: str) -> None:
    (call,) = (node for node in ast.walk(ast.parse(example)) if isinstance(node, ast.Call))
    found = find_mistake(call, find_called)
    assert mistake in found if mistake else not found


def test_only_python_is_an_example() -> None:
    docstring = "Words of a text.\n\n    read(7)\n    make study NAME=cae\n\n    write(7)\n"
    assert [ast.unparse(example) for example in find_examples(docstring)] == ["write(7)"]
