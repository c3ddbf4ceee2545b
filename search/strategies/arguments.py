"""Read names with arguments, as one writes them in Python: ``tpe(n_startup_trials=5)``.

    >>> parse_call("percentile(25.0, n_warmup_steps=2)")
    ('percentile', [25.0], {'n_warmup_steps': 2})

    >>> parse_call("optuna.samplers.TPESampler(seed=42)")
    ('TPESampler', [], {'seed': 42})

Arguments are plain values. Nothing is evaluated.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable
from typing import Any

from search.errors import BadVariable, unknown_name
from storage.errors import short

MODULES = ("optuna.samplers", "samplers", "optuna.pruners", "pruners")


def parse_call(written: str) -> tuple[str, list[Any], dict[str, Any]]:
    """Return the name, the positional and the named arguments; raise `BadVariable`."""
    hint = f"{short(repr(written))} is not NAME or NAME(argument=value, ...) with plain values"
    try:
        node = ast.parse(written.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise BadVariable(hint) from error
    if name := _read_name(node):
        return name, [], {}
    if not isinstance(node, ast.Call) or not (name := _read_name(node.func)):
        raise BadVariable(hint)
    try:
        positional = [ast.literal_eval(argument) for argument in node.args]
        named = {word.arg: ast.literal_eval(word.value) for word in node.keywords if word.arg}
    except (ValueError, TypeError, RecursionError, MemoryError) as error:
        raise BadVariable(hint) from error
    if len(named) < len(node.keywords):
        raise BadVariable(hint)
    return name, positional, named


def check_names(what: str, named: Iterable[str], family: type[Any]) -> None:
    """Raise `BadVariable` for the name of an argument that Optuna's class does not take.

    what: whose arguments they are, as the message begins
    """
    known = [word for word in inspect.signature(family).parameters if word != "goals"]
    for word in named:
        if word not in known:
            raise BadVariable(f"{what}: " + unknown_name("argument", word, known))


def _read_name(node: ast.expr) -> str | None:
    """Return the name that a node is, without the modules of Optuna before it."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and ast.unparse(node.value) in MODULES:
        return node.attr
    return None
